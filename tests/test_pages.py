"""Man pages and completions, as the real man, bash, zsh and fish take them: every option of every parser, case ids, statuses, hosts."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
from conftest import REPO, Place, need
from test_config import SCHEMA, keys
from test_ground import project

from mqi_scripts import words as w
from mqi_scripts.install import completion, man
from mqi_scripts.install.programs import Item, programs

NAMES = sorted(project())
README_EXITS = re.findall(r"^\| (\d+) \| (.+) \|$", (REPO / "README.md").read_text(), re.M)


@pytest.fixture(scope="module")
def share(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("share")
    for file in [*man.files(str(folder)), *completion.files(str(folder))]:
        Path(file.path).parent.mkdir(parents=True, exist_ok=True)
        Path(file.path).write_text(file.text)
    return folder


PROGRAMS = {program.name: program for program in programs()}


def items(name: str) -> list[Item]:
    return [item for command in PROGRAMS[name].commands for item in command.items]


def rendered(path: Path) -> str:
    ran = subprocess.run([need("man"), "--warnings", "-l", "-E", "UTF-8", "-P", "cat", str(path)], capture_output=True, text=True,
                         env={"PATH": os.environ["PATH"], "MANWIDTH": "500", "LC_ALL": "C.UTF-8"})  # fmt: skip
    assert ran.stderr == "", ran.stderr
    return re.sub(r" +", " ", re.sub(r".\x08", "", ran.stdout))


def test_every_program_has_its_pages(share: Path) -> None:
    assert set(PROGRAMS) == set(NAMES)
    assert {path.name for path in (share / "man/man1").iterdir()} == {f"{name}.1" for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_a_man_page_has_all_that_help_has_and_man_finds_no_fault(name: str, share: Path) -> None:
    text = rendered(share / "man/man1" / f"{name}.1")
    plain = re.sub(r"\s+", " ", text)
    assert f"{name} - " in plain
    for item in items(name):
        for word in (*item.flags, *([] if item.flags else [item.takes])):
            assert re.search(rf"(^|[ ,]){re.escape(word)}\b", text, re.M), word
        assert re.sub(r"\s+", " ", item.help) in plain
    examples = (PROGRAMS[name].parse.epilog or "").partition("examples:\n")[2].splitlines()
    assert len(examples) >= 3
    for line in examples:
        assert line.strip().partition("  ")[0] in plain
    for code, what in README_EXITS:
        assert f"{code} {what}" in plain


def test_the_page_of_the_configuration_has_every_key(share: Path) -> None:
    text = rendered(share / "man/man5/mqi.toml.5")
    plain = re.sub(r"\s+", " ", text)
    for table, key, rule in keys():
        assert f"[{table.replace('gpu1', 'NAME')}]" in text
        assert re.search(rf"^ *{key} \(", text, re.M), f"{table}.{key}"
        assert re.sub(r"\s+", " ", rule["description"]) in plain


def test_the_exit_codes_are_those_of_the_readme() -> None:
    assert [(str(code), what) for code, what in man.EXITS] == README_EXITS


def test_what_a_sign_means_to_man_is_lost_on_the_way() -> None:
    for text in (".TH evil", "'br", "back\\slash \\fB", 'a "quote" -- `x` ^~'):
        path = Path(os.environ["HOME"]) / "x.1"
        path.write_text(f'.TH X 1 "" "" ""\n.SH NAME\n{man.roff(text)}\n')
        assert text in rendered(path)


# --- completion


def in_bash(share: Path, line: str, **env: str) -> set[str]:
    words = line.split(" ")
    script = (f"source {share}/bash-completion/completions/{words[0]}; COMP_WORDS=({' '.join(map(repr, words))}); COMP_CWORD={len(words) - 1}; "
              f'_{words[0].replace("-", "_")}; printf "%s\\n" "${{COMPREPLY[@]}}"')  # fmt: skip
    ran = subprocess.run([need("bash"), "--norc", "-c", script], capture_output=True, text=True, env={**os.environ, **env})
    assert ran.stderr == ""
    return set(ran.stdout.split())


def in_fish(share: Path, line: str, **env: str) -> set[str]:
    script = f"source {share}/fish/vendor_completions.d/{line.split(maxsplit=1)[0]}.fish; complete -C '{line}'"
    ran = subprocess.run([need("fish"), "--no-config", "-c", script], capture_output=True, text=True, env={**os.environ, **env})
    assert ran.stderr == ""
    return {found.split("\t")[0] for found in ran.stdout.splitlines()}


ZSH = r"""
zmodload zsh/zpty
zpty -b z zsh -f -i
zpty -w z "PS1=; unsetopt zle_bracketed_paste; fpath=($SHARE/zsh/site-functions \$fpath); autoload -U compinit; compinit -u -D"
zpty -w z "comppostfuncs=(); TRAPEXIT() {}; zstyle ':completion:*' list-colors 'no=<C>' 'ec=</C>'; LISTMAX=9999; stty columns 250 rows 500"
zpty -w z "null-line () { :; }; zle -N null-line; bindkey '^M' null-line; bindkey '^I' list-choices; echo READY"
zpty -r -m z out '*READY*READY*'
zpty -n -w z "$LINE"$'\t'
sleep 1.5
zpty -r -t z out
while zpty -r -t z more; do out+=$more; done
print -r -- "$out"
zpty -d z
"""


def in_zsh(share: Path, line: str, **env: str) -> str:
    ran = subprocess.run([need("zsh"), "-f", "-c", ZSH], capture_output=True, text=True, errors="replace", timeout=60,
                         env={**os.environ, "SHARE": str(share), "LINE": line, "TERM": "xterm", **env})  # fmt: skip
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", ran.stdout)


def flags_of(name: str, command: str = "") -> set[str]:
    found = next(one for one in PROGRAMS[name].commands if one.command == command)
    return {flag for item in found.items for flag in item.flags if flag.startswith("--")}


@pytest.mark.parametrize("name", NAMES)
def test_bash_and_fish_offer_every_option_and_command(name: str, share: Path) -> None:
    commands = {one.command for one in PROGRAMS[name].commands[1:]}
    assert flags_of(name) <= in_bash(share, f"{name} -")
    assert flags_of(name) <= in_fish(share, f"{name} -")
    assert commands <= in_bash(share, f"{name} ")
    assert commands <= in_fish(share, f"{name} ")
    for command in commands:
        assert flags_of(name, command) <= in_bash(share, f"{name} {command} -")
        assert flags_of(name, command) <= in_fish(share, f"{name} {command} -")


@pytest.mark.parametrize("name", NAMES)
def test_zsh_takes_every_file_and_finds_no_fault(name: str, share: Path) -> None:
    assert subprocess.run([need("zsh"), "-n", str(share / "zsh/site-functions" / f"_{name}")], capture_output=True, text=True).stderr == ""


@pytest.mark.parametrize("line", ["mqi-scan --", "mqi-report --", "mqi-case release 3 --", "mqi-init --"])
def test_zsh_offers_every_option(line: str, share: Path) -> None:
    name, *rest = line.split()
    said = in_zsh(share, line)
    for flag in flags_of(name, rest[0] if len(rest) > 1 else ""):
        assert flag in said


def test_statuses_are_offered_also_behind_a_comma(share: Path) -> None:
    assert in_bash(share, "mqi-report --status ") == set(w.STATUSES)
    assert in_bash(share, "mqi-report --status held,fa") == {"held,failed"}
    assert set(w.STATUSES) <= in_fish(share, "mqi-report --status ")
    assert "held,failed" in in_fish(share, "mqi-report --status held,fa")
    assert all(word in in_zsh(share, "mqi-report --status ") for word in ("held", "cancelled"))


def test_choices_files_and_folders_are_offered(share: Path, tmp_path: Path) -> None:
    (tmp_path / "some.toml").touch()
    (tmp_path / "some.d").mkdir()
    assert in_bash(share, "mqi-init --existing ") == {"work", "history"}
    assert in_bash(share, f"mqi-scan --config {tmp_path}/so") == {f"{tmp_path}/some.toml", f"{tmp_path}/some.d"}
    assert in_bash(share, f"mqi-init --prefix {tmp_path}/so") == {f"{tmp_path}/some.d"}
    assert f"{tmp_path}/some.toml" in in_fish(share, f"mqi-scan --config {tmp_path}/so")


def test_case_ids_are_offered_from_the_site_and_none_where_it_may_not_be_read(share: Path, local_place: Place) -> None:
    for name in ("one", "two"):
        local_place.case(name)
    local_place("mqi-scan")
    ids = {row["case_id"] for row in local_place.rows().values()}
    site = {"MQI_CONFIG": str(local_place.config), "PATH": f"{REPO}/.venv/bin:{os.environ['PATH']}"}
    assert ids <= in_bash(share, "mqi-push ", **site)
    assert ids <= in_bash(share, "mqi-case show ", **site)
    assert ids <= in_fish(share, "mqi-push ", **site)
    assert ids <= in_fish(share, "mqi-case show ", **site)
    assert all(one in in_zsh(share, "mqi-push ", **site) for one in ids)
    nobody = {**site, "MQI_CONFIG": "/nowhere"}
    assert not ids & in_bash(share, "mqi-push ", **nobody)


def test_host_names_are_offered_from_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "mqi.toml").write_text('[site]\n[hosts.gpu1]\n[hosts.gpu1.pueue]\n[hosts.gpu_2]\n')
    ran = subprocess.run(["sh", "-c", completion.HOSTS], capture_output=True, text=True, env={**os.environ, "MQI_CONFIG": str(tmp_path / "mqi.toml")})
    assert ran.stdout.split() == ["gpu1", "gpu_2"]


def test_the_schema_s_tables_are_the_page_s() -> None:
    text = man.man_of_configuration(SCHEMA, NAMES)
    assert len(re.findall(r"^\.TP$", text, re.M)) >= len(list(keys()))
