"""
What a message asks for and what we answer, association by association, without sockets.

A failing C-STORE never ends the association: the rest of its data set is read and dropped, then its status is sent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from time import monotonic

from adapters.inbound.dicom.associate import ContextResult
from adapters.inbound.dicom.commitment import STORAGE_COMMITMENT, AssociationCommitments, CommitmentAction
from adapters.inbound.dicom.counters import Counters
from adapters.inbound.dicom.dataset import IdentityReader, part10_header
from adapters.inbound.dicom.dimse import (
    RESPONSE,
    Command,
    CommandField,
    CommandReceived,
    MessageReader,
    encode_response,
)
from adapters.inbound.dicom.indications import Fragment
from adapters.inbound.dicom.presentation import PresentationPolicy
from adapters.inbound.dicom.seam import ReceiveInstance, Reception, Telemetry
from adapters.inbound.dicom.status import (
    CANNOT_UNDERSTAND,
    SOP_CLASS_NOT_SUPPORTED,
    SUCCESS,
    UNRECOGNIZED_OPERATION,
    Answer,
    answer_for,
)
from domain.association import Acceptance
from domain.errors import Draining, PeerError, ProtocolViolation, StoreScpError
from domain.identifiers import Uid
from domain.instance import StoreRequest

_C_STORE = CommandField.C_STORE  # looked up once: in an Enum that takes long
_SUCCEEDED = Answer(status=SUCCESS)
_NO_DATA_SET = Answer(status=CANNOT_UNDERSTAND, comment="C-STORE came without a data set: repair the sender")
_NOT_STORAGE = Answer(
    status=SOP_CLASS_NOT_SUPPORTED, comment="SOP class not welcome here: see --supported-sop-class-uids"
)
_UNKNOWN_OPERATION = Answer(status=UNRECOGNIZED_OPERATION, comment="Only C-STORE and C-ECHO are served here")


class Operations:
    """
    Perform the operations of one association, in the order they were asked for.

    Args:
        receive: the use case behind C-STORE.
        policy: says again, per instance, which SOP classes are welcome.
        contexts: the accepted presentation contexts by id.
        names: calling and called AE title.
        association: the label of this association in events.
        telemetry: where refused instances are reported.
        send: sends one response: context id and encoded command set.
        commitments: storage commitment on this association; None where it is not served.

    """

    def __init__(  # noqa: PLR0913 - collaborators arrive one by one, each by its name
        self,
        *,
        receive: ReceiveInstance,
        policy: PresentationPolicy,
        contexts: Mapping[int, ContextResult],
        names: Acceptance,
        association: str,
        telemetry: Telemetry,
        send: Callable[[int, bytes], None],
        commitments: AssociationCommitments | None = None,
    ) -> None:
        self.counters = Counters()
        self._receive = receive
        self._policy = policy
        self._contexts = {
            context_id: (context.abstract_syntax, Uid(context.transfer_syntax))
            for context_id, context in contexts.items()
        }
        self._names = names
        self._association = association
        self._telemetry = telemetry
        self._send = send
        self._reader = MessageReader()
        self._current: tuple[int, Command] | None = None
        self._store: _Store | None = None
        self._commitments = commitments
        self._action: CommitmentAction | None = None

    @property
    def is_within_message(self) -> bool:
        """Whether a message has begun and not ended."""
        return self._reader.is_within_message

    def feed(self, fragment: Fragment) -> None:
        """
        Take the next fragment; a complete message is answered before this returns.

        Raises:
            ProtocolViolation: the association must be aborted.

        """
        event = self._reader.feed(fragment)
        if isinstance(event, CommandReceived):
            self._command(event)
        elif event is not None:
            self._data(event)

    def abandon(self) -> None:
        """Forget what is under way; harmless when nothing is."""
        store, self._store = self._store, None
        if store is not None:
            store.abandon()
        if self._commitments is not None:
            self._commitments.close()

    def _command(self, event: CommandReceived) -> None:
        context_id, command = event
        if command.is_response:
            self._response(command)
            return
        self._current = context_id, command
        if command.field == _C_STORE and command.has_data_set:
            self._store = self._begin(context_id, command)
        elif command.field == CommandField.N_ACTION and self._commitments is not None:
            abstract_syntax, transfer_syntax = self._contexts[context_id]
            if abstract_syntax == STORAGE_COMMITMENT:
                self._action = self._commitments.begin(context_id, transfer_syntax.value, command)
        if not command.has_data_set:
            self._end()

    def _response(self, command: Command) -> None:
        # An N-EVENT-REPORT is all that we ever ask; an Event Reply that follows is dropped (PS3.7 10.1.1.1.7).
        if self._commitments is None or command.field != CommandField.N_EVENT_REPORT | RESPONSE:
            raise ProtocolViolation("a response came to a request that was never sent")
        self._commitments.responded(command)

    def _data(self, fragment: Fragment) -> None:
        store = self._store
        if store is not None:
            store.write(fragment.data)
            self.counters.data_set_bytes += len(fragment.data)
        elif self._action is not None:
            self._action.write(fragment.data)
        if fragment.is_last and self._current is not None:
            self._end()

    def _begin(self, context_id: int, command: Command) -> _Store:
        abstract_syntax, transfer_syntax = self._contexts[context_id]
        store = _Store(transfer_syntax)
        # A specialised class may travel in the context of its general one (PS3.4 B.3.1.3), but not past a policy.
        is_welcome = abstract_syntax not in self._policy.services and (
            command.sop_class_uid == abstract_syntax or self._policy.is_storage_welcome(command.sop_class_uid)
        )
        if not is_welcome:
            store.refuse(_NOT_STORAGE)
            return store
        request = StoreRequest(
            sop_class_uid=command.sop_class_uid,
            sop_instance_uid=command.sop_instance_uid,
            transfer_syntax=transfer_syntax,
            calling_ae_title=self._names.calling_ae_title,
            called_ae_title=self._names.called_ae_title,
            association=self._association,
        )
        store.begin(self._receive, request)
        return store

    def _end(self) -> None:
        """Answer the message at hand, whose last byte has arrived."""
        assert self._current is not None  # noqa: S101 - set by its command
        started = monotonic()
        context_id, command = self._current
        store, self._store = self._store, None
        action, self._action = self._action, None
        self._current = None
        field = command.field
        if store is not None:
            answer = store.finish()
            if answer is _SUCCEEDED:
                self.counters.stored += 1
                self.counters.staged_at = started
            else:
                if store.error is not None and not isinstance(store.error, PeerError | Draining):
                    self.counters.stage_failed_at = started
                self._report(command, answer, store.error)
        elif action is not None:
            answer = action.finish()
        elif field == _C_STORE:
            answer = _NO_DATA_SET
            self._report(command, answer, None)
        elif field == CommandField.C_ECHO:
            answer = _SUCCEEDED
            self.counters.echoed += 1
        elif field == CommandField.C_CANCEL:
            return  # nothing it could cancel is ever under way, and it has no response (PS3.7 9.3.2.3)
        else:
            answer = _UNKNOWN_OPERATION
        response = encode_response(
            command, answer.status, comment=answer.comment, offending_element=answer.offending_element
        )
        self._send(context_id, response)
        if field == _C_STORE:
            self.counters.answered(answer.status, monotonic() - started)

    def _report(self, command: Command, answer: Answer, error: BaseException | None) -> None:
        self.counters.refused += 1
        self._telemetry.event(
            "instance.refused",
            association=self._association,
            calling_ae_title=self._names.calling_ae_title.value,
            sop_class_uid=_only_uid(command.sop_class_uid),
            sop_instance_uid=_only_uid(command.sop_instance_uid),
            status=f"0x{answer.status:04X}",
            comment=answer.comment,
            error=None if error is None else type(error).__name__,
            # Errors of ours never quote patient data; nobody knows what others quote.
            detail=str(error) if isinstance(error, StoreScpError) else None,
        )


class _Store:
    """One C-STORE: passes its data set on, and after a failure drops the rest and remembers the answer."""

    def __init__(self, transfer_syntax: Uid) -> None:
        self.error: BaseException | None = None
        self._answer: Answer | None = None
        self._reception: Reception | None = None
        self._identity = IdentityReader(transfer_syntax)

    def begin(self, receive: ReceiveInstance, request: StoreRequest) -> None:
        try:
            self._reception = receive.begin(request, part10_header(request))
        except Exception as error:  # noqa: BLE001 - whatever it is, the sender gets an answer
            self._fail(error)

    def write(self, data: memoryview) -> None:
        reception = self._reception
        if reception is None:
            return
        try:
            if not self._identity.is_done:
                self._identity.feed(data)
            reception.write(data)
        except Exception as error:  # noqa: BLE001 - whatever it is, the sender gets an answer
            self._fail(error)

    def finish(self) -> Answer:
        if self._answer is not None:
            return self._answer
        reception = self._reception
        assert reception is not None  # noqa: S101 - else there is an answer
        try:
            reception.finish(self._identity.result())
        except Exception as error:  # noqa: BLE001 - whatever it is, the sender gets an answer
            self._fail(error)
            return answer_for(error)
        self._reception = None
        return _SUCCEEDED

    def refuse(self, answer: Answer) -> None:
        self._answer = answer

    def abandon(self) -> None:
        reception, self._reception = self._reception, None
        if reception is not None:
            reception.abandon()

    def _fail(self, error: Exception) -> None:
        self.error = error
        self._answer = answer_for(error)
        self.abandon()


def _only_uid(text: str) -> str:
    """Show a UID of a command set; what is none might be anything, so it is not shown."""
    return text if set(text) <= _UID_CHARACTERS else "not a UID"


_UID_CHARACTERS = frozenset("0123456789.")
