"""Every key of the configuration: missing, misspelt, mistyped; and what a tick costs that has checked it before."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import REPO, Place

from mqi_scripts.words import Configuration
from mqi_scripts.world import config

SCHEMA = json.loads((REPO / "schemas" / "config.schema.json").read_text())
HOST = SCHEMA["properties"]["hosts"]["additionalProperties"]
TABLES = {name: rule for name, rule in SCHEMA["properties"].items() if name != "hosts"} | {"hosts.gpu1": HOST}
TABLES |= {f"hosts.gpu1.{name}": rule for name, rule in HOST["properties"].items() if "properties" in rule}


def keys() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(table, key, rule) of every key that is a value."""
    for table, rule in TABLES.items():
        for key, one in rule["properties"].items():
            if "properties" not in one and "additionalProperties" not in one:
                yield table, key, one


def written(values: dict[tuple[str, str], Any]) -> str:
    """TOML with the example of every key, but for these values; a key whose value is None is left out."""
    text = ""
    for table in TABLES:
        text += f"[{table}]\n"
        for where, key, rule in keys():
            value = values.get((table, key), rule["examples"][0])
            if where == table and value is not None:
                text += f"{key} = {json.dumps(value)}\n"
        text += values.get((table, ""), "")
    return text


def load(folder: Path, text: str) -> config.Site:
    path = folder / "mqi.toml"
    path.write_text(text.replace("/var/lib/mqi", str(folder / "state")))
    return config.load(str(path), {})


ALL = [pytest.param(table, key, rule, id=f"{table}.{key}") for table, key, rule in keys()]


def test_the_examples_of_all_keys_are_a_configuration(tmp_path: Path) -> None:
    site = load(tmp_path, written({}))
    assert (site.name, site.scan.quiet, site.job.time_limit, site.hosts[0].name) == ("G1", 900.0, 86400.0, "gpu1")
    assert len(ALL) > 35


@pytest.mark.parametrize(("table", "key", "rule"), ALL)
def test_a_missing_key_has_its_default_or_is_named(table: str, key: str, rule: dict[str, Any], tmp_path: Path) -> None:
    text = written({(table, key): None})
    needed = key in TABLES[table].get("required", ()) or (key == "address" and "transport" in text and '"local"' not in text)
    if not needed:
        assert "default" in rule
        load(tmp_path, text)
        return
    with pytest.raises(Configuration, match=f"{table}.{key} is missing: ") as caught:
        load(tmp_path, text)
    assert rule["description"] in str(caught.value)


def test_an_ssh_host_needs_its_address(tmp_path: Path) -> None:
    with pytest.raises(Configuration, match=r"hosts\.gpu1\.address is missing: user@host"):
        load(tmp_path, written({("hosts.gpu1", "transport"): None, ("hosts.gpu1", "address"): None}))


@pytest.mark.parametrize(("table", "key", "rule"), ALL)
def test_a_misspelt_key_is_named_with_the_nearest_known_one(table: str, key: str, rule: dict[str, Any], tmp_path: Path) -> None:
    value = json.dumps(rule["examples"][0])
    with pytest.raises(Configuration) as caught:
        load(tmp_path, written({(table, ""): f"{key}x = {value}\n"}))
    assert f"{table}.{key}x is no key of this file: did you mean {key}?" in str(caught.value)
    assert caught.value.code == 78
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize(("table", "key", "rule"), ALL)
def test_a_mistyped_value_is_named_with_an_example(table: str, key: str, rule: dict[str, Any], tmp_path: Path) -> None:
    for wrong in (True, [3], -1.5, "\n"):
        if wrong == "\n" and (rule.get("type") != "string" or "pattern" not in rule):
            continue
        if wrong is True and rule.get("type") == "boolean":
            continue
        with pytest.raises(Configuration) as caught:
            load(tmp_path, written({(table, key): wrong}))
        assert f"{table}.{key}" in str(caught.value)
        assert "for example " in str(caught.value) or isinstance(wrong, list)


@pytest.mark.parametrize("text", ["", "[site", "site = 3\n", "\x00", '[hosts."../up"]\nroot = "/r"\n', "[hosts]\n", "x = 1979-05-27T07:32:00Z\n"])
def test_what_is_no_configuration_is_named_with_the_next_command(text: str, tmp_path: Path) -> None:
    with pytest.raises(Configuration) as caught:
        load(tmp_path, text)
    assert str(tmp_path / "mqi.toml") in str(caught.value)
    assert "mqi-check --config" in str(caught.value)


def test_all_faults_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(Configuration) as caught:
        load(tmp_path, written({("scan", "quiet"): "soon", ("site", "state"): None, ("job", ""): "comand = 'x'\n"}))
    said = str(caught.value)
    assert all(part in said for part in ("scan.quiet", "site.state is missing", "job.comand is no key", "did you mean command?"))


def test_a_file_that_is_not_there_or_not_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(Configuration, match=r"none\.toml.*--config FILE"):
        config.load(str(tmp_path / "none.toml"), {})
    with pytest.raises(Configuration, match="/etc/mqi/mqi.toml"):
        config.load(None, {})
    with pytest.raises(Configuration, match=r"other\.toml"):
        config.load(None, {"MQI_CONFIG": str(tmp_path / "other.toml")})
    (tmp_path / "latin.toml").write_bytes(b"[site]\nname = '\xe9'\n")
    with pytest.raises(Configuration, match="latin"):
        config.load(str(tmp_path / "latin.toml"), {})


def test_a_date_may_be_written_as_one(tmp_path: Path) -> None:
    assert load(tmp_path, written({}).replace('"2026-01-01"', "2026-01-01")).scan.not_before == "2026-01-01"


def test_the_design_s_configuration_is_one(tmp_path: Path) -> None:
    """All keys of the contract but those of later issues, as the design prints them."""
    text = """
[site]
name    = "G1"
inbox   = "/srv/mqi/inbox"
results = "/srv/mqi/results"
state   = "/var/lib/mqi"
[scan]
cases   = "*"
profile = "files"
quiet   = "15m"
ready_marker = "_CASE_READY"
ignore  = ["*.extracting", "*.zip.tmp", "*.backup.*", "extract_*.tmp", "Thumbs.db", "desktop.ini", ".DS_Store"]
not_before = "2026-01-01"
watch   = "30d"
[job]
command = 'cd /opt/moqui && ./compute "$MQI_INPUT" "$MQI_OUTPUT"'
results = ["Dose/*_Dose.dcm"]
time_limit = "24h"
version_command = "/opt/moqui/compute --version"
[hosts.gpu1]
transport = "ssh"
address   = "mqi@192.0.2.5"
port      = 22
ssh_config = "/etc/mqi/ssh_config"
root      = "/data/mqi"
transfer  = "scp"
engine    = "pueue"
groups    = ["gpu*"]
queue_depth = 2
keep      = "30d"
[hosts.gpu1.pueue]
command = "/home/mqi/.cargo/bin/pueue"
config  = "/etc/pueue/pueue.yml"
[hosts.gpu1.devices]
gpu0 = ["0"]
[hosts.gpu1.direct]
slots = 1
"""
    site = load(tmp_path, text)
    assert site.hosts[0].devices == {"gpu0": ["0"]}
    assert site.hosts[0].pueue == {"command": "/home/mqi/.cargo/bin/pueue", "config": "/etc/pueue/pueue.yml"}


def test_what_was_checked_is_not_checked_again(local_place: Place) -> None:
    code = (
        "import sys\nfrom mqi_scripts.world import config\n"
        "site = config.load(sys.argv[1], {})\nprint('jsonschema' in sys.modules, 'tomllib' in sys.modules, site.name)"
    )

    def loaded() -> str:
        argv = [sys.executable, "-c", code, str(local_place.config)]
        return subprocess.run(argv, cwd=REPO, capture_output=True, text=True, check=True).stdout.strip()

    assert loaded() == "True True T"
    local_place("mqi-scan")
    loaded()
    assert loaded() == "False False T"
    local_place.config.write_text(local_place.config.read_text().replace('name = "T"', 'name = "U"'))
    assert loaded() == "True True U"
    assert loaded() == "False False U"
