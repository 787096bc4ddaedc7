"""
One table: which C-STORE status an error of ours becomes, and the Error Comment that the modality shows.

Every error class has exactly one row, or that of its nearest ancestor with one; the tests hold the table to that.
A comment names the value at fault and the remedy in at most 64 ASCII characters (VR LO), never patient data.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs

from domain import errors
from domain.errors import StoreScpError

SUCCESS = 0x0000  # PS3.7 C.1.1
PROCESSING_FAILURE = 0x0110  # PS3.7 C.5.10
SOP_CLASS_NOT_SUPPORTED = 0x0122  # PS3.7 C.4.3
UNRECOGNIZED_OPERATION = 0x0211  # PS3.7 C.5.23
OUT_OF_RESOURCES = 0xA700  # PS3.4 table B.2-1
DATA_SET_MISMATCH = 0xA900  # PS3.4 table B.2-1
CANNOT_UNDERSTAND = 0xC000  # PS3.4 table B.2-1

LONGEST_COMMENT = 64  # VR LO, PS3.7 C.1

_SOP_CLASS_UID = 0x00080016
_SOP_INSTANCE_UID = 0x00080018


@attrs.frozen(kw_only=True)
class Answer:
    """
    A status and what goes with it.

    Attributes:
        status: Status (0000,0900).
        comment: Error Comment (0000,0902).
        offending_element: a tag for (0000,0901), or None.

    """

    status: int
    comment: str = ""
    offending_element: int | None = None


@attrs.frozen(kw_only=True)
class Row:
    """
    One row of the table.

    Attributes:
        status: the status the error becomes.
        comment: text of the Error Comment, given the error; cut to its length.
        citation: where the standard defines the status, and why it is this one.
        offending_element: the tag at fault, given the error.

    """

    status: int
    comment: Callable[[Any], str]
    citation: str
    offending_element: Callable[[Any], int | None] = lambda _: None


def _say(text: str) -> Callable[[Any], str]:
    return lambda _: text


_RETRY = "sent again later it may succeed"
_REFUSED_FOR_NOW = f"PS3.4 table B.2-1, A7xx Refused: Out of Resources: nothing is wrong with the instance, {_RETRY}"
_NOT_OF_A_STORE = "PS3.7 C.5.10 Processing failure: no C-STORE should meet this error, so it is a fault of ours"

TABLE: dict[type[StoreScpError], Row] = {
    StoreScpError: Row(
        status=PROCESSING_FAILURE, comment=_say("Receiver failed: see its log; send again"), citation=_NOT_OF_A_STORE
    ),
    errors.PeerError: Row(
        status=CANNOT_UNDERSTAND,
        comment=_say("Instance cannot be kept: see the receiver's log"),
        citation="PS3.4 table B.2-1, Cxxx Error: Cannot understand: the instance is at fault",
    ),
    errors.InvalidIdentifier: Row(
        status=CANNOT_UNDERSTAND,
        comment=lambda error: (
            f"{_brief(error.kind)} not valid: 1-64 digits and dots allowed"
            if error.kind.endswith("UID")
            else f"{_brief(error.kind)} not valid: correct it at the device"
        ),
        citation="PS3.4 table B.2-1, Cxxx Error: Cannot understand: an identifier is none",
    ),
    errors.UnreadableDataSet: Row(
        status=CANNOT_UNDERSTAND,
        comment=lambda error: error.problem,
        citation="PS3.4 table B.2-1, Cxxx Error: Cannot understand: the data set cannot be read",
    ),
    errors.DataSetMismatch: Row(
        status=DATA_SET_MISMATCH,
        comment=lambda error: f"{_brief(error.attribute)} in command and data set differ: fix sender",
        citation="PS3.4 table B.2-1, A9xx Error: Data Set does not match SOP Class",
        offending_element=lambda error: _SOP_CLASS_UID if error.attribute == "SOP Class UID" else _SOP_INSTANCE_UID,
    ),
    errors.InstanceTooLarge: Row(
        status=OUT_OF_RESOURCES,
        comment=lambda error: f"Over {error.max_bytes} bytes: raise --maximum-object-bytes",
        citation="PS3.4 table B.2-1, A7xx Refused: Out of Resources: the instance is fine, our limit is too low",
    ),
    errors.ProtocolViolation: Row(
        status=PROCESSING_FAILURE,
        comment=_say("Protocol broken by the sender: association aborted"),
        citation="PS3.7 C.5.10 Processing failure; never sent, since the association is aborted (PS3.8 9.3.8)",
    ),
    errors.OurError: Row(
        status=PROCESSING_FAILURE, comment=_say("Receiver failed: see its log; send again"), citation=_NOT_OF_A_STORE
    ),
    errors.StageFailed: Row(
        status=OUT_OF_RESOURCES,
        comment=_say("Receiver could not save it: see its log; send again"),
        citation=_REFUSED_FOR_NOW,
    ),
    errors.Draining: Row(
        status=OUT_OF_RESOURCES,
        comment=_say("Receiver is stopping: send again in some minutes"),
        citation=_REFUSED_FOR_NOW,
    ),
    errors.MetadataUnavailable: Row(
        status=OUT_OF_RESOURCES,
        comment=_say("Receiver's database not reachable: send again later"),
        citation=_REFUSED_FOR_NOW,
    ),
    errors.InvalidSettings: Row(
        status=PROCESSING_FAILURE, comment=_say("Receiver settings are wrong: see its log"), citation=_NOT_OF_A_STORE
    ),
    errors.NotFound: Row(
        status=PROCESSING_FAILURE, comment=_say("Receiver failed: see its log; send again"), citation=_NOT_OF_A_STORE
    ),
    errors.NotPossible: Row(
        status=PROCESSING_FAILURE, comment=_say("Receiver failed: see its log; send again"), citation=_NOT_OF_A_STORE
    ),
    errors.TemporaryServiceError: Row(
        status=OUT_OF_RESOURCES,
        comment=_say("A service behind the receiver is busy: send again later"),
        citation=_REFUSED_FOR_NOW,
    ),
    errors.ImporterBusy: Row(
        status=OUT_OF_RESOURCES,
        comment=_say("A service behind the receiver is busy: send again later"),
        citation=_REFUSED_FOR_NOW,
    ),
    errors.ResultsNotReady: Row(
        status=OUT_OF_RESOURCES,
        comment=_say("A service behind the receiver is busy: send again later"),
        citation=_REFUSED_FOR_NOW,
    ),
    errors.FinalServiceError: Row(
        status=PROCESSING_FAILURE,
        comment=_say("A service refused the receiver: see its log"),
        citation=_NOT_OF_A_STORE,
    ),
    errors.ImportRefused: Row(
        status=PROCESSING_FAILURE,
        comment=_say("A service refused the receiver: see its log"),
        citation=_NOT_OF_A_STORE,
    ),
    errors.ResultsUnreadable: Row(
        status=PROCESSING_FAILURE,
        comment=_say("A service refused the receiver: see its log"),
        citation=_NOT_OF_A_STORE,
    ),
    errors.IllegalTransition: Row(
        status=PROCESSING_FAILURE, comment=_say("Receiver failed: see its log; send again"), citation=_NOT_OF_A_STORE
    ),
}

# Anything else is a bug of ours. 0xA700 would invite modalities to repeat for ever what may never succeed; 0x0110
# says that we failed, and makes senders keep the image and show it as not sent.
UNEXPECTED = Answer(status=PROCESSING_FAILURE, comment="Receiver failed unexpectedly: see its log; send again")


def answer_for(error: BaseException) -> Answer:
    """Find the answer to a C-STORE that ended in `error`, whatever it is."""
    for ancestor in type(error).__mro__:
        row = TABLE.get(ancestor)
        if row is not None:
            return Answer(
                status=row.status, comment=_comment(row.comment(error)), offending_element=row.offending_element(error)
            )
    return UNEXPECTED


def _comment(text: str) -> str:
    """Make a text fit for VR LO: printable ASCII without backslash, at most 64 characters."""
    printable = "".join(character if " " <= character <= "~" and character != "\\" else "?" for character in text)
    return printable[:LONGEST_COMMENT].rstrip()


def _brief(name: str) -> str:
    return name[:24]
