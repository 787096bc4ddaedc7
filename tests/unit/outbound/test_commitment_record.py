"""A storage commitment request as a document: compressed, read back the same, and never wrong when damaged."""

from __future__ import annotations

from base64 import b85encode
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.outbound.records import COMMITMENT
from domain.commitment import COMMITTED, CommitmentReference, CommitmentState, FailureReason, Verdict
from domain.errors import MetadataUnavailable
from domain.identifiers import Uid
from tests.builders import a_commitment, a_moment

UIDS = st.from_regex(r"[0-9][0-9.]{0,63}", fullmatch=True).map(Uid)
VERDICTS = st.none() | st.just(COMMITTED) | st.sampled_from(FailureReason).map(Verdict)
PAIRS = st.dictionaries(st.builds(CommitmentReference, UIDS, UIDS), VERDICTS, max_size=20)


@given(PAIRS, st.sampled_from(CommitmentState), st.none() | st.just("receiver-1"))
def test_a_request_reads_back(
    pairs: dict[CommitmentReference, Verdict | None], state: CommitmentState, claimed_by: str | None
) -> None:
    request = a_commitment(
        references=tuple(pairs),
        verdicts=tuple(pairs.values()),
        state=state,
        claimed_by=claimed_by,
        claimed_until=None if claimed_by is None else a_moment(1.000001),
    )
    assert COMMITMENT.loads(COMMITMENT.dumps(request)) == request


@pytest.mark.parametrize(
    "damage",
    [
        {"instances": "no base85 \x00"},
        {"instances": b85encode(b"not compressed").decode()},
        {"instances": 7},
        {"instances": None},
        {"state": "asleep"},
        {"transaction": "Yamada^Tarou"},
        {"version": 99},
    ],
)
def test_damage_never_makes_a_wrong_request(damage: dict[str, Any]) -> None:
    document = {**COMMITMENT.write(attrs.evolve(a_commitment(), association="")), **damage}
    with pytest.raises(MetadataUnavailable) as caught:
        COMMITMENT.read(document)
    assert "Yamada" not in str(caught.value)
