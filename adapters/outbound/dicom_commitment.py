"""
DicomCommitmentSender: deliver storage commitment results on associations that we open (PS3.4 J.3.3).

We are the SCP although we are the requestor, so the SCP role is proposed (PS3.7 D.3.3.4).
"""

from __future__ import annotations

import time
from collections.abc import Callable

import attrs
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import build_role, evt
from pynetdicom.association import Association

from adapters.outbound.dicom_requestor import Requestor
from domain.commitment import CommitmentPeer, CommitmentResult

_STORAGE_COMMITMENT = "1.2.840.10008.1.20.1"
_WELL_KNOWN_INSTANCE = "1.2.840.10008.1.20.1.1"  # PS3.4 J.3.5
_WARNINGS = frozenset({0x0001, 0x0107, 0x0116})  # PS3.7 C.1
_REJECTIONS = {
    (1, 3): "it does not accept our calling AE title {called}: enter it there as the storage commitment SCP",
    (1, 7): "it is not called {peer}: correct its AE title there or in --commitment-peers",
    (3, 1): "it is busy",
    (3, 2): "it has as many associations open as it allows",
}


@attrs.frozen(kw_only=True)
class DicomCommitmentSender:
    """
    A CommitmentSender (domain/ports.py) on pynetdicom; safe to use from any thread.

    Attributes:
        information: writes the Event Information of a result.
        event_type: tells its Event Type ID.
        timeout_seconds: for the connection, for the answer to the association request and for that to the event.

    """

    information: Callable[[CommitmentResult], Dataset]
    event_type: Callable[[CommitmentResult], int]
    timeout_seconds: float = 30.0

    def deliver(self, result: CommitmentResult, to: CommitmentPeer) -> str | None:
        """Deliver a result; None once the peer has confirmed it, else what went wrong."""
        opened: list[evt.Event] = []
        entity = Requestor(result.called.value)
        # The peer takes one of them; compressed ones have no meaning here.
        entity.add_requested_context(_STORAGE_COMMITMENT, [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
        entity.acse_timeout = entity.dimse_timeout = entity.connection_timeout = self.timeout_seconds
        entity.network_timeout = 2 * self.timeout_seconds
        began = time.monotonic()
        try:
            association = entity.associate(
                to.host,
                to.port,
                ae_title=to.ae_title.value,
                ext_neg=[build_role(_STORAGE_COMMITMENT, scp_role=True)],
                evt_handlers=[(evt.EVT_CONN_OPEN, opened.append)],
            )
        except (OSError, RuntimeError, ValueError) as error:
            return f"no connection to {to.host} port {to.port}: {type(error).__name__}"
        if not association.is_established:
            entity.hang_up(association)
            return self._why(association, result, to, is_connected=bool(opened), seconds=time.monotonic() - began)
        try:
            return self._report(association, result, to)
        finally:
            entity.end(association)

    def _report(self, association: Association, result: CommitmentResult, to: CommitmentPeer) -> str | None:
        # A peer that leaves our role proposal unanswered is told all the same: many devices do, and wait for this.
        try:
            answer, _ = association.send_n_event_report(
                self.information(result), self.event_type(result), _STORAGE_COMMITMENT, _WELL_KNOWN_INSTANCE
            )
        except (RuntimeError, ValueError) as error:
            return f"{to.ae_title} did not take the result: {type(error).__name__}"
        status = answer.get("Status")
        if status is None:
            return f"{to.ae_title} took the association and did not answer within {self.timeout_seconds:g} s"
        if status == 0 or status in _WARNINGS or status >> 12 == 0xB:  # noqa: PLR2004  # PS3.7 C.1: Bxxx are warnings
            return None
        return f"{to.ae_title} refused the result with status 0x{status:04X}: look there for the reason"

    def _why(
        self,
        association: Association,
        result: CommitmentResult,
        to: CommitmentPeer,
        *,
        is_connected: bool,
        seconds: float,
    ) -> str:
        where = f"{to.ae_title} at {to.host} port {to.port}"
        if not is_connected:
            how = "does not answer" if seconds >= self.timeout_seconds else "refuses the connection, or is unknown"
            return f"{where} {how}: check the address in --commitment-peers, and that no firewall is in between"
        answer = association.acceptor.primitive
        if association.is_rejected and answer is not None:
            words = _REJECTIONS.get((answer.result_source or 0, answer.diagnostic or 0), "it gives no reason")
            return f"{where} rejected the association: {words.format(called=result.called, peer=to.ae_title)}"
        if association.rejected_contexts:
            return f"{where} does not take Storage Commitment Push Model with us as its SCP: enable it there"
        return f"{where} ended the connection without an answer: does it expect TLS, or is it no DICOM device?"
