"""
What the upper layer tells its driver: PS3.8 indications, the ARTIM timer, the closing of the transport.
"""

from __future__ import annotations

from typing import NamedTuple

from adapters.inbound.dicom.associate import AssociateRequest
from domain.association import Rejection


class AssociateIndication(NamedTuple):
    """The requestor asks for an association; answer with `accept` or `reject`."""

    request: AssociateRequest


class Fragment(NamedTuple):
    """
    A piece of a command or data set.

    Attributes:
        context_id: its presentation context, an accepted one.
        is_command: it belongs to a command set, else to a data set.
        is_last: with its last byte the command set or data set is complete.
        data: a view of the bytes given to `receive`, valid until those are overwritten.

    """

    context_id: int
    is_command: bool
    is_last: bool
    data: memoryview


class ReleaseIndication(NamedTuple):
    """The requestor asks for release; answer with `respond_release`. In a collision wait for ReleaseConfirmation."""

    is_collision: bool = False


class ReleaseConfirmation(NamedTuple):
    """The requestor answered our release request; after a collision `respond_release` is still due."""

    is_collision: bool = False


class AbortIndication(NamedTuple):
    """The peer aborted. `source`: 0 service user (A-ABORT), 2 service provider (A-P-ABORT)."""

    source: int
    reason: int


class ViolationIndication(NamedTuple):
    """The peer broke the protocol and we aborted; `reason` as in PS3.8 table 9-26."""

    reason: int
    problem: str


class LossIndication(NamedTuple):
    """The transport closed without release or abort."""


class RefusalIndication(NamedTuple):
    """The service provider part refused the request by itself."""

    rejection: Rejection
    request: AssociateRequest


class ArtimStart(NamedTuple):
    """Start the ARTIM timer, or restart it."""


class ArtimStop(NamedTuple):
    """Stop the ARTIM timer."""


class CloseTransport(NamedTuple):
    """Send what is to be sent and close the transport."""


Indication = (
    AssociateIndication
    | Fragment
    | ReleaseIndication
    | ReleaseConfirmation
    | AbortIndication
    | ViolationIndication
    | LossIndication
    | RefusalIndication
    | ArtimStart
    | ArtimStop
    | CloseTransport
)
