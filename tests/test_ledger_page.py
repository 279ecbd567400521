"""docs/ledger.md tells enough: a reader written from that page alone reads what the suite wrote, and finds what is damaged."""

from __future__ import annotations

import gzip
import json
from hashlib import sha256
from pathlib import Path

import events
import pytest
from conftest import REPO, Place, host_text

from mqi_scripts import words as w
from mqi_scripts.care import verify
from mqi_scripts.pure import codec
from mqi_scripts.world.ledger import Ledger

AT = "2026-11-24T08:00:00.000Z"


def read(state: Path) -> tuple[list[dict], int, str]:
    """The records, and the head: number and digest of the last line. ValueError with the number of the first wrong line."""
    names = {path.name.removesuffix(".gz") for path in state.glob("ledger-*.jsonl*") if path.name.endswith((".jsonl", ".jsonl.gz"))}
    records, seq, digest = [], 0, "0" * 64
    for name in sorted(names):
        plain = state / name
        content = plain.read_bytes() if plain.exists() else gzip.decompress((state / f"{name}.gz").read_bytes())
        for line in content.split(b"\n")[:-1]:  # what stands behind the last newline is not there yet
            try:
                record, own = json.loads(line), sha256(line[:-77] + b"}").hexdigest()
            except ValueError:
                raise ValueError(f"line {seq + 1} is no JSON") from None
            lost = record["type"] == "lost"
            if line[-77:] != f',"sha256":"{own}"}}'.encode() or record["prev"] != digest:
                raise ValueError(f"line {seq + 1} is not what it was, or the one before it")
            if record["seq"] != (record["upto"] if lost else seq + 1) or record["seq"] <= seq:
                raise ValueError(f"line {seq + 1} is missing")
            records.append(record)
            seq, digest = record["seq"], record["digest"] if lost else own
    return records, seq, digest


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """What the suite writes in two years, with a repair and a rebuild between, hostile names, and a torn line."""
    place = Place(tmp_path_factory.mktemp("page") / "site", host_text("local", "direct", "scp", None, None), 'cp "$MQI_INPUT/plan.txt" plan.out')
    for name in ("a", "b", "한글 ^ name", "held"):
        place.case(name)
    (place.inbox / "held" / "link").symlink_to("/etc/passwd")
    place.until("completed", "held")
    first = next(place.state.glob("ledger-*.jsonl"))
    lines = first.read_bytes().splitlines(keepends=True)
    lines[3] = lines[3][:50] + b"?" + lines[3][51:]
    first.write_bytes(b"".join(lines))
    assert place("mqi-ledger", "repair", "--reason", "a page").code == 0
    first.rename(place.state / "ledger-2019.jsonl")
    (place.state / "cache" / "fold").unlink(missing_ok=True)
    place.case("c")
    place("mqi-scan")
    assert place("mqi-ledger", "compress").code == 0
    second = next(place.state.glob("ledger-*.jsonl"))
    second.write_bytes(second.read_bytes() + b'{"v":1,"seq":99')
    return place


def test_a_reader_of_the_page_reads_what_the_suite_wrote(written: Place) -> None:
    records, seq, digest = read(written.state)
    book = Ledger(str(written.state), {})
    ours = [record for record, _ in book.records()]
    assert records == ours
    assert w.Head(seq, digest) == book.state().head
    assert {"opened", "lost", "repaired", "completed", "held"} <= {record["type"] for record in records}
    assert [path.suffix for path in sorted(written.state.glob("ledger-2*"))].count(".gz") == 1


def test_a_key_and_a_manifest_are_what_the_page_says(written: Place) -> None:
    records, _, _ = read(written.state)
    ledger, found = records[0]["id"], [record for record in records if record["type"] == "found"]
    assert found
    for record in found:
        assert record["case"] == sha256(ledger.encode() + b"\0" + record["path"].encode("utf-8", "surrogateescape")).hexdigest()[:20]
        text = (written.state / "manifests" / f"{record['case']}-{record['digest']}").read_bytes()
        assert sha256(text).hexdigest() == record["digest"]
        assert text == b"".join(sorted(text.splitlines(keepends=True), key=lambda line: line[66:]))


def test_the_head_stands_on_the_compute_host_as_the_page_says(written: Place) -> None:
    records, _, _ = read(written.state)
    ledger, seq, digest = (written.root / "ledger").read_text().split()
    heads = {(record["seq"], record["sha256"]) for record in records} | {(record["upto"], record["digest"]) for record in records if "upto" in record}
    assert ledger == records[0]["id"]
    assert (int(seq), digest) in heads


def test_that_reader_finds_every_kind_of_damage(tmp_path: Path) -> None:
    book = Ledger(str(tmp_path), {"script": "t", "host": "h", "pid": 1, "user": "u"})
    (tmp_path / "cache").mkdir()
    book.append([w.Found(f"{number:020x}", AT, str(number), "held:x", 1, 1) for number in range(20)], AT)
    path = tmp_path / "ledger-2026.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    assert read(tmp_path)[1:] == tuple(book.state().head)
    for damaged in (lines[:4] + lines[5:], lines[:4] + [lines[5], lines[4]] + lines[6:], [*lines[:5], *lines[4:]], lines[1:],
                    [*lines[:4], lines[4].replace(b'"files":1', b'"files":2'), *lines[5:]], [*lines[:4], b"{}\n", *lines[4:]]):  # fmt: skip
        path.write_bytes(b"".join(damaged))
        with pytest.raises((ValueError, KeyError)):
            read(tmp_path)
    gap, _ = codec.line(w.Lost("", AT, 5, json.loads(lines[5])["prev"], "x"), w.Head(4, json.loads(lines[3])["sha256"]), {})
    path.write_bytes(b"".join([*lines[:4], gap, *lines[5:]]))
    assert read(tmp_path)[1] == 21


def test_the_table_of_events_is_that_of_the_schema() -> None:
    schema = json.loads((REPO / "schemas" / "event.schema.json").read_text())
    text = events.PAGE.read_text()
    assert text == events.page(text, schema), "python tests/events.py"
    for kind in codec.TYPES:
        assert f"| `{kind}` |" in text
    for field in ("v", "seq", "type", "case", "at", "by", "prev", "sha256"):
        assert f"| `{field}` |" in text


def test_the_page_names_the_files_that_there_are(written: Place) -> None:
    text = events.PAGE.read_text()
    for path in written.state.iterdir():
        name = path.name
        patterns = {"ledger-2": "ledger-<year>.jsonl", "ledger.": ".".join(name.split(".")[:2]), "run.": "run.*"}
        wanted = next((word for start, word in patterns.items() if name.startswith(start)), f"{name}/")
        assert wanted in text, name


def test_a_ledger_of_the_first_version_is_read_for_ever(tmp_path: Path) -> None:
    """tests/data/ledger-v1.jsonl was written once and is never written again. A new type of event adds lines behind its end."""
    (tmp_path / "ledger-2026.jsonl").write_bytes((REPO / "tests" / "data" / "ledger-v1.jsonl").read_bytes())
    records, seq, digest = read(tmp_path)
    assert {record["type"] for record in records} == set(codec.TYPES), "a new type of event needs a line there"
    story = verify.read(Ledger(str(tmp_path), {}))
    assert story.trouble == []
    assert story.head == w.Head(seq, digest)
    assert [record["sha256"][:8] for record in records if record["seq"] == 65] == ["208f5895"]
    assert story.id == "0123456789abcdef"
    assert story.roots == {"gpu1": "/data/mqi"}
    assert story.lost == [(38, 60, "gpu1 was shown line 60; rebuild: disk lost")]
    stand = {key[0]: (case.status, case.attempt, case.path) for key, case in story.cases.items()}
    assert stand == {"a": ("submitted", 4, "study/1"), "b": ("pushed", 1, "study/2/20261101_a"), "c": ("cancelled", 0, "\udcff \u202e=1+1"),
                     "d": ("cancelled", 2, "study/4/20261102_b")}  # fmt: skip
    (tmp_path / "cache").mkdir()
    assert Ledger(str(tmp_path), {}).cases() == story.cases
