"""
Settings to what a receiver may take: the room of arriving instances, and whether there is any left.
"""

from __future__ import annotations

from adapters.entrypoints.settings import Settings
from adapters.outbound.draft_room import DraftRoom
from adapters.outbound.room import RoomCheck
from domain.budget import DraftBudget
from domain.ports import Clock, Telemetry


def draft_room(settings: Settings) -> DraftRoom:
    """Return the room that all arriving instances of a process share."""
    return DraftRoom(
        DraftBudget(
            memory_bytes=settings.memory_budget,
            temporary_bytes=settings.temporary_space,
            largest_bytes=settings.maximum_object_bytes,
        )
    )


def room_check(settings: Settings, drafts: DraftRoom, clock: Clock, telemetry: Telemetry) -> RoomCheck:
    """Return what tells whether more can be taken."""
    return RoomCheck(
        folder=settings.data_dir,
        minimum_free_bytes=settings.minimum_free_space,
        drafts=drafts,
        clock=clock,
        telemetry=telemetry,
    )
