"""mqi-scan - find the cases in the inbox: what is quiet and whole is found, what cannot be carried is held

Looks at every folder that scan.cases matches. A folder is judged once two looks at names, sizes, mtimes and ctimes,
scan.quiet apart, are equal; its content is hashed then.

examples:
  mqi-scan                              what the timer runs
  mqi-scan --jsonl | mqi-push --jsonl - the pipeline
  mqi-scan --accept-empty               the inbox was emptied on purpose
"""

import os
import time
from datetime import UTC, datetime
from typing import Any

from mqi_scripts import __version__, profiles
from mqi_scripts import words as w
from mqi_scripts.frame import cli
from mqi_scripts.pure import codec, decide, readers
from mqi_scripts.world import files, folder

DAY = 86400.0
LARGE = 1 << 30  # bytes of a held folder that is not read for its digest
WHILE = 5.0  # seconds after which a long scan records what it found, and remembers what it read


def work(run: cli.Run) -> None:
    site, memo_file = run.site, os.path.join(run.site.state, "cache", "scan")
    if lack := profiles.missing(site.scan.profile):
        raise w.Configuration(lack)
    try:
        paths = folder.candidates(site.inbox, site.scan.cases, site.scan.ignore)
    except OSError as error:
        raise w.Unreachable(f"the inbox {site.inbox} cannot be read ({error.strerror}): is it mounted? See: mqi-check") from None
    if not run.args.dry_run:
        run.book.append([], run.now())  # a new ledger gets its id, which every key needs
    words, ledger, memo = [*run.named()], run.book.state().id, files.read_note(memo_file)
    under = codec.sha256(repr((ledger, __version__, site.scan)).encode())  # what a folder's cases are read by
    known = {path: one if (one := memo.get(path, {})).get("under") == under else one | {"settled": ""} for path in paths}
    last = {path: known[path].get("key", (None, "")) for path in paths}  # known ones are not hashed again
    keys = {path: str(key) if of == ledger else codec.key(ledger, path) for path, (of, key) in last.items()}
    own = {path: {*known[path].get("parts", {}).values()} or {keys[path]} for path in paths}
    chosen = [p for p in paths if not run.args.case or p in words or any(k.startswith(tuple(words)) for k in {keys[p], *own[p]})]
    if words and not chosen:
        raise w.Usage(f"no folder in {site.inbox} is, or has the id of, {' '.join(words)}. See: mqi-report")
    cases = run.book.state().open
    settled = {path for path in paths if known[path].get("settled") == known[path].get("sign", "-")}
    if memo.keys() - set(paths) or any(own[path] - cases.keys() for path in paths if path not in settled):
        cases = run.book.cases()
    if not paths and any(not case.gone for case in cases.values()) and not run.args.accept_empty:
        raise w.Unreachable(
            f"the inbox {site.inbox} is empty, and it was not: a lost mount? Nothing was recorded. Mount it; if it was emptied "
            "on purpose: mqi-scan --accept-empty"
        )
    by_folder: dict[str, dict[str, w.Case]] = {}
    for case in cases.values():
        by_folder.setdefault(case.folder, {})[case.key] = case
    twins: dict[str, str] = {}
    gone = [case for case in cases.values() if case.folder not in known] if not run.args.case else []
    events, since = [event for case in gone if (event := decide.scan(case.key, case, None, "", "", run.now()))], time.monotonic()
    for path in chosen:
        with run.isolated():
            known[path], found = judge(run, path, known[path], by_folder.get(path, {}), twins)
            known[path] |= {"key": [ledger, keys[path]], "under": under}
            events += found
        if time.monotonic() - since > WHILE:
            remember(run, memo_file, known, events)
            events, since = [], time.monotonic()
    remember(run, memo_file, known, events)
    run.note["arriving"] = [path for path, entry in known.items() if entry.get("arriving")]


def remember(run: cli.Run, memo_file: str, known: dict[str, Any], events: list[w.Event]) -> None:
    """The ledger first: what is lost of the memory is read again."""
    run.record(events)
    if not run.args.dry_run:
        files.write_note(memo_file, known)


def judge(
    run: cli.Run, path: str, memo: dict[str, Any], mine: dict[str, w.Case], twins: dict[str, str]
) -> tuple[dict[str, Any], list[w.Event]]:
    """The scan's memory of one folder, and what there is to record of its cases (mine: the known ones by key)."""
    done = min((case.completed for case in mine.values()), default=memo.get("done", ""))
    age = time.time() - datetime.fromisoformat(done).timestamp() if done else 0
    if age > run.site.scan.watch and abs(time.time() - memo.get("watched", 0.0)) < DAY:
        return memo, []
    entry, quiet = look(run, path, memo, mine)
    entry["done"] = done
    if not quiet:
        return entry, []
    events, now = list[w.Event | None](), run.now()
    for one in entry["cases"]:
        key, digest = one["key"], one["digest"]
        if digest and not twins:
            others = run.book.cases().values()
            twins.update({one.digest: one.key for one in others if one.digest and (one.attempt or not one.gone)})
        twin = twins.setdefault(digest, key) if digest else key
        what = difference(run.site.state, mine[key], digest) if key in mine and digest not in ("", mine[key].digest) else ""
        reasons = tuple(w.Reason(*reason) for reason in one["reasons"])
        where = os.path.join(path, one["part"]) if one["part"] else path
        sight = decide.Sight(where, reasons, digest, one["files"], one["bytes"], what, one["part"], one["facts"])
        twin = "" if twin == key else twin[: w.ID]
        events.append(decide.scan(key, mine.get(key), sight, twin, run.site.scan.late_data, now))
    here = {one["key"] for one in entry["cases"]}
    events += [decide.scan(key, case, None, "", "", now) for key, case in mine.items() if case.part and key not in here]
    split = [case for key, case in mine.items() if not case.part and case.status == w.HELD and here and key not in here]
    events += [w.Asked(case.key, now, w.CANCEL, "its fractions are cases of their own now", run.name) for case in split]
    entry["parts"] = {one["part"]: one["key"] for one in entry["cases"] if one["part"]}
    if not any(events) and all(case.status in w.CLOSED for case in mine.values()):
        entry["settled"] = entry["sign"]  # nothing to tell of this content: it need not be remembered
        del entry["cases"]
    return entry, [event for event in events if event]


def look(run: cli.Run, path: str, memo: dict[str, Any], mine: dict[str, w.Case]) -> tuple[dict[str, Any], bool]:
    """One look at a folder, and whether it is quiet; then its cases are in the entry, unread where it can be told from the last.

    Quiet time is counted from boot, not by a clock that jumps: behind a reboot it is less than the true time, never more.
    """
    scan, top = run.site.scan, os.path.join(run.site.inbox, path)
    now = time.clock_gettime(time.CLOCK_BOOTTIME)
    try:
        seen = folder.look_at(run.site, path)
    except PermissionError as error:
        text = f"it cannot be read: {error.strerror} (chmod, or the account that runs mqi-scan)"
        seen = folder.Folder({}, "unreadable", 0, (w.Reason("unreadable", "", text),))
    except FileNotFoundError:
        return memo, False  # it went while we looked: the next scan says so
    except OSError as error:
        raise w.Unreachable(f"{error.strerror}: {top!r}: nothing is known of it now") from None
    if not mine and memo.get("settled"):  # it was closed and still, so that nobody asked for its cases
        if memo["settled"] == seen.sign:
            return memo | {"watched": time.time(), "arriving": False}, False
        mine.update({case.key: case for case in run.book.cases().values() if case.folder == path})
    same = memo if memo.get("sign") == seen.sign else {}
    entry = {"sign": seen.sign, "since": min(same.get("since", now), now), "first": min(memo.get("first", now), now),
             "settled": same.get("settled", ""), "watched": time.time(), "parts": memo.get("parts", {})}  # fmt: skip
    early = all(case.status == w.HELD for case in mine.values())
    reasons = seen.reasons or fault(path, seen, scan.not_before if early else "")
    ready = not scan.ready_marker or any(os.path.lexists(os.path.join(at, scan.ready_marker)) for at in (top, os.path.dirname(top)))
    if not ready or now - entry["since"] < scan.quiet or not (seen.sizes or reasons):
        entry["arriving"] = True
        if mine or now - entry["first"] < scan.arriving_limit:
            return entry, False
        reasons = (w.Reason("arriving", "", "it has been arriving for longer than scan.arriving_limit"),)
    if reasons:
        contents = [profiles.Content(case.part, (), (), reasons, {}) for case in mine.values()]
        contents = contents or [profiles.Content("", (), (), reasons, {})]
        return {**entry, "cases": [remembered(run, path, one, "", seen) for one in contents]}, True
    return read(run, path, seen, entry, same, mine)


def read(
    run: cli.Run, path: str, seen: folder.Folder, entry: dict[str, Any], same: dict[str, Any], mine: dict[str, w.Case]
) -> tuple[dict[str, Any], bool]:
    """The cases of a quiet folder as its profile reads them, with their digests; as last time, if nothing changed since."""
    scan, top = run.site.scan, os.path.join(run.site.inbox, path)
    parts, picked = [case.part for case in mine.values()], sorted({part for case in mine.values() for part in case.chosen})
    rules = [__version__, scan.profile, scan.fractions, scan.fraction_gap, scan.late_data, picked]
    if same.get("rules") == rules and ("cases" in same or (mine and all(case.status in w.CLOSED for case in mine.values()))):
        last = {"cases": same["cases"]} if "cases" in same else {"settled": entry["sign"]}
        return {**entry, "rules": rules, **last}, "cases" in same
    try:
        with folder.opened(top) as fd:
            of, salt = profiles.named(scan.profile), run.book.state().id
            contents = of.read(fd, seen, os.path.basename(path), scan, salt, picked, parts.__contains__)
            cases = [remembered(run, path, one, listed(fd, one, seen, bool(mine)), seen) for one in contents]
        again = folder.look_at(run.site, path)
    except (OSError, w.Unreachable):
        return entry, False  # it changes while we look
    if again.sign != seen.sign:
        return {**entry, "sign": again.sign, "since": time.clock_gettime(time.CLOCK_BOOTTIME), "arriving": True}, False
    return {**entry, "rules": rules, "cases": cases}, True


def listed(top: int, content: profiles.Content, seen: folder.Folder, known: bool) -> str:
    """The manifest of a content; "" of what is large and held: nobody needs to know its bytes."""
    if content.reasons and not known and sum(seen.sizes.values()) > LARGE:
        return ""
    return readers.write_manifest((name, folder.read(top, name)) for name in content.names).decode()


def remembered(run: cli.Run, path: str, content: profiles.Content, manifest: str, seen: folder.Folder) -> dict[str, Any]:
    """A case of the folder as the scan's memory has it; its manifest is kept beside the ledger."""
    key = codec.key(run.book.state().id, os.path.join(path, content.part) if content.part else path)
    digest = codec.sha256(manifest.encode()) if manifest else ""
    if digest and not run.args.dry_run:
        files.write_whole(folder.manifest_file(run.site.state, key, digest), manifest.encode())
    size, facts = sum(seen.sizes[name] for name in content.names), {**content.facts, "left": list(content.left)}
    return {"key": key, "part": content.part, "reasons": content.reasons, "digest": digest, "files": len(content.names),
            "bytes": size, "facts": facts if content.left else content.facts}  # fmt: skip


def fault(path: str, seen: folder.Folder, not_before: str) -> tuple[w.Reason, ...]:
    """What is wrong with the case as a whole."""
    if not path.isprintable():
        return (w.Reason("name", "", "its own name cannot be printed: rename the folder"),)
    if path.endswith(".partial") or ".superseded-" in path:
        return (w.Reason("name", "", "its name is one that results of another case get: rename the folder"),)
    if seen.sizes and f"{datetime.fromtimestamp(seen.newest, UTC):%Y-%m-%d}" < not_before:
        return (w.Reason("before start", "", f"its newest file is older than {not_before} (scan.not_before)"),)
    return ()


def difference(state: str, case: w.Case, digest: str) -> str:
    """How the content differs from the known one, in numbers and the first names."""
    try:
        old, new = folder.manifest_of(state, case.key, case.digest), folder.manifest_of(state, case.key, digest)
    except w.Damaged:
        return "its content is another"
    parts = (("new", new.keys() - old.keys()), ("gone", old.keys() - new.keys()),
             ("changed", {name for name in old.keys() & new.keys() if old[name] != new[name]}))  # fmt: skip
    return ", ".join(f"{len(names)} {word} ({', '.join(sorted(names)[:2])})" for word, names in parts if names)


main = cli.script("mqi-scan", __doc__ or "", work)
