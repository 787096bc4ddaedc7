"""
The seam between the receiver and the use case it drives: shapes only, so that either side can be replaced.
"""

from __future__ import annotations

from typing import Protocol

from domain.instance import IdentifyingAttributes, StoreRequest


class Reception(Protocol):
    """One C-STORE on its way in."""

    def write(self, data: bytes | memoryview, /) -> None:
        """
        Take the next bytes of the data set, copying what is kept: the buffer is reused.

        Raises:
            StoreScpError: the store cannot succeed any more; the rest is not written.

        """
        ...

    def finish(self, attributes: IdentifyingAttributes, /) -> object:
        """
        Return once the instance is durable.

        Raises:
            StoreScpError: it is not, for the reason the status table knows.

        """
        ...

    def abandon(self) -> None:
        """Forget the store: the association was lost or the store refused. Repeats are harmless; never raises."""
        ...


class ReceiveInstance(Protocol):
    """The use case behind C-STORE."""

    def begin(self, request: StoreRequest, header: bytes, /) -> Reception:
        """
        Begin one store.

        Args:
            request: what the command set and the association say.
            header: the bytes of a Part 10 object that come before the data set.

        Raises:
            StoreScpError: the store is refused from its start.

        """
        ...


class Telemetry(Protocol):
    """Where named events go; fields carry UIDs, AE titles, addresses and numbers, never patient data."""

    def event(self, name: str, /, **fields: str | float | None) -> None:
        """Record one event."""
        ...
