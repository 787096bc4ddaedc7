"""
The state table of an association acceptor as data (PS3.8 tables 9-1 to 9-10); `upper_layer.py` acts on it.

A missing cell cannot happen; what a caller asks for there is a bug.
"""

from __future__ import annotations

import enum


class State(enum.IntEnum):
    """States of PS3.8 9.2.1 that an acceptor can be in; 4, 5, 9 and 11 are the requestor's."""

    IDLE = 1
    AWAIT_ASSOCIATE_RQ = 2
    AWAIT_ASSOCIATE_RESPONSE = 3
    ESTABLISHED = 6
    AWAIT_RELEASE_RP = 7
    AWAIT_RELEASE_RESPONSE = 8
    COLLISION_AWAIT_RELEASE_RP = 10
    COLLISION_AWAIT_RELEASE_RESPONSE = 12
    AWAIT_CLOSE = 13


class Cause(enum.IntEnum):
    """Rows of the state table (PS3.8 table 9-10) that can happen to an acceptor; 1 and 2 are the requestor's."""

    ASSOCIATE_AC = 3
    ASSOCIATE_RJ = 4
    TRANSPORT_OPENED = 5
    ASSOCIATE_RQ = 6
    ACCEPT_REQUESTED = 7
    REJECT_REQUESTED = 8
    DATA_REQUESTED = 9
    DATA_TF = 10
    RELEASE_REQUESTED = 11
    RELEASE_RQ = 12
    RELEASE_RP = 13
    RELEASE_RESPONSE_REQUESTED = 14
    ABORT_REQUESTED = 15
    ABORT = 16
    TRANSPORT_CLOSED = 17
    ARTIM_EXPIRED = 18
    INVALID_PDU = 19


_S = State
_C = Cause
_OPEN_STATES = (
    _S.ESTABLISHED,
    _S.AWAIT_RELEASE_RP,
    _S.AWAIT_RELEASE_RESPONSE,
    _S.COLLISION_AWAIT_RELEASE_RP,
    _S.COLLISION_AWAIT_RELEASE_RESPONSE,
)
_PDUS = (_C.ASSOCIATE_AC, _C.ASSOCIATE_RJ, _C.ASSOCIATE_RQ, _C.DATA_TF, _C.RELEASE_RQ, _C.RELEASE_RP)

# PS3.8 table 9-10. What is missing cannot happen; what a caller asks for there is a bug.
TRANSITIONS: dict[tuple[Cause, State], str] = {
    # Unexpected or invalid: the exceptions follow below.
    **{(cause, _S.AWAIT_ASSOCIATE_RQ): "AA-1" for cause in (*_PDUS, _C.INVALID_PDU)},
    **{
        (cause, state): "AA-8"
        for cause in (*_PDUS, _C.INVALID_PDU)
        for state in (_S.AWAIT_ASSOCIATE_RESPONSE, *_OPEN_STATES)
    },
    **{(cause, _S.AWAIT_CLOSE): "AA-6" for cause in _PDUS},
    # Association establishment
    (_C.TRANSPORT_OPENED, _S.IDLE): "AE-5",
    (_C.ASSOCIATE_RQ, _S.AWAIT_ASSOCIATE_RQ): "AE-6",
    (_C.ACCEPT_REQUESTED, _S.AWAIT_ASSOCIATE_RESPONSE): "AE-7",
    (_C.REJECT_REQUESTED, _S.AWAIT_ASSOCIATE_RESPONSE): "AE-8",
    # Data transfer
    (_C.DATA_REQUESTED, _S.ESTABLISHED): "DT-1",
    (_C.DATA_TF, _S.ESTABLISHED): "DT-2",
    (_C.DATA_TF, _S.AWAIT_RELEASE_RP): "AR-6",
    (_C.DATA_REQUESTED, _S.AWAIT_RELEASE_RESPONSE): "AR-7",
    # Association release
    (_C.RELEASE_REQUESTED, _S.ESTABLISHED): "AR-1",
    (_C.RELEASE_RQ, _S.ESTABLISHED): "AR-2",
    (_C.RELEASE_RP, _S.AWAIT_RELEASE_RP): "AR-3",
    (_C.RELEASE_RESPONSE_REQUESTED, _S.AWAIT_RELEASE_RESPONSE): "AR-4",
    (_C.RELEASE_RESPONSE_REQUESTED, _S.COLLISION_AWAIT_RELEASE_RESPONSE): "AR-4",
    (_C.RELEASE_RQ, _S.AWAIT_RELEASE_RP): "AR-8",
    (_C.RELEASE_RP, _S.COLLISION_AWAIT_RELEASE_RP): "AR-10",
    # Abort, loss and the timer
    (_C.ABORT_REQUESTED, _S.AWAIT_ASSOCIATE_RESPONSE): "AA-1",
    **{(_C.ABORT_REQUESTED, state): "AA-1" for state in _OPEN_STATES},
    (_C.ABORT, _S.AWAIT_ASSOCIATE_RQ): "AA-2",
    (_C.ABORT, _S.AWAIT_ASSOCIATE_RESPONSE): "AA-3",
    **{(_C.ABORT, state): "AA-3" for state in _OPEN_STATES},
    (_C.ABORT, _S.AWAIT_CLOSE): "AA-2",
    (_C.TRANSPORT_CLOSED, _S.AWAIT_ASSOCIATE_RQ): "AA-5",
    (_C.TRANSPORT_CLOSED, _S.AWAIT_ASSOCIATE_RESPONSE): "AA-4",
    **{(_C.TRANSPORT_CLOSED, state): "AA-4" for state in _OPEN_STATES},
    (_C.TRANSPORT_CLOSED, _S.AWAIT_CLOSE): "AR-5",
    (_C.ARTIM_EXPIRED, _S.AWAIT_ASSOCIATE_RQ): "AA-2",
    (_C.ARTIM_EXPIRED, _S.AWAIT_CLOSE): "AA-2",
    (_C.ASSOCIATE_RQ, _S.AWAIT_CLOSE): "AA-7",
    (_C.INVALID_PDU, _S.AWAIT_CLOSE): "AA-7",
}

# Where an action leads; AE-6 decides by itself.
NEXT_STATE: dict[str, State] = {
    "AE-5": _S.AWAIT_ASSOCIATE_RQ,
    "AE-7": _S.ESTABLISHED,
    "AE-8": _S.AWAIT_CLOSE,
    "DT-1": _S.ESTABLISHED,
    "DT-2": _S.ESTABLISHED,
    "AR-1": _S.AWAIT_RELEASE_RP,
    "AR-2": _S.AWAIT_RELEASE_RESPONSE,
    "AR-3": _S.IDLE,
    "AR-4": _S.AWAIT_CLOSE,
    "AR-5": _S.IDLE,
    "AR-6": _S.AWAIT_RELEASE_RP,
    "AR-7": _S.AWAIT_RELEASE_RESPONSE,
    "AR-8": _S.COLLISION_AWAIT_RELEASE_RP,
    "AR-10": _S.COLLISION_AWAIT_RELEASE_RESPONSE,
    "AA-1": _S.AWAIT_CLOSE,
    "AA-2": _S.IDLE,
    "AA-3": _S.IDLE,
    "AA-4": _S.IDLE,
    "AA-5": _S.IDLE,
    "AA-6": _S.AWAIT_CLOSE,
    "AA-7": _S.AWAIT_CLOSE,
    "AA-8": _S.AWAIT_CLOSE,
}
