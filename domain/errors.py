"""
Every error this system raises on purpose, by whose fault it is.

    StoreScpError
    ├── PeerError                       the sender gave us something we cannot keep
    │   ├── InvalidIdentifier           a UID, AE title or id that breaks its rules
    │   ├── UnreadableDataSet           not a data set, or identifying attributes are missing
    │   ├── DataSetMismatch             data set and command name different SOP classes or instances
    │   ├── InstanceTooLarge            more bytes than one object may have
    │   └── ProtocolViolation           bytes that break PS3.7 or PS3.8; the association is aborted
    ├── OurError                        we cannot do it now, or the operator must change something
    │   ├── StageFailed                 the bytes could not be made durable
    │   ├── Draining                    we are stopping
    │   ├── MetadataUnavailable         the metadata store cannot be reached now
    │   ├── InvalidSettings             settings that cannot work, all of them named
    │   ├── NotFound                    asked for a batch, study or instance nobody knows
    │   └── NotPossible                 asked for something that the present state does not allow
    ├── TemporaryServiceError           wait and try again; nothing was changed
    │   ├── ImporterBusy                throttled, quota full, or a service error
    │   └── ResultsNotReady             the results of a finished job are not there yet
    └── FinalServiceError               waiting does not help; an operator must act
        ├── ImportRefused               the import service refused the job for good
        └── ResultsUnreadable           the results exist and make no sense
    IllegalTransition                   a bug: a state change that the tables of lifecycle.py do not know
"""

from __future__ import annotations

import re


class StoreScpError(Exception):
    """Base of every error we raise on purpose; its text never quotes patient data."""


class PeerError(StoreScpError):
    """The sender gave us something we cannot keep; sending it again unchanged will not help."""


class OurError(StoreScpError):
    """We cannot do it now, or the operator has to change something."""


class TemporaryServiceError(StoreScpError):
    """A service cannot answer now; nothing was changed and the step may be repeated later."""


class FinalServiceError(StoreScpError):
    """A service refused for good; the message says what an operator has to fix."""


class InvalidIdentifier(PeerError):
    """
    A value that cannot be the identifier it is meant to be.

    Args:
        kind: what it should have been, such as "SOP Instance UID".
        value: the offending text; the message shows it shortened and escaped, and of what should have been a UID
            only digits and dots, since anything else may be text about a patient.
        rule: what is allowed.

    """

    def __init__(self, kind: str, value: str, rule: str) -> None:
        self.kind = kind
        self.value = value
        self.rule = rule
        shown = value if len(value) <= _SHOWN_CHARACTERS else value[:_SHOWN_CHARACTERS] + "..."
        if kind.endswith("UID"):
            shown = _only_uid(shown)
        super().__init__(f"{kind} {shown!a} is not valid: {rule}")


_SHOWN_CHARACTERS = 70


def _only_uid(text: str) -> str:
    """Hide what no UID holds: a sender that mixes up its attributes may have put a name there."""
    return re.sub(r"[^0-9.]", "?", text)


class UnreadableDataSet(PeerError):
    """
    The data set cannot be read as far as its Series Instance UID, or lacks an identifying attribute.

    Args:
        problem: what is wrong, without any value of the data set.

    """

    def __init__(self, problem: str) -> None:
        self.problem = problem
        super().__init__(problem)


class DataSetMismatch(PeerError):
    """
    The data set and the C-STORE command name different SOP classes or instances (PS3.4 B.2.3, 0xA900).

    Args:
        attribute: "SOP Class UID" or "SOP Instance UID".
        in_command: the value in the command set.
        in_data_set: the value in the data set.

    """

    def __init__(self, attribute: str, in_command: str, in_data_set: str) -> None:
        self.attribute = attribute
        self.in_command = in_command
        self.in_data_set = in_data_set
        shown = _only_uid(in_command[:_SHOWN_CHARACTERS])
        super().__init__(f"{attribute} differs: command {shown}, data set {_only_uid(in_data_set)}")


class InstanceTooLarge(PeerError):
    """
    More bytes than one object may have.

    Args:
        max_bytes: the limit in bytes.

    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        super().__init__(f"instance exceeds {max_bytes} bytes (setting --maximum-object-bytes)")


class ProtocolViolation(PeerError):
    """
    Bytes that break PS3.7 or PS3.8: nothing after them can be understood, so the association is aborted.

    Args:
        problem: what is wrong, without any of the bytes.
        reason: of the A-P-ABORT (PS3.8 table 9-26): 0 not specified, 1 unrecognized PDU, 2 unexpected PDU,
            4 unrecognized, 5 unexpected, 6 invalid PDU parameter.

    """

    def __init__(self, problem: str, *, reason: int = 0) -> None:
        self.problem = problem
        self.reason = reason
        super().__init__(problem)


class StageFailed(OurError):
    """
    The bytes could not be made durable; whether an object exists is unknown.

    Args:
        problem: what failed, in words for the operator.
        suspect_prefix: True when nothing further may be staged under the same batch.

    """

    def __init__(self, problem: str, *, suspect_prefix: bool = False) -> None:
        self.problem = problem
        self.suspect_prefix = suspect_prefix
        super().__init__(problem)


class Draining(OurError):
    """We are stopping and take nothing new."""

    def __init__(self) -> None:
        super().__init__("the receiver is stopping")


class MetadataUnavailable(OurError):
    """The metadata store cannot be reached now; nothing is known to have changed."""


class InvalidSettings(OurError):
    """
    Settings that cannot work.

    Args:
        problems: one sentence each, naming the setting, its value and what is allowed.

    """

    def __init__(self, problems: tuple[str, ...]) -> None:
        self.problems = problems
        lines = "".join(f"\n  - {problem}" for problem in problems)
        super().__init__(f"{len(problems)} problem(s) in the settings:{lines}")


class NotFound(OurError):
    """
    Nobody knows this batch, study or instance.

    Args:
        kind: "batch", "study" or "instance".
        value: the identifier that was asked for.

    """

    def __init__(self, kind: str, value: str) -> None:
        self.kind = kind
        self.value = value
        super().__init__(f"no {kind} {value} is known here")


class NotPossible(OurError):
    """What was asked for cannot be done in the present state; the message says why and what can be done."""


class ImporterBusy(TemporaryServiceError):
    """The import service is throttling, has no free job slot or failed; ask again later."""


class ResultsNotReady(TemporaryServiceError):
    """A finished job's results are not there yet, or incomplete."""


class ImportRefused(FinalServiceError):
    """The import service refused the job and will refuse it again."""


class ResultsUnreadable(FinalServiceError):
    """The results of a finished job exist and make no sense, or never came."""


class IllegalTransition(StoreScpError):
    """
    A state change that the tables of lifecycle.py do not know: a bug, never an outcome.

    Args:
        what: "batch" or "instance".
        before: the present state.
        after: the state that was asked for.

    """

    def __init__(self, what: str, before: str, after: str) -> None:
        super().__init__(f"{what} may not go from {before} to {after}")
