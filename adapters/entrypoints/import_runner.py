"""
The process that runs the embedded data store's import jobs for a receiver.

Importing parses every image in Python. In the receiver's own process it would hold the interpreter's lock, and every
association would wait for it at each read and write; in a process of its own, at a lower priority, it takes what
receiving leaves.

It ends when its standard input does: when the receiver closes it, or is no more.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import attrs

from adapters.outbound.clock import SystemClock
from adapters.outbound.local.data_store import EmbeddedDataStore, FileInputObjects, FileOutputObjects
from domain.identifiers import DataStoreId

_NICENESS = 10
_LOOK_AGAIN_SECONDS = 0.2
_PATIENCE_SECONDS = 15.0


@attrs.frozen(kw_only=True)
class Quotas:
    """How many import jobs may be started and run, as the settings say."""

    rate: float = 1.0
    burst: int = 2
    concurrency: int = 100


def data_store(folder: Path, data_store_id: DataStoreId, quotas: Quotas | None = None) -> EmbeddedDataStore:
    """Return the embedded data store of a data folder; close it in the end."""
    quotas = quotas or Quotas()
    return EmbeddedDataStore(
        folder / "datastore" / data_store_id.value,
        data_store_id,
        FileInputObjects(folder / "staging", never_rewritten=True),
        FileOutputObjects(folder / "results"),
        SystemClock(),
        rate=quotas.rate,
        burst=quotas.burst,
        concurrency=quotas.concurrency,
    )


@attrs.define
class ImportRunner:
    """
    The runner's process as its receiver sees it.

    Args:
        folder: the data folder.
        data_store_id: the data store in it.

    """

    _folder: Path
    _data_store_id: DataStoreId
    _process: subprocess.Popen[bytes] | None = attrs.field(default=None, init=False)

    def ensure(self) -> None:
        """Start it, unless it runs; jobs that a runner left unfinished are run by the next one."""
        if self._process is None or self._process.poll() is not None:
            self._close()
            self._process = subprocess.Popen(  # noqa: S603 - this program itself
                [sys.executable, "-m", __name__, str(self._folder), self._data_store_id.value], stdin=subprocess.PIPE
            )

    def stop(self) -> None:
        """Let it end between two files; returns when it has."""
        self._close()
        if self._process is not None:
            try:
                self._process.wait(_PATIENCE_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def _close(self) -> None:
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()


def main() -> None:
    """Run import jobs until the standard input ends."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # a Ctrl-C reaches us too, but the receiver says when we end
    os.nice(_NICENESS)
    folder, data_store_id = sys.argv[1:]
    with data_store(Path(folder), DataStoreId(data_store_id)) as store:
        # The runner of a receiver that was killed may still be at its last file.
        while not store.become_runner():
            if select.select([sys.stdin], [], [], _LOOK_AGAIN_SECONDS)[0]:
                return
        sys.stdin.buffer.read()


if __name__ == "__main__":
    main()
