"""Senders: DCMTK's storescu, timed from outside, and a small SCU of our own for what storescu cannot do."""

from __future__ import annotations

import socket
import struct
import subprocess
import time
from collections import deque
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Self

import attrs

from tests.benchmarks.images import CT, EXPLICIT, MULTI_FRAME, Image
from tests.benchmarks.receivers import AE_TITLE, Receiver
from tests.unit.inbound import pdus

_STORESCU = "/usr/bin/storescu"
_CLIENT_SECONDS = 300
_PIECE = 131072 - 12


def storescu_seconds(receiver: Receiver, folder: Path, shares: Sequence[Sequence[str]]) -> float:
    """Send each share of files over an association of its own, all at once; return the seconds until the last end."""
    start = time.perf_counter()
    clients = [
        subprocess.Popen(
            [_STORESCU, "-aec", AE_TITLE, "127.0.0.1", str(receiver.port), *share],
            cwd=folder,
            env=receiver.client_environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        for share in shares
    ]
    errors = [client.communicate(timeout=_CLIENT_SECONDS)[1] for client in clients]
    seconds = time.perf_counter() - start
    for client, error in zip(clients, errors, strict=True):
        if client.returncode:
            raise RuntimeError(f"storescu failed with {receiver.name}: {error.decode(errors='replace')[-500:]}")
    return seconds


@attrs.define(eq=False)
class Sender:
    """
    One association of our own SCU, with as many stores on the way as `window` allows.

    Attributes:
        latencies: seconds from the last byte of each instance until its answer.

    """

    port: int
    window: int = 1
    latencies: list[float] = attrs.field(factory=list)
    successes: int = 0
    _line: socket.socket = attrs.field(init=False)
    _sent_at: deque[float] = attrs.field(factory=deque, init=False)
    _next: int = 1

    def __enter__(self) -> Self:
        self._line = socket.create_connection(("127.0.0.1", self.port), 60)
        self._line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        window = pdus.item(0x53, struct.pack(">HH", self.window, 1)) if self.window > 1 else b""
        contexts = ((1, CT, (EXPLICIT,)), (3, MULTI_FRAME, (EXPLICIT,)))
        self._line.sendall(pdus.associate_rq(contexts=contexts, user=window, maximum_length=131072))
        kind, body = self._pdu()
        if kind != 2:
            raise RuntimeError("no association")
        if self.window > 1 and pdus.item(0x53, b"")[:1] not in body:
            self.window = 1
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._line.sendall(pdus.RELEASE_RQ)
            self._pdu()
        finally:
            self._line.close()

    def fileno(self) -> int:
        """Return what tells select() that an answer is there."""
        return self._line.fileno()

    def store(self, images: Iterable[Image]) -> None:
        """Store images and wait for every answer."""
        for image in images:
            while len(self._sent_at) >= self.window:
                self.answer()
            self.send(self.message(image))
        while self._sent_at:
            self.answer()

    def store_large(self, head: bytes, sop_instance: str, pixel_bytes: int) -> None:
        """Store one instance whose pixels are made while they are sent."""
        self._line.sendall(self._command(3, MULTI_FRAME, sop_instance))
        self._line.sendall(pdus.p_data(pdus.pdv(3, 0, head)))
        block = pdus.p_data(pdus.pdv(3, 0, bytes(range(256)) * (_PIECE // 256)))
        size = _PIECE // 256 * 256
        whole, rest = divmod(pixel_bytes, size)
        for _ in range(whole):
            self._line.sendall(block)
        self._line.sendall(pdus.p_data(pdus.pdv(3, 2, bytes(rest))))
        self._sent_at.append(time.perf_counter())
        self.answer()

    def message(self, image: Image) -> bytes:
        """Encode the next C-STORE request."""
        data = image.data_set()
        parts = [self._command(1, CT, image.sop_instance)]
        for start in range(0, len(data), _PIECE):
            piece = data[start : start + _PIECE]
            parts.append(pdus.p_data(pdus.pdv(1, 2 if start + _PIECE >= len(data) else 0, piece)))
        return b"".join(parts)

    def send(self, message: bytes) -> None:
        """Send a request."""
        self._line.sendall(message)
        self._sent_at.append(time.perf_counter())

    def _command(self, context: int, sop_class: str, sop_instance: str) -> bytes:
        body = b"".join(
            (
                pdus.element(0x0002, sop_class.encode() + b"\0" * (len(sop_class) & 1)),
                pdus.element(0x0100, b"\1\0"),
                pdus.element(0x0110, struct.pack("<H", self._next)),
                pdus.element(0x0700, b"\0\0"),
                pdus.element(0x0800, b"\0\0"),
                pdus.element(0x1000, sop_instance.encode() + b"\0" * (len(sop_instance) & 1)),
            )
        )
        self._next = self._next % 65535 + 1
        return pdus.p_data(pdus.pdv(context, 3, pdus.element(0, struct.pack("<I", len(body))) + body))

    def answer(self) -> None:
        """Wait for the next answer."""
        kind, body = self._pdu()
        if kind != 4:
            raise RuntimeError(f"a PDU of type {kind} came instead of an answer")
        self.latencies.append(time.perf_counter() - self._sent_at.popleft())
        status = struct.unpack("<H", pdus.parse_command(body[6:])[0x0900])[0]
        self.successes += status == 0

    def _pdu(self) -> tuple[int, bytes]:
        kind, length = struct.unpack(">BxI", self._exactly(6))
        return kind, self._exactly(length)

    def _exactly(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            piece = self._line.recv(size - len(data))
            if not piece:
                raise RuntimeError("the line was cut")
            data += piece
        return bytes(data)
