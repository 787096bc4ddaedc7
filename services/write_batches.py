"""
Write complete instances into this process's open batch, and close the batch when it is time.

One process has one open batch that all its associations share.
That process alone writes to the batch's prefix, so what is in flight is known here without any lock elsewhere.
Closing waits only for writes to the stage, never for a slow sender.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress

import attrs

from domain.batch import Batch, BatchPolicy, CloseReason, Join, LeasePolicy, OpenBatch
from domain.errors import Draining, MetadataUnavailable, StageFailed, StoreScpError
from domain.identifiers import BatchId
from domain.instance import SopInstance
from domain.lifecycle import BatchState
from domain.ports import Clock, Draft, MetadataStore, StagingArea, Telemetry, Workflow

_RESTAGES = 3


@attrs.define(eq=False)
class _Owned:
    """
    An open batch of this process.

    Attributes:
        contents: what joined it.
        lease_until: when the lease ends, on the monotonic clock in seconds.
        renewed_at: when it was last renewed, on the same clock.
        is_certain: its record is known to exist.

    """

    contents: OpenBatch
    lease_until: float
    renewed_at: float
    is_certain: bool = False

    @property
    def id(self) -> BatchId:
        return self.contents.batch.id


@attrs.define(kw_only=True)
class WriteBatches:
    """
    The batches that this process writes to; safe to share between threads.

    `store` is called by every association; `tick` by one thread, about once a second; `drain` once at the end.

    Attributes:
        owner: names this process in the records of its batches.
        lease: None where the owner holds a lock instead.
        entropy: returns a few fresh random characters for each batch id.

    """

    staging: StagingArea
    metadata: MetadataStore
    workflow: Workflow
    clock: Clock
    telemetry: Telemetry
    owner: str
    entropy: Callable[[], str]
    policy: BatchPolicy = attrs.field(factory=BatchPolicy)
    lease: LeasePolicy | None = None
    _changed: threading.Condition = attrs.field(factory=threading.Condition, init=False)
    _current: _Owned | None = attrs.field(default=None, init=False)
    _closing: list[_Owned] = attrs.field(factory=list, init=False)
    _is_opening: bool = attrs.field(default=False, init=False)
    _failed_openings: int = attrs.field(default=0, init=False)
    _is_draining: bool = attrs.field(default=False, init=False)

    def store(self, draft: Draft, instance: SopInstance) -> bool:
        """
        Make a complete instance durable under an open batch whose record exists and whose lease still holds.

        Returns:
            False if the same bytes were already durable in the open batch, and nothing was written.

        Raises:
            StageFailed: the bytes are not certainly durable; another attempt may succeed.
            MetadataUnavailable: no batch could be opened.
            Draining: the process is stopping.

        """
        for _ in range(_RESTAGES):
            owned = self._join(instance)
            if owned is None:
                return False
            if self._stage(owned, draft, instance):
                return True
            self.telemetry.event("lease.lost", batch=owned.id.value)
        raise StageFailed("the lease of the batch ran out again and again while writing")

    def tick(self) -> None:
        """Renew leases, close what is due and hand what is closed to the workflow."""
        now = self.clock.monotonic()
        with self._changed:
            current = self._current
            reason = current.contents.due(now) if current is not None else None
            writing = [owned for owned in self._closing if owned.contents.in_flight]
        for owned in writing:
            self._renew(owned)  # a large object may take longer than a lease
        if current is not None and reason is None:
            self._renew(current)
        elif current is not None and reason is not None and self._may_close(current, reason):
            with self._changed:
                self._retire(current, reason)
        self._finish_closing()

    def drain(self) -> bool:
        """
        Take nothing further and close what is open; call again until it returns True.

        Returns:
            Whether every batch of this process is closed.

        """
        with self._changed:
            self._is_draining = True
            if self._current is not None:
                self._retire(self._current, CloseReason.STOPPING)
            self._changed.notify_all()
        self._finish_closing()
        with self._changed:
            return not self._closing and self._current is None and not self._is_opening

    def open_age_seconds(self) -> float | None:
        """Return for how long the open batch has been open, in seconds; None if there is none."""
        with self._changed:
            current = self._current
            return None if current is None else self.clock.monotonic() - current.contents.opened_at

    def _join(self, instance: SopInstance) -> _Owned | None:
        """Count `instance` into a batch that takes it; None if it is durable there already."""
        with self._changed:
            while True:
                if self._is_draining:
                    raise Draining
                current = self._current
                if current is None:
                    self._open()
                    continue
                now = self.clock.monotonic()
                if now >= current.lease_until:
                    self._retire(current, CloseReason.SUSPECT)
                    continue
                match current.contents.answer(instance):
                    case Join.JOINS:
                        current.contents.begin(instance, now)
                        return current
                    case Join.REPEAT:
                        return None
                    case Join.WAIT:
                        self._changed.wait()
                    case _:  # the next batch takes it
                        self._retire(current, current.contents.close_reason or CloseReason.AGE)

    def _stage(self, owned: _Owned, draft: Draft, instance: SopInstance) -> bool:
        """Write one instance; False if the lease ran out before the stage had confirmed it."""
        is_durable, is_suspect = False, False
        try:
            self.staging.stage(draft, owned.id, instance)
            is_durable = self.clock.monotonic() < owned.lease_until
            is_suspect = not is_durable
        except StageFailed as error:
            is_suspect = error.suspect_prefix
            raise
        finally:
            with self._changed:
                now = self.clock.monotonic()
                if is_durable:
                    owned.contents.confirm(instance, now)
                else:
                    owned.contents.doubt(instance, now, suspect=is_suspect)
                self._changed.notify_all()
        return is_durable

    def _open(self) -> None:
        """Open a batch, its record first; the lock is released meanwhile, and one thread does it for all."""
        if self._is_opening:
            failed = self._failed_openings
            self._changed.wait_for(lambda: not self._is_opening)
            if self._failed_openings != failed:
                raise MetadataUnavailable("no batch could be opened")
            return
        self._is_opening = True
        self._changed.release()
        opened: _Owned | None = None
        try:
            opened = self._new_batch()
        finally:
            self._changed.acquire()
            self._is_opening = False
            self._failed_openings += opened is None
            self._changed.notify_all()
        self._current = opened

    def _new_batch(self) -> _Owned:
        if any(not owned.is_certain for owned in self._closing):
            # One record without an answer is enough: it is settled first.
            self._finish_closing()
            if any(not owned.is_certain for owned in self._closing):
                raise MetadataUnavailable("whether the last batch was opened is not known")
        now, started = self.clock.now(), self.clock.monotonic()
        batch = Batch(
            id=BatchId.at(now, self.entropy()),
            owner=self.owner,
            opened_at=now,
            lease_expires_at=self.lease.expiry(now) if self.lease else None,
        )
        owned = _Owned(
            contents=OpenBatch(batch=batch, policy=self.policy, opened_at=started, joined_at=started),
            lease_until=started + self.lease.seconds if self.lease else float("inf"),
            renewed_at=started,
        )
        try:
            is_new = self.metadata.add_batch(batch)
        except MetadataUnavailable:
            # The record may exist all the same: it is closed like any other.
            owned.contents.close(CloseReason.SUSPECT)
            with self._changed:
                self._closing.append(owned)
            raise
        if not is_new:
            raise MetadataUnavailable(f"batch {batch.id} exists already")
        owned.is_certain = True
        owned.contents.joined_at = self.clock.monotonic()
        self.telemetry.event("batch.opened", batch=batch.id.value)
        return owned

    def _retire(self, owned: _Owned, reason: CloseReason) -> None:
        """Take a batch out of use (the lock is held); its record is closed when its last write has ended."""
        if self._current is owned:
            owned.contents.close(reason)
            self._closing.append(owned)
            self._current = None
            self._changed.notify_all()

    def _may_close(self, owned: _Owned, reason: CloseReason) -> bool:
        """
        Ask the metadata store whether it is there before a usable batch is given up.

        While it is away no new batch can be opened, so receiving goes on in the present one.
        """
        if reason not in {CloseReason.AGE, CloseReason.QUIET}:
            return True
        try:
            self.metadata.batch(owned.id)
        except MetadataUnavailable:
            self._renew(owned)
            return False
        return True

    def _renew(self, owned: _Owned) -> None:
        if self.lease is None:
            return
        started = self.clock.monotonic()
        if started - owned.renewed_at < self.lease.renew_every_seconds:
            return
        batch = owned.contents.batch
        longer = batch.renewed(self.lease.expiry(self.clock.now()))
        try:
            is_ours = self.metadata.replace_batch(batch, longer)
            stored = batch if is_ours else self.metadata.batch(batch.id)
            if not is_ours and stored is not None and stored.state is BatchState.OPEN:
                # The answer to an earlier renewal was lost: the next one starts from what it wrote.
                with self._changed:
                    owned.contents.batch = stored
                return
        except MetadataUnavailable:
            self.telemetry.event("lease.renewal_failed", batch=batch.id.value)
            return
        with self._changed:
            if is_ours:
                owned.contents.batch = longer
                owned.lease_until = started + self.lease.seconds
                owned.renewed_at = started
            else:
                owned.lease_until = float("-inf")
                self._retire(owned, CloseReason.SUSPECT)
                self.telemetry.event("lease.lost", batch=batch.id.value)

    def _finish_closing(self) -> None:
        with self._changed:
            ready = [owned for owned in self._closing if not owned.contents.in_flight]
        for owned in ready:
            try:
                self._close(owned)
            except StageFailed as error:
                # Nothing is lost: the batch stays open until its objects are where the import looks for them.
                self.telemetry.event("batch.seal_failed", batch=owned.id.value, detail=str(error))
                continue
            except MetadataUnavailable:
                # Whether the record is closed is unknown; the prefix takes nothing any more, so trying again is safe.
                self.telemetry.event("batch.close_failed", batch=owned.id.value)
                continue
            with self._changed:
                with suppress(ValueError):  # the end of the process may finish it at the same time
                    self._closing.remove(owned)
                self._changed.notify_all()

    def _close(self, owned: _Owned) -> None:
        stored = self.metadata.batch(owned.id)
        reason = owned.contents.close_reason or CloseReason.STOPPING
        if stored is None or stored.state is not BatchState.OPEN:
            # Recovery closed it, or an earlier answer was lost; either way others carry it on.
            if stored is not None and stored.state is BatchState.CLOSED:
                self._hand_over(stored)
            return
        self.staging.seal(owned.id)
        closed = stored.closed(self.clock.now(), reason)
        if not self.metadata.replace_batch(stored, closed):
            # A renewal landed late, or recovery came in between: the next look tells which.
            raise MetadataUnavailable(f"the record of batch {owned.id} has just changed")
        self.telemetry.event(
            "batch.closed",
            batch=owned.id.value,
            reason=reason,
            files=owned.contents.files,
            bytes=owned.contents.size,
        )
        self._hand_over(closed)

    def _hand_over(self, closed: Batch) -> None:
        try:
            self.workflow.start(closed)
        except StoreScpError:
            # The batch is closed and its record says so: recovery starts what was not started.
            self.telemetry.event("workflow.start_failed", batch=closed.id.value)
