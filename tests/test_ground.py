"""What the project says of itself holds: layers, budgets, shims, units, schemas, pages, and the tests' own guard."""

from __future__ import annotations

import ast
import io
import json
import os
import re
import subprocess
import sys
import tokenize
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import configuration
import pytest
from conftest import REPO
from jsonschema import Draft202012Validator

PACKAGE = REPO / "mqi_scripts"
LAYERS = ("words", "pure", "world", "frame", "verbs")
SIX = ("scan", "push", "submit", "poll", "fetch", "report")
# of the standard library, what needs no clock, disk, network, randomness or logging
PURE = {"collections.abc", "datetime", "fnmatch", "hashlib", "json", "re", "typing"}
BUILTIN_EFFECTS = {"open", "print", "input", "exec", "eval", "__import__"}
METHOD_EFFECTS = {"now", "today", "utcnow", "FileIO", "open_code", "import_module"}


def files_of(layer: str) -> list[Path]:
    return [PACKAGE / "words.py"] if layer == "words" else sorted((PACKAGE / layer).glob("*.py"))


def imports(path: Path) -> Iterator[str]:
    """Full names of what a module imports, wherever it does."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            ours = (node.module or "").split(".")[0] == "mqi_scripts"
            yield from (f"{node.module}.{alias.name}" if ours else str(node.module) for alias in node.names)


@pytest.mark.parametrize("layer", LAYERS)
def test_imports_point_only_downward(layer: str) -> None:
    below = LAYERS[: LAYERS.index(layer) + 1]
    for path in [*files_of(layer), *(files_of("profiles") if layer == "world" else [])]:
        for name in imports(path):
            if name.startswith("mqi_scripts."):
                target = name.split(".")[1].replace("profiles", "world")
                if target in LAYERS:
                    assert target in below, f"{path.name} of {layer} imports {name}"
                else:
                    assert layer in ("frame", "verbs"), f"{path.name} of {layer} imports {name}"


def test_one_verb_does_not_import_another() -> None:
    for path in files_of("verbs"):
        assert not [name for name in imports(path) if name.startswith("mqi_scripts.verbs")]


@pytest.mark.parametrize("path", [*files_of("words"), *files_of("pure"), PACKAGE / "profiles" / "moqui_rules.py"], ids=lambda path: path.name)
def test_pure_modules_touch_no_clock_disk_network_randomness_or_logging(path: Path) -> None:
    foreign = {name for name in imports(path) if not name.startswith("mqi_scripts")}
    assert foreign <= PURE
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            assert node.id not in BUILTIN_EFFECTS, f"{path.name}:{node.lineno}: {node.id}"
        elif isinstance(node, ast.Attribute):
            assert node.attr not in METHOD_EFFECTS, f"{path.name}:{node.lineno}: {node.attr}"
        assert not isinstance(node, ast.Global | ast.Nonlocal)


def code_lines(path: Path) -> int:
    """Lines that are neither blank nor comment nor docstring."""
    source = path.read_text()
    documented = set[int]()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node, clean=False) is not None:
            documented |= set(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    quiet = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    tokens = [token for token in tokenize.generate_tokens(io.StringIO(source).readline) if token.type not in quiet]
    return len({line for token in tokens for line in range(token.start[0], token.end[0] + 1)} - documented)


def needed(name: str) -> set[Path]:
    """A program of the line and every module that it imports, but for the plug-ins: kinds of cases."""
    found, todo = set[Path](), [PACKAGE / "verbs" / f"{name}.py"]
    while todo:
        path = todo.pop()
        if path not in found and "profiles" not in path.parts:
            found.add(path)
            places = [REPO / name.replace(".", "/") for name in imports(path) if name.startswith("mqi_scripts.")]
            todo += [at.with_suffix(".py") for place in places for at in (place, place.parent) if at.with_suffix(".py").exists()]
    return found


def test_the_core_is_small() -> None:
    """What more than one of the line's five programs need; what only one needs is counted with it, a short composition on top."""
    programs = {name: needed(name) for name in SIX if name != "report"}
    times = Counter(path for paths in programs.values() for path in paths)
    core = {path for path, count in times.items() if count > 1}
    assert {PACKAGE / "words.py", PACKAGE / "pure" / "decide.py", PACKAGE / "world" / "ledger.py", PACKAGE / "frame" / "cli.py"} <= core
    assert sum(map(code_lines, core)) < 2000, {path.name: code_lines(path) for path in core}
    own = {name: sum(code_lines(path) for path in paths - core) for name, paths in programs.items()}
    assert max(own.values()) < 175, own
    assert sum(len(path.read_text().splitlines()) for path in (PACKAGE / "far").glob("*.sh")) < 530


def test_the_one_boundary_is_the_only_place_that_catches_everything() -> None:
    broad = []
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ExceptHandler):
                names = {part.id for part in ast.walk(node.type) if isinstance(part, ast.Name)} if node.type else {"everything"}
                if names & {"everything", "Exception", "BaseException"}:
                    broad.append(path.name)
    assert broad == ["cli.py"]


def test_every_public_function_has_a_use() -> None:
    """Delete what nobody calls."""
    whole = {path: path.read_text() for path in [*PACKAGE.rglob("*.py"), REPO / "pyproject.toml"]}
    for path in PACKAGE.rglob("*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                uses = sum(len(re.findall(rf"\b{node.name}\b", text)) for text in whole.values())
                assert uses > 1, f"{path.name}: nobody uses {node.name}"


# --- what is shipped


def project() -> dict[str, str]:
    with (REPO / "pyproject.toml").open("rb") as file:
        scripts: dict[str, str] = tomllib.load(file)["project"]["scripts"]
    return scripts


def test_the_shims_are_the_installed_programs() -> None:
    shims = {path.name for path in (REPO / "bin").iterdir()}
    assert shims == set(project())
    plain = {path.read_text() for path in (REPO / "bin").iterdir() if path.name not in ("mqi-demo", "mqi-init")}
    assert len(plain) == 1
    for name, place in project().items():
        module, _, function = place.partition(":")
        assert (REPO / f"{module.replace('.', '/')}.py").exists()
        assert function == "main"
        assert module.rpartition(".")[2] == name.removeprefix("mqi-")


@pytest.mark.parametrize("path", sorted((REPO / "schemas").glob("*.json")), ids=lambda path: path.name)
def test_every_schema_is_one_and_describes_every_key(path: Path) -> None:
    schema = json.loads(path.read_text())
    Draft202012Validator.check_schema(schema)

    def walk(rule: dict[str, object], where: str) -> None:
        for name, one in (rule.get("properties") or {}).items():  # type: ignore[attr-defined]
            assert "description" in one or "const" in one, f"{path.name}: {where}.{name}"
            walk(one, f"{where}.{name}")
        for key in ("additionalProperties", "items"):
            if isinstance(inside := rule.get(key), dict):
                walk(inside, f"{where}.*")

    walk(schema, "")
    if path.name.startswith("config"):
        for table, key, rule in ((t, k, r) for t in ("site", "scan", "job", "retry", "breaker", "schedule", "report", "notify", "log") for k, r in schema["properties"][t]["properties"].items()):
            assert rule["examples"], f"{table}.{key}"


def test_the_schema_of_events_knows_the_words() -> None:
    from mqi_scripts.pure.codec import TYPES

    schema = json.loads((REPO / "schemas" / "event.schema.json").read_text())
    kinds = {rule["properties"]["type"]["const"]: rule for rule in schema["oneOf"]} if "oneOf" in schema else {}
    kinds = kinds or {rule["properties"]["type"]["const"]: rule for rule in schema["anyOf"]}
    assert set(kinds) == set(TYPES)
    for name, kind in TYPES.items():
        assert set(kinds[name]["required"]) == set(kind._fields) - {"case", "at"} - set(kind._field_defaults), name
        assert set(kinds[name]["properties"]) == set(kind._fields) - {"case", "at"} | {"type"}, name


def test_the_page_of_the_configuration_is_that_of_its_schema() -> None:
    schema = json.loads((REPO / "schemas" / "config.schema.json").read_text())
    assert (REPO / "docs" / "configuration.md").read_text() == configuration.page(schema), "python tests/configuration.py"


def test_no_registry_and_no_path_of_this_machine_is_named() -> None:
    hosts = ["py" + "pi.org", "python" + "hosted", "crates" + ".io", "npm" + "js", "deb." + "debian", "maven" + ".org", "js" + "delivr", "un" + "pkg"]
    words = [*hosts, str(REPO) + "/", "/work/" + "main", "/work/" + "shared"]
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=REPO, capture_output=True, text=True, check=True)
    for name in listed.stdout.splitlines():
        text = (REPO / name).read_text(errors="replace") if (REPO / name).is_file() else ""
        assert not [word for word in words if word in text], name


def test_the_ci_runs_the_one_test_command() -> None:
    assert "/../tests/run\"" in (REPO / ".ci" / "run").read_text()
    assert "tests/run" in (REPO / "README.md").read_text()


# --- the tests' own guard


@pytest.mark.parametrize(
    ("body", "ends"), [("pass", 0), ("(Path(home) / '.ssh' / 'x').write_text('x')", 1), ("(Path(home) / '.config' / 'mqi').mkdir()", 1)]
)
def test_the_guard_fails_a_test_that_touches_the_real_home(body: str, ends: int, tmp_path: Path) -> None:
    home = tmp_path / "real"
    (home / ".ssh").mkdir(parents=True)
    (home / ".config").mkdir()
    (tmp_path / "test_it.py").write_text(f"from pathlib import Path\nhome = {str(home)!r}\ndef test_it():\n    {body}\n")
    env = {**os.environ, "PYTHONPATH": str(REPO / "tests"), "MQI_REAL_HOME": str(home)}
    argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "conftest", "--rootdir", str(tmp_path), "test_it.py"]
    ran = subprocess.run(argv, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert ran.returncode == ends, ran.stdout
    assert ("it must use its own folders" in ran.stdout) == bool(ends)


def test_a_default_configuration_is_out_of_reach() -> None:
    assert os.environ["HOME"] != os.environ.get("MQI_REAL_HOME")
    assert "MQI_CONFIG" not in os.environ
