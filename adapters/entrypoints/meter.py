"""
What the receiver counted, as measurements: differences since the last time, written now and then.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs

from adapters.inbound.dicom.server import Totals
from domain.ports import Telemetry


@attrs.define
class Meter:
    """
    Measure what happened since the last call; zeros too, so that a silent receiver can be told from an idle one.

    Attributes:
        totals: what the receiver did since it began.
        telemetry: where measurements go.

    """

    totals: Callable[[], Totals]
    telemetry: Telemetry
    _stored: int = attrs.field(default=0, init=False)
    _refused: int = attrs.field(default=0, init=False)
    _rejected: int = attrs.field(default=0, init=False)

    def __call__(self) -> None:
        """Measure answers to C-STORE, rejected associations, and how many are open."""
        totals = self.totals()
        rejected = sum(totals.rejections.values())
        self.telemetry.measure("StoreSuccess", totals.stored - self._stored)
        self.telemetry.measure("StoreFailure", totals.refused - self._refused)
        self.telemetry.measure("AssociationsRejected", rejected - self._rejected)
        self.telemetry.measure("AssociationsOpen", totals.open_associations)
        self._stored, self._refused, self._rejected = totals.stored, totals.refused, rejected
