"""
Receive one instance: draft its bytes, check what they are, make them durable under an open batch.
"""

from __future__ import annotations

import attrs
from blake3 import blake3

from domain.errors import InstanceTooLarge, StageFailed
from domain.instance import IdentifyingAttributes, SopInstance, StoreRequest, digest_of, identify
from domain.ports import Clock, Draft, StagingArea, Telemetry
from services.write_batches import WriteBatches


@attrs.define
class Reception:
    """One C-STORE on its way in; used by the thread of its association alone."""

    _service: ReceiveInstance
    _request: StoreRequest
    _draft: Draft
    _size: int
    _hash: blake3 = attrs.field(factory=blake3, init=False)

    def write(self, data: bytes | memoryview) -> None:
        """
        Take the next bytes of the data set, exactly as sent.

        Raises:
            InstanceTooLarge: more bytes than one object may have.
            StageFailed: there is no room for them.

        """
        self._size += len(data)
        if self._size > self._service.max_bytes:
            raise InstanceTooLarge(self._service.max_bytes)
        self._hash.update(data)
        self._draft.write(data)

    def finish(self, attributes: IdentifyingAttributes) -> SopInstance:
        """
        Make the complete instance durable; when this returns it cannot be lost.

        Raises:
            UnreadableDataSet, DataSetMismatch: it is not what it should be (PS3.4 B.2.3).
            StageFailed, MetadataUnavailable, Draining: it is not certainly durable.

        """
        service = self._service
        try:
            instance = identify(
                self._request,
                attributes,
                size=self._size,
                digest=digest_of(self._hash, self._request.transfer_syntax),
                received_at=service.clock.now(),
            )
            is_new = service.batches.store(self._draft, instance)
        finally:
            self._draft.discard()
        service.telemetry.event(
            "instance.staged" if is_new else "instance.repeated",
            association=self._request.association,
            sop_instance=instance.sop_instance.value,
            study=instance.study.value,
            bytes=instance.size,
        )
        service.telemetry.measure("InstancesReceived", 1)
        service.telemetry.measure("BytesReceived", instance.size, "Bytes")
        return instance

    def abandon(self) -> None:
        """Give up what arrived so far; may be repeated, never raises."""
        self._draft.discard()


@attrs.frozen(kw_only=True)
class ReceiveInstance:
    """
    Begin receiving one instance.

    Attributes:
        max_bytes: the largest object that is taken, in bytes.

    """

    staging: StagingArea
    batches: WriteBatches
    clock: Clock
    telemetry: Telemetry
    max_bytes: int = 4_000_000_000

    def begin(self, request: StoreRequest, header: bytes) -> Reception:
        """
        Begin with the Part 10 header that goes before the data set (PS3.10 7.1).

        The digest covers the data set and the transfer syntax UID, not the header: it names us, not the instance.

        Raises:
            StageFailed: there is no room for another object.

        """
        draft = self.staging.draft()
        try:
            draft.write(header)
        except StageFailed:
            draft.discard()
            raise
        return Reception(self, request, draft, draft.size)
