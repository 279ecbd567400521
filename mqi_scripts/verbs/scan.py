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

from mqi_scripts import words as w
from mqi_scripts.frame import cli
from mqi_scripts.pure import codec, decide, readers
from mqi_scripts.world import files, folder

DAY = 86400.0
BATCH = 100  # events that a long first scan gathers for one write


def work(run: cli.Run) -> None:
    site, memo_file = run.site, os.path.join(run.site.state, "cache", "scan")
    try:
        paths = folder.candidates(site.inbox, site.scan.cases, site.scan.ignore)
    except OSError as error:
        raise w.Unreachable(f"the inbox {site.inbox} cannot be read ({error.strerror}): is it mounted? See: mqi-check") from None
    if not run.args.dry_run:
        run.book.append([], run.now())  # a new ledger gets its id, which every key needs
    words, ledger, memo = [*run.named()], run.book.state().id, files.read_note(memo_file)
    known = {path: memo.get(path, {}) for path in paths}
    keys = {path: key_of(ledger, path, known[path]) for path in paths}
    chosen = [path for path in paths if not words or path in words or keys[path].startswith(tuple(words))]
    if words and not chosen:
        raise w.Usage(f"no folder in {site.inbox} is, or has the id of, {' '.join(words)}. See: mqi-report")
    cases = run.book.state().open
    settled = {path for path in paths if known[path].get("settled") == known[path].get("sign", "-")}
    if memo.keys() - set(paths) or any(keys[path] not in cases for path in paths if path not in settled):
        cases = run.book.cases()
    if not paths and any(not case.gone for case in cases.values()) and not run.args.accept_empty:
        raise w.Unreachable(
            f"the inbox {site.inbox} is empty, and it was not: a lost mount? Nothing was recorded. Mount it; if it was emptied "
            "on purpose: mqi-scan --accept-empty"
        )
    twins: dict[str, str] = {}
    gone = [case for case in cases.values() if case.key not in set(keys.values())] if not words else []
    events = [event for case in gone if (event := decide.scan(case.key, case, None, "", run.now()))]
    for path in chosen:
        with run.isolated():
            known[path], event = judge(run, path, keys[path], known[path], cases.get(keys[path]), twins)
            known[path]["key"] = [ledger, keys[path]]
            events += [event] if event else []
        if len(events) >= BATCH:
            run.record(events)
            events = []
    run.record(events)
    if not run.args.dry_run:
        files.write_note(memo_file, known)
    run.note["arriving"] = [path for path, entry in known.items() if entry.get("arriving")]


def key_of(ledger: str, path: str, memo: dict[str, Any]) -> str:
    """The case's key: ledger id and path, hashed; it names the remote folder and the label. Known ones are not hashed again."""
    of, key = memo.get("key", (None, ""))
    return str(key) if of == ledger else codec.sha256(f"{ledger}\0{path}".encode("utf-8", "surrogateescape"))[:20]


def judge(
    run: cli.Run, path: str, key: str, memo: dict[str, Any], case: w.Case | None, twins: dict[str, str]
) -> tuple[dict[str, Any], w.Event | None]:
    """The scan's memory of one folder, and what there is to record of it."""
    done = case.completed if case else memo.get("done", "")
    age = time.time() - datetime.fromisoformat(done).timestamp() if done else 0
    if age > run.site.scan.watch and time.time() - memo.get("watched", 0.0) < DAY:
        return memo, None
    entry, sight = look(run, path, key, memo, case)
    entry["done"] = done
    if sight is None or (not case and entry["settled"] == entry["sign"]):
        return entry, None
    if sight.digest and not twins:
        twins.update({known.digest: known.key for known in run.book.cases().values() if known.digest and not known.gone})
    twin = twins.setdefault(sight.digest, key) if sight.digest else key
    event = decide.scan(key, case, sight, twin[: w.ID] if twin != key else "", run.now())
    if event is None and (case is None or case.status in w.CLOSED):
        entry["settled"] = entry["sign"]
    return entry, event


def look(
    run: cli.Run, path: str, key: str, memo: dict[str, Any], case: w.Case | None
) -> tuple[dict[str, Any], decide.Sight | None]:
    """One look at a folder; its Sight only if it is quiet.

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
        return memo, None  # it went while we looked: the next scan says so
    except OSError as error:
        raise w.Unreachable(f"{path} in the inbox: {error}: nothing is known of it now") from None
    same = memo if memo.get("sign") == seen.sign else {}
    entry = {"sign": seen.sign, "since": min(same.get("since", now), now), "first": min(memo.get("first", now), now),
             "digest": same.get("digest", ""), "settled": same.get("settled", ""), "watched": time.time()}  # fmt: skip
    reasons = seen.reasons or fault(path, seen, scan.not_before if not case or case.status == w.HELD else "")
    ready = not scan.ready_marker or any(os.path.lexists(os.path.join(at, scan.ready_marker)) for at in (top, os.path.dirname(top)))
    if not ready or now - entry["since"] < scan.quiet or not (seen.sizes or reasons):
        entry["arriving"] = True
        if case or now - entry["first"] < scan.arriving_limit:
            return entry, None
        reasons = (w.Reason("arriving", "", "it has been arriving for longer than scan.arriving_limit"),)
    if not reasons and not entry["digest"]:
        try:
            with folder.opened(top) as fd:
                listed = readers.write_manifest((name, folder.read(fd, name)) for name in seen.sizes)
            again = folder.look_at(run.site, path)
        except (OSError, w.Unreachable):
            return entry, None  # it changes while we look
        if again.sign != seen.sign:
            return {**entry, "sign": again.sign, "since": now, "arriving": True}, None
        entry["digest"] = codec.sha256(listed)
        if not run.args.dry_run:
            files.write_whole(folder.manifest_file(run.site.state, key, entry["digest"]), listed)
    digest = "" if reasons else entry["digest"]
    what = difference(run.site.state, case, digest) if case and digest not in ("", case.digest) else ""
    return entry, decide.Sight(path, reasons, digest, len(seen.sizes), seen.bytes, what)


def fault(path: str, seen: folder.Folder, not_before: str) -> tuple[w.Reason, ...]:
    """What is wrong with the case as a whole."""
    if not path.isprintable():
        return (w.Reason("name", "", "its own name cannot be printed: rename the folder"),)
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
