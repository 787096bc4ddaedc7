"""
SqliteFile: the connections to one SQLite file, and the schema that is in it.

Laws:
- A connection belongs to one call at a time; calls in other threads get others.
- A connection on which anything went wrong is closed, never used again.
- The file brings itself up to this program's schema; a file of a newer program is refused.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs

from domain.errors import MetadataUnavailable

# Element n brings a file of schema version n to version n + 1; only ever append.
_MIGRATIONS = (
    (
        """
        CREATE TABLE batches (
            id TEXT PRIMARY KEY, state TEXT NOT NULL, opened_at TEXT NOT NULL, revision INTEGER NOT NULL,
            document TEXT NOT NULL
        ) STRICT
        """,
        "CREATE INDEX batches_by_state ON batches (state, opened_at, id)",
        # The next four are read by ranges of their keys: without a rowid those lie side by side.
        """
        CREATE TABLE entries (
            batch TEXT NOT NULL, study TEXT NOT NULL, sop_instance TEXT NOT NULL, has_conflict INTEGER NOT NULL,
            document TEXT NOT NULL, PRIMARY KEY (batch, study, sop_instance)
        ) STRICT, WITHOUT ROWID
        """,
        "CREATE INDEX entries_in_conflict ON entries (batch, study, sop_instance) WHERE has_conflict = 1",
        """
        CREATE TABLE newest (
            study TEXT NOT NULL, sop_instance TEXT NOT NULL, batch TEXT NOT NULL, attempt INTEGER NOT NULL,
            state TEXT NOT NULL, document TEXT NOT NULL, PRIMARY KEY (study, sop_instance)
        ) STRICT, WITHOUT ROWID
        """,
        "CREATE INDEX newest_by_instance ON newest (sop_instance, study)",
        "CREATE INDEX newest_failed ON newest (batch, study, sop_instance) WHERE state = 'failed'",
        """
        CREATE TABLE holdings (
            study TEXT NOT NULL, batch TEXT NOT NULL, document TEXT NOT NULL, PRIMARY KEY (study, batch)
        ) STRICT, WITHOUT ROWID
        """,
        """
        CREATE TABLE studies (
            study TEXT NOT NULL, last_received TEXT NOT NULL, document TEXT NOT NULL, PRIMARY KEY (study)
        ) STRICT, WITHOUT ROWID
        """,
        "CREATE INDEX studies_by_time ON studies (last_received, study)",
    ),
    (
        """
        CREATE TABLE commitments (
            transaction_uid TEXT PRIMARY KEY, is_finished INTEGER NOT NULL, due_at TEXT NOT NULL,
            revision INTEGER NOT NULL, document TEXT NOT NULL
        ) STRICT
        """,
        "CREATE INDEX commitments_by_time ON commitments (is_finished, due_at, transaction_uid)",
    ),
)

_WAIT_SECONDS = 0.02

# What to do, by the beginning of SQLite's name of the error.
_REMEDIES = {
    "SQLITE_NOTADB": "it is no database: move it away, and `ahi-storescp reconcile` makes a new one",
    "SQLITE_CORRUPT": "it is damaged: stop the receiver, move it away, and `ahi-storescp reconcile` makes a new one",
    "SQLITE_FULL": "the disk is full: free some of it",
    "SQLITE_IOERR": "check the disk, whether it is full, and the system log",
    "SQLITE_READONLY": "it cannot be written to: the receiver's user must own the data folder",
    "SQLITE_CANTOPEN": "the receiver's user must own the data folder, and its disk must not be full",
    "SQLITE_BUSY": "another process is writing to it: try again",
}


@attrs.define(eq=False)
class SqliteFile:
    """
    The SQLite file at `path`, made when it is first used, open in any number of threads and processes.

    Attributes:
        path: the file; its folder must exist and be on a local disk.
        busy_seconds: how long a call waits for the writers of other processes.

    """

    path: Path
    busy_seconds: float
    _idle: list[sqlite3.Connection] = attrs.field(factory=list, init=False, repr=False)
    _lock: threading.Lock = attrs.field(factory=threading.Lock, init=False, repr=False)
    _is_closed: bool = attrs.field(default=False, init=False, repr=False)

    def close(self) -> None:
        """Close the connections; calls that still run finish, later ones are MetadataUnavailable."""
        with self._lock:
            self._is_closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Give a connection whose statements all see the same moment."""
        with self.connection() as connection:
            connection.execute("BEGIN")
            yield connection
            connection.execute("COMMIT")

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Give a connection that alone writes, until all is committed or nothing is."""
        with self.connection() as connection:
            # IMMEDIATE: what is read in it can no longer change before it is written.
            connection.execute("BEGIN IMMEDIATE")
            yield connection
            connection.execute("COMMIT")

    @contextmanager
    def connection(self) -> Iterator[sqlite3.Connection]:
        """Give a connection to this thread alone and translate what SQLite raises."""
        connection = None
        try:
            connection = self._take()
            yield connection
        except sqlite3.Error as error:
            raise MetadataUnavailable(self._words(error)) from error
        else:
            self._give_back(connection)
            connection = None
        finally:
            if connection is not None:
                connection.close()  # what it had begun is rolled back

    def _words(self, error: sqlite3.Error) -> str:
        name = getattr(error, "sqlite_errorname", type(error).__name__)
        remedy = next((words for begin, words in _REMEDIES.items() if name.startswith(begin)), "")
        return f"the metadata file {self.path.name} cannot be used now: {name}" + (f"; {remedy}" if remedy else "")

    def _take(self) -> sqlite3.Connection:
        with self._lock:
            if self._is_closed:
                raise MetadataUnavailable("the metadata store is closed")
            if self._idle:
                return self._idle.pop()
        return self._open()

    def _give_back(self, connection: sqlite3.Connection) -> None:
        with self._lock:
            if not self._is_closed:
                self._idle.append(connection)
                return
        connection.close()

    def _open(self) -> sqlite3.Connection:
        # Not tied to one thread, since the next call may come from another; never used by two at once.
        connection = sqlite3.connect(
            self.path, timeout=self.busy_seconds, isolation_level=None, check_same_thread=False
        )
        try:
            self._prepare(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        # SQLite does not wait for others while it turns a new file into one with a write-ahead log.
        deadline = time.monotonic() + self.busy_seconds
        while True:
            try:
                connection.execute("PRAGMA journal_mode = WAL")
                break
            except sqlite3.OperationalError:
                if time.monotonic() >= deadline:
                    raise
                time.sleep(_WAIT_SECONDS)
        connection.execute("PRAGMA synchronous = FULL")
        if self._schema_version(connection) == len(_MIGRATIONS):
            return
        connection.execute("BEGIN IMMEDIATE")
        for statements in _MIGRATIONS[self._schema_version(connection) :]:
            for statement in statements:
                connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {len(_MIGRATIONS)}")
        connection.execute("COMMIT")

    def _schema_version(self, connection: sqlite3.Connection) -> int:
        version = int(connection.execute("PRAGMA user_version").fetchone()[0])
        if version > len(_MIGRATIONS):
            raise MetadataUnavailable(
                f"the metadata file {self.path.name} was written by a newer version of this program (schema"
                f" {version}, this one knows {len(_MIGRATIONS)}); use that version or a newer one"
            )
        return version
