"""A TCP proxy before a real sshd: passes, delays, stalls, drops, resets or swallows, in either direction, after so many bytes."""

from __future__ import annotations

import socket
import struct
import threading
import time
from contextlib import suppress
from typing import NamedTuple

UP, DOWN = "up", "down"  # to the server, to the client
MODES = ("drop", "reset", "swallow", "stall")
STALL = 1.0  # seconds


class Cut(NamedTuple):
    """What happens to the session-th connection once so many bytes have gone that way."""

    session: int
    way: str
    after: int
    mode: str


class Proxy:
    """Listens on a loopback port of its own. passed: bytes by session and way; hit: whether the cut fell."""

    def __init__(self, target: int) -> None:
        self.target, self.delay = target, 0.0
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = int(self.listener.getsockname()[1])
        self.pairs: list[socket.socket] = []
        self.aim(None)
        threading.Thread(target=self.serve, daemon=True).start()

    def aim(self, cut: Cut | None) -> None:
        self.cut, self.hit, self.sessions = cut, False, 0
        self.passed: dict[tuple[int, str], int] = {}

    def serve(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return  # closed
            self.sessions += 1
            try:
                server = socket.create_connection(("127.0.0.1", self.target))
            except OSError:  # nobody is there
                client.close()
                continue
            self.pairs += [client, server]
            for way, source, sink in ((UP, client, server), (DOWN, server, client)):
                self.passed[self.sessions, way] = 0
                threading.Thread(target=self.pump, args=(self.sessions, way, source, sink), daemon=True).start()

    def pump(self, session: int, way: str, source: socket.socket, sink: socket.socket) -> None:
        cut = self.cut if self.cut and (self.cut.session, self.cut.way) == (session, way) else None
        passed = self.passed  # the next aim's is another one
        try:
            while data := source.recv(1 << 15):
                time.sleep(self.delay)
                left = cut.after - passed[session, way] if cut else len(data) + 1
                if cut and len(data) > left:
                    sink.sendall(data[:left])
                    self.hit, stop, cut = True, cut.mode, None
                    if stop == "stall":
                        time.sleep(STALL)
                        sink.sendall(data[left:])
                        continue
                    if stop == "swallow":
                        while source.recv(1 << 15):
                            pass
                        return
                    if stop == "reset":
                        for end in (source, sink):
                            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                            end.close()
                    break
                sink.sendall(data)
                passed[session, way] += len(data)
        except OSError:
            pass  # the other direction closed it
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        for end in (self.listener, *self.pairs):
            end.close()
