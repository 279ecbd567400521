"""mqi-poll by hand during an outage: it ends soon, with a sentence and 69, and nothing has changed."""

from __future__ import annotations

import contextlib
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Place, Pueued, Sshd, free_port, host_text
from faults.proxy import Cut, Proxy
from test_operator import running

PATIENCE = 2  # seconds: ConnectTimeout in the site's own ssh_config
FAR_ABOVE = 45.0  # seconds, whatever else this machine does: with ssh's ServerAlive of a copy it would be 60 and more


@contextlib.contextmanager
def black_hole(_: Sshd) -> Iterator[int]:
    """A host that drops every packet: a port whose queue of connections is full, so that the kernel does not answer."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server:
        port = int(server.getsockname()[1])
        with socket.create_connection(("127.0.0.1", port)):
            yield port


@contextlib.contextmanager
def refused(_: Sshd) -> Iterator[int]:
    yield free_port()


@contextlib.contextmanager
def mute(_: Sshd) -> Iterator[int]:
    """Something that accepts and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield int(server.getsockname()[1])


@contextlib.contextmanager
def stuck(sshd: Sshd, after: int) -> Iterator[int]:
    """A link that carries so many of the sshd's bytes, and then nothing any more."""
    with contextlib.closing(Proxy(sshd.port)) as proxy:
        proxy.aim(Cut(1, "down", after, "swallow"))
        yield proxy.port
        assert proxy.hit


@contextlib.contextmanager
def in_its_banner(sshd: Sshd) -> Iterator[int]:
    with stuck(sshd, 10) as port:
        yield port


@contextlib.contextmanager
def in_its_keys(sshd: Sshd) -> Iterator[int]:
    with stuck(sshd, 200) as port:
        yield port


@contextlib.contextmanager
def in_its_answer(sshd: Sshd) -> Iterator[int]:
    with stuck(sshd, 3200) as port:  # the session begins before 2,600; all of it is 4,100 to 4,300
        yield port


def own_ssh_config(place: Place, sshd: Sshd) -> Path:
    """The site's own ssh_config instead of ours: the same but for its patience. The Host is `gpu1`."""
    path = place.folder / "ssh_config"
    place("mqi-check", "--host", "far")
    text = (place.state / "cache" / "ssh-far").read_text()
    path.write_text(text.replace("Host mqi-far", "Host gpu1").replace("ConnectTimeout 10", f"ConnectTimeout {PATIENCE}"))
    config = "\n".join(line for line in place.config.read_text().splitlines() if not line.startswith(("port", "identity", "known_hosts")))
    place.config.write_text(config.replace("address = ", f'ssh_config = "{path}"\naddress = "gpu1" #') + "\n")
    return path


@pytest.mark.parametrize("outage", [black_hole, refused, mute, in_its_banner, in_its_keys, in_its_answer], ids=lambda one: one.__name__)
def test_poll_by_hand_during_an_outage_ends_soon_with_a_sentence_and_changes_nothing(
    outage: contextlib.AbstractContextManager[int], tmp_path: Path, sshd: Sshd, pueued: Pueued, capsys: pytest.CaptureFixture[str]
) -> None:
    place = Place(tmp_path / "site", host_text("ssh", "pueue", "scp", sshd, pueued), "sleep 600")
    path = own_ssh_config(place, sshd)
    running(place, "ma")
    before, rows = place.ledger(), place.rows()
    working = path.read_text()
    with outage(sshd) as port:  # type: ignore[operator]
        path.write_text(working.replace(f"Port {sshd.port}", f"Port {port}"))
        begin = time.monotonic()
        ran = place("mqi-poll")
        took = time.monotonic() - begin
    assert ran.code == 69, ran
    (sentence, *more) = ran.err.splitlines()
    assert sentence.startswith("mqi-poll: far (gpu1): ")
    sentence, _, until = sentence.partition("; timers leave it alone until ")
    assert sentence.endswith(". See: mqi-check")
    assert until
    assert not more
    assert (place.ledger(), ran.out) == (before, "")
    assert {name: row["status"] for name, row in place.rows().items()} == {name: row["status"] for name, row in rows.items()}
    assert sentence.removeprefix("mqi-poll: ") in place.rows()["ma"]["reason"]
    assert took < FAR_ABOVE
    path.write_text(working)
    assert place("mqi-poll").code == 0
    assert place.rows()["ma"]["reason"] == ""
    with capsys.disabled():
        sys.stdout.write(f"\n  outage, {outage.__name__}: mqi-poll ended after {took:.1f} s, ConnectTimeout is {PATIENCE} s: {sentence}\n")  # type: ignore[attr-defined]
