"""
The data store's own SQLite file: jobs, image sets and the index of instances.

A job's effect on image sets is one transaction, so a job that is cut short has done nothing or everything.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from adapters.outbound.local.data_store.durable import exclusive, make_root, sync_folder

_BUSY_SECONDS: Final = 60.0

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS throttle (
    operation TEXT PRIMARY KEY,
    tokens REAL NOT NULL,
    at TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS jobs (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    job_id TEXT NOT NULL UNIQUE,
    client_token TEXT NOT NULL UNIQUE,
    job_name TEXT NOT NULL,
    input_prefix TEXT NOT NULL,
    output_prefix TEXT NOT NULL,
    attributes TEXT NOT NULL,
    body TEXT NOT NULL,
    status TEXT NOT NULL,
    message TEXT,
    submitted_at TEXT NOT NULL,
    ended_at TEXT,
    phase TEXT NOT NULL,
    applied_order INTEGER,
    attempts INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS jobs_by_status ON jobs (status, sequence);
CREATE TABLE IF NOT EXISTS job_files (
    job_id TEXT NOT NULL,
    number INTEGER NOT NULL,
    key BLOB NOT NULL,
    exception_type TEXT,
    message TEXT,
    remarks TEXT NOT NULL,
    study TEXT,
    series TEXT,
    sop_instance TEXT,
    sop_class TEXT,
    deciding TEXT,
    levels BLOB,
    metadata BLOB,
    image_set_id TEXT,
    version INTEGER,
    is_primary INTEGER,
    path TEXT,
    PRIMARY KEY (job_id, number)
);
CREATE TABLE IF NOT EXISTS image_sets (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    image_set_id TEXT NOT NULL UNIQUE,
    study TEXT NOT NULL,
    series TEXT NOT NULL,
    deciding TEXT NOT NULL,
    is_primary INTEGER NOT NULL,
    version INTEGER NOT NULL,
    levels BLOB NOT NULL,
    created_at TEXT NOT NULL,
    updated_at TEXT NOT NULL,
    state TEXT NOT NULL
);
CREATE UNIQUE INDEX IF NOT EXISTS primary_by_series ON image_sets (series) WHERE is_primary AND state = 'ACTIVE';
CREATE INDEX IF NOT EXISTS image_sets_by_study ON image_sets (study, sequence);
CREATE INDEX IF NOT EXISTS image_sets_by_series ON image_sets (series, sequence);
CREATE TABLE IF NOT EXISTS instances (
    image_set_id TEXT NOT NULL,
    sop_instance TEXT NOT NULL,
    sop_class TEXT NOT NULL,
    path TEXT NOT NULL,
    metadata BLOB NOT NULL,
    PRIMARY KEY (image_set_id, sop_instance)
);
CREATE INDEX IF NOT EXISTS instances_by_uid ON instances (sop_instance);
"""


class Catalogue:
    """
    Connections to the SQLite file, one a thread; several processes may have it open.

    Args:
        folder: where the file is; made if it lacks.

    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / "catalogue.sqlite3"
        self._local = threading.local()
        self._connections: list[sqlite3.Connection] = []
        self._lock = threading.Lock()
        make_root(folder)
        # Two processes that switch a new file to WAL at once would find it locked, whatever the busy time-out.
        with exclusive(folder / "catalogue.lock"):
            self.reader().executescript(_SCHEMA)
        sync_folder(folder)

    def reader(self) -> sqlite3.Connection:
        """Return this thread's connection; each statement on it sees the latest committed state."""
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            # Only `close` touches a connection from another thread, when its own has ended.
            connection = sqlite3.connect(
                self._path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
            connection.row_factory = sqlite3.Row
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            with self._lock:
                self._connections.append(connection)
            self._local.connection = connection
        return connection

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Write: all statements of the context or, if it raises, none; durable when it ends."""
        connection = self.reader()
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield connection
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")

    def close(self) -> None:
        """Close every connection; the catalogue opens anew if it is used again."""
        with self._lock:
            connections, self._connections = self._connections, []
            self._local = threading.local()
        for connection in connections:
            connection.close()
