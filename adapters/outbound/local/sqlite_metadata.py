"""
SqliteMetadataStore: the metadata table in one SQLite file, open in several processes at once.

Keys, states and times that are asked for are columns; the rest of each record is a JSON document
(adapters/outbound/records.py) beside them, which alone is read back.

Laws:
- A write is one transaction, durable on return (WAL, synchronous=FULL).
- No transaction outlives a call: iterators read a page, let go, and go on after its last key.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import attrs

from adapters.outbound.local.sqlite_file import SqliteFile
from adapters.outbound.records import BATCH, COMMITMENT, HOLDING, INSTANCE, STUDY, time_text
from domain.batch import Batch
from domain.commitment import CommitmentRequest
from domain.identifiers import BatchId, Uid
from domain.instance import InstanceKey
from domain.lifecycle import BatchState, InstanceState
from domain.record import InstanceRecord, StudyHolding, StudyRecord

_AFTER_EVERY_TIME = "~"  # sorts after any digit
_COMMITMENTS_OF_A_PAGE = 20  # each may have some 400 KB

_Key = tuple[str, ...]
_Item = TypeVar("_Item")


@attrs.define(eq=False)
class SqliteMetadataStore:
    """
    A MetadataStore and CommitmentStore (domain/ports.py) in the SQLite file at `path`, made when it is first used.

    Any number of threads and processes may use the file at once; writers take turns.
    A thread has a connection for itself while a call lasts; connections are kept for the next call.

    Attributes:
        path: the file; its folder must exist and be on a local disk.
        busy_seconds: how long a call waits for the writers of other processes.
        page_size: rows that an iterator reads at a time.

    """

    path: Path
    busy_seconds: float = attrs.field(default=15.0, kw_only=True)
    page_size: int = attrs.field(default=500, kw_only=True)
    _file: SqliteFile = attrs.field(init=False, repr=False)

    @_file.default
    def _open_file(self) -> SqliteFile:
        return SqliteFile(self.path, self.busy_seconds)

    def close(self) -> None:
        """Close the file; calls that still run finish, later ones are MetadataUnavailable."""
        self._file.close()

    def add_batch(self, batch: Batch) -> bool:
        """Write the record of a new batch; False if there is one already."""
        with self._file.writing() as connection:
            cursor = connection.execute(
                "INSERT INTO batches (id, state, opened_at, revision, document) VALUES (?, ?, ?, ?, ?)"
                " ON CONFLICT DO NOTHING",
                (
                    str(batch.id),
                    batch.state.value,
                    time_text(batch.opened_at),
                    batch.revision,
                    BATCH.dumps(batch),
                ),
            )
            return cursor.rowcount == 1

    def batch(self, batch_id: BatchId) -> Batch | None:
        """Return the record of a batch as it is now."""
        rows = self._rows("SELECT document FROM batches WHERE id = ?", (str(batch_id),))
        return BATCH.loads(rows[0][0]) if rows else None

    def replace_batch(self, old: Batch, new: Batch) -> bool:
        """Write `new` if the stored revision is that of `old`; False, changing nothing, if it is not."""
        with self._file.writing() as connection:
            return _replace(connection, old, new)

    def clear_batch(self, old: Batch, new: Batch, unless_started: frozenset[BatchId]) -> bool:
        """As `replace_batch`, and False too if any of `unless_started` is started at that moment."""
        with self._file.writing() as connection:
            for batch_id in unless_started:
                row = connection.execute("SELECT document FROM batches WHERE id = ?", (str(batch_id),)).fetchone()
                if row is not None and BATCH.loads(row[0]).is_started:
                    return False
            return _replace(connection, old, new)

    def batches(self, states: Iterable[BatchState], *, opened_since: datetime | None = None) -> Iterator[Batch]:
        """Yield the batches in any of `states`, oldest first."""
        wanted = sorted({state.value for state in states})
        if not wanted:
            return
        # One limited search of the index for each state: an IN would sort all that is left, page after page.
        # One statement for all of them, so that a batch that changes its state is not missed between two.
        one = (
            "SELECT * FROM (SELECT opened_at, id, document FROM batches"
            " WHERE state = ? AND (opened_at, id) > (?, ?) ORDER BY opened_at, id LIMIT ?)"
        )
        statement = " UNION ALL ".join([one] * len(wanted)) + " ORDER BY opened_at, id LIMIT ?"

        def page(after: _Key) -> list[_Key]:
            values: list[str | int] = []
            for state in wanted:
                values += (state, *after, self.page_size)
            return self._rows(statement, (*values, self.page_size))

        start = ("" if opened_since is None else time_text(opened_since), "")
        yield from self._paged(page, start, BATCH.loads)

    def newest(self, keys: Sequence[InstanceKey]) -> Mapping[InstanceKey, InstanceRecord]:
        """Return the newest record of each instance that has one."""
        found = {}
        with self._file.reading() as connection:
            for key in keys:
                row = connection.execute(_NEWEST, (str(key.study), str(key.sop_instance))).fetchone()
                if row is not None:
                    found[key] = INSTANCE.loads(row[3])
        return found

    def claim(self, claims: Sequence[tuple[InstanceRecord, InstanceRecord | None]]) -> frozenset[InstanceKey]:
        """Write newest records, each only if the stored one is still the second of the pair."""
        lost = set()
        with self._file.writing() as connection:
            for record, expected in claims:
                stored = connection.execute(_NEWEST, (str(record.key.study), str(record.key.sop_instance))).fetchone()
                if _identity(None if stored is None else INSTANCE.loads(stored[3])) == _identity(expected):
                    _put_newest(connection, record)
                else:
                    lost.add(record.key)
        return frozenset(lost)

    def put_entries(self, entries: Sequence[InstanceRecord]) -> None:
        """Write entries of batches, each only where it may replace the stored one; newest records follow."""
        with self._file.writing() as connection:
            for entry in entries:
                _put_entry(connection, entry)

    def entries(self, batch_id: BatchId) -> Iterator[InstanceRecord]:
        """Yield the entries of a batch in the order of study, then SOP Instance UID."""

        def page(after: _Key) -> list[_Key]:
            return self._rows(
                "SELECT study, sop_instance, document FROM entries"
                " WHERE batch = ? AND (study, sop_instance) > (?, ?) ORDER BY study, sop_instance LIMIT ?",
                (str(batch_id), *after, self.page_size),
            )

        yield from self._paged(page, ("", ""), INSTANCE.loads)

    def pick_entries(self, batch_id: BatchId, keys: Sequence[InstanceKey]) -> Mapping[InstanceKey, InstanceRecord]:
        """Return the entries of a batch for those of `keys` that it has."""
        found = {}
        with self._file.reading() as connection:
            for key in keys:
                values = (str(batch_id), str(key.study), str(key.sop_instance))
                row = connection.execute(_ENTRY, values).fetchone()
                if row is not None:
                    found[key] = INSTANCE.loads(row[0])
        return found

    def put_holdings(self, holdings: Iterable[StudyHolding]) -> None:
        """Write what batches hold of studies, replacing what the same batch held of the same study."""
        rows = [(str(holding.study), str(holding.batch), HOLDING.dumps(holding)) for holding in holdings]
        with self._file.writing() as connection:
            connection.executemany(
                "INSERT INTO holdings (study, batch, document) VALUES (?, ?, ?)"
                " ON CONFLICT DO UPDATE SET document = excluded.document",
                rows,
            )

    def holdings(self, study: Uid) -> Sequence[StudyHolding]:
        """Return what each batch holds of a study, by batch."""
        rows = self._rows("SELECT document FROM holdings WHERE study = ? ORDER BY batch", (str(study),))
        return [HOLDING.loads(row[0]) for row in rows]

    def put_study(self, record: StudyRecord) -> None:
        """Write what a study is recognised by, merged into what is there."""
        with self._file.writing() as connection:
            row = connection.execute(_STUDY, (str(record.study),)).fetchone()
            merged = record if row is None else STUDY.loads(row[0]).merged(record)
            connection.execute(
                "INSERT INTO studies (study, last_received, document) VALUES (?, ?, ?) ON CONFLICT DO UPDATE"
                " SET last_received = excluded.last_received, document = excluded.document",
                (str(merged.study), time_text(merged.last_received), STUDY.dumps(merged)),
            )

    def study(self, study: Uid) -> StudyRecord | None:
        """Return what a study is recognised by."""
        rows = self._rows(_STUDY, (str(study),))
        return STUDY.loads(rows[0][0]) if rows else None

    def studies(self, *, received_since: datetime | None = None) -> Iterator[StudyRecord]:
        """
        Yield the studies of which something was received since then, latest first.

        A study that receives something while this runs may be left out: it has become the latest.
        """
        since = "" if received_since is None else time_text(received_since)

        def page(after: _Key) -> list[_Key]:
            return self._rows(
                "SELECT last_received, study, document FROM studies"
                " WHERE last_received >= ? AND (last_received, study) < (?, ?)"
                " ORDER BY last_received DESC, study DESC LIMIT ?",
                (since, *after, self.page_size),
            )

        yield from self._paged(page, (_AFTER_EVERY_TIME, ""), STUDY.loads)

    def instances(self, study: Uid) -> Iterator[InstanceRecord]:
        """Yield the newest records of a study's instances, in the order of their UIDs."""

        def page(after: _Key) -> list[_Key]:
            return self._rows(
                "SELECT sop_instance, document FROM newest"
                " WHERE study = ? AND sop_instance > ? ORDER BY sop_instance LIMIT ?",
                (str(study), *after, self.page_size),
            )

        yield from self._paged(page, ("",), INSTANCE.loads)

    def find_instance(self, sop_instance: Uid) -> Sequence[InstanceRecord]:
        """Return the newest record of that SOP Instance UID, one for each study that has it."""
        rows = self._rows(_NEWEST_OF_INSTANCE, (str(sop_instance),))
        return [INSTANCE.loads(row[0]) for row in rows]

    def failures(self) -> Iterator[InstanceRecord]:
        """Yield the newest records that are FAILED, by batch."""
        yield from self._flagged("newest", "state = 'failed'")

    def conflicts(self) -> Iterator[InstanceRecord]:
        """Yield the entries with a conflict, by batch."""
        yield from self._flagged("entries", "has_conflict = 1")

    def add_commitment(self, request: CommitmentRequest) -> bool:
        """Write a new request; False if there is one of its Transaction UID already."""
        with self._file.writing() as connection:
            cursor = connection.execute(
                "INSERT INTO commitments (transaction_uid, is_finished, due_at, revision, document)"
                " VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
                (str(request.transaction), *_commitment_columns(request)),
            )
            return cursor.rowcount == 1

    def commitment(self, transaction: Uid) -> CommitmentRequest | None:
        """Return the request of a Transaction UID as it is now."""
        rows = self._rows("SELECT document FROM commitments WHERE transaction_uid = ?", (str(transaction),))
        return COMMITMENT.loads(rows[0][0]) if rows else None

    def replace_commitment(self, old: CommitmentRequest, new: CommitmentRequest) -> bool:
        """Write `new` if the stored revision is that of `old`; False, changing nothing, if it is not."""
        with self._file.writing() as connection:
            cursor = connection.execute(
                "UPDATE commitments SET is_finished = ?, due_at = ?, revision = ?, document = ?"
                " WHERE transaction_uid = ? AND revision = ?",
                (*_commitment_columns(new), str(old.transaction), old.revision),
            )
            return cursor.rowcount == 1

    def due_commitments(self, now: datetime) -> Iterator[CommitmentRequest]:
        """Yield the unfinished requests that are due at `now` or before, the longest due first."""
        size = min(self.page_size, _COMMITMENTS_OF_A_PAGE)

        def page(after: _Key) -> list[_Key]:
            return self._rows(
                "SELECT due_at, transaction_uid, document FROM commitments"
                " WHERE is_finished = 0 AND due_at <= ? AND (due_at, transaction_uid) > (?, ?)"
                " ORDER BY due_at, transaction_uid LIMIT ?",
                (time_text(now), *after, size),
            )

        yield from self._paged(page, ("", ""), COMMITMENT.loads, size)

    def forget_commitments(self, finished_before: datetime) -> None:
        """Delete the requests that were finished before then."""
        with self._file.writing() as connection:
            connection.execute(
                "DELETE FROM commitments WHERE is_finished = 1 AND due_at < ?", (time_text(finished_before),)
            )

    def find_instances(self, sop_instances: Sequence[Uid]) -> Sequence[InstanceRecord]:
        """Return the newest records of those SOP Instance UIDs, one for each study that has one."""
        found = []
        with self._file.reading() as connection:
            for sop_instance in dict.fromkeys(sop_instances):
                rows = connection.execute(_NEWEST_OF_INSTANCE, (str(sop_instance),)).fetchall()
                found += [INSTANCE.loads(row[0]) for row in rows]
        return found

    def _flagged(self, table: str, condition: str) -> Iterator[InstanceRecord]:
        statement = (
            f"SELECT batch, study, sop_instance, document FROM {table}"  # noqa: S608  # our own two words
            f" WHERE {condition} AND (batch, study, sop_instance) > (?, ?, ?)"
            " ORDER BY batch, study, sop_instance LIMIT ?"
        )
        yield from self._paged(
            lambda after: self._rows(statement, (*after, self.page_size)), ("", "", ""), INSTANCE.loads
        )

    def _paged(
        self,
        page: Callable[[_Key], list[_Key]],
        start: _Key,
        loads: Callable[[str], _Item],
        size: int | None = None,
    ) -> Iterator[_Item]:
        after = start
        while rows := page(after):
            for row in rows:
                yield loads(row[-1])
            if len(rows) < (size or self.page_size):
                return
            after = rows[-1][:-1]

    def _rows(self, statement: str, values: Sequence[str | int]) -> list[Any]:
        with self._file.connection() as connection:
            return connection.execute(statement, values).fetchall()


_NEWEST = "SELECT batch, attempt, state, document FROM newest WHERE study = ? AND sop_instance = ?"
_NEWEST_OF_INSTANCE = "SELECT document FROM newest WHERE sop_instance = ? ORDER BY study"
_ENTRY = "SELECT document FROM entries WHERE batch = ? AND study = ? AND sop_instance = ?"
_STUDY = "SELECT document FROM studies WHERE study = ?"


def _commitment_columns(request: CommitmentRequest) -> tuple[int, str, int, str]:
    return int(request.is_finished), time_text(request.due_at), request.revision, COMMITMENT.dumps(request)


def _identity(record: InstanceRecord | None) -> tuple[BatchId, int, InstanceState, tuple[BatchId, ...]] | None:
    return None if record is None else (record.batch, record.attempt, record.state, record.earlier)


def _replace(connection: sqlite3.Connection, old: Batch, new: Batch) -> bool:
    cursor = connection.execute(
        "UPDATE batches SET state = ?, revision = ?, document = ? WHERE id = ? AND revision = ?",
        (new.state.value, new.revision, BATCH.dumps(new), str(old.id), old.revision),
    )
    return cursor.rowcount == 1


def _put_entry(connection: sqlite3.Connection, entry: InstanceRecord) -> None:
    study, sop_instance = str(entry.key.study), str(entry.key.sop_instance)
    row = connection.execute(_ENTRY, (str(entry.batch), study, sop_instance)).fetchone()
    if row is not None and not entry.may_replace(INSTANCE.loads(row[0])):
        return
    connection.execute(
        "INSERT INTO entries (batch, study, sop_instance, has_conflict, document) VALUES (?, ?, ?, ?, ?)"
        " ON CONFLICT DO UPDATE SET has_conflict = excluded.has_conflict, document = excluded.document",
        (
            str(entry.batch),
            study,
            sop_instance,
            int(entry.conflict is not None),
            INSTANCE.dumps(attrs.evolve(entry, earlier=())),
        ),
    )
    row = connection.execute(_NEWEST, (study, sop_instance)).fetchone()
    if row is None or row[0] != str(entry.batch):
        return
    newest = INSTANCE.loads(row[3])
    if entry.may_replace(newest):
        _put_newest(connection, attrs.evolve(entry, earlier=newest.earlier))


def _put_newest(connection: sqlite3.Connection, record: InstanceRecord) -> None:
    connection.execute(
        "INSERT INTO newest (study, sop_instance, batch, attempt, state, document) VALUES (?, ?, ?, ?, ?, ?)"
        " ON CONFLICT DO UPDATE SET batch = excluded.batch, attempt = excluded.attempt,"
        " state = excluded.state, document = excluded.document",
        (
            str(record.key.study),
            str(record.key.sop_instance),
            str(record.batch),
            record.attempt,
            record.state.value,
            INSTANCE.dumps(record),
        ),
    )
