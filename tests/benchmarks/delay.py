"""A TCP proxy on loopback that hands on every byte a fixed time after it came, in both directions."""

from __future__ import annotations

import socket
import threading
import time
from queue import SimpleQueue
from typing import Self

import attrs

_READ_BYTES = 1 << 20
_BUFFER_BYTES = 4 << 20


@attrs.define
class DelayProxy:
    """A line to `target` of which each way takes `seconds`; serves one connection after another."""

    target: int
    seconds: float
    _listener: socket.socket = attrs.field(init=False)
    _lines: list[socket.socket] = attrs.field(factory=list, init=False)

    @property
    def port(self) -> int:
        port: int = self._listener.getsockname()[1]
        return port

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for line in (self._listener, *self._lines):
            line.close()

    def _accept(self) -> None:
        while True:
            try:
                here, _ = self._listener.accept()
            except OSError:
                return
            there = socket.create_connection(("127.0.0.1", self.target))
            self._lines += (here, there)
            for line in (here, there):
                line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
            for source, sink in ((here, there), (there, here)):
                pieces: SimpleQueue[tuple[float, bytes]] = SimpleQueue()
                threading.Thread(target=self._read, args=(source, pieces), daemon=True).start()
                threading.Thread(target=_write, args=(sink, pieces), daemon=True).start()

    def _read(self, source: socket.socket, pieces: SimpleQueue[tuple[float, bytes]]) -> None:
        while True:
            try:
                data = source.recv(_READ_BYTES)
            except OSError:
                data = b""
            pieces.put((time.monotonic() + self.seconds, data))
            if not data:
                return


def _write(sink: socket.socket, pieces: SimpleQueue[tuple[float, bytes]]) -> None:
    try:
        while True:
            due, data = pieces.get()
            time.sleep(max(0.0, due - time.monotonic()))
            if not data:
                sink.shutdown(socket.SHUT_WR)
                return
            sink.sendall(data)
    except OSError:
        return
