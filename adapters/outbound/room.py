"""
Whether there is room to take more: disk space, memory of the machine or container, temporary space.

Looked at most once a second, however many associations ask.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import attrs

from adapters.outbound.draft_room import DraftRoom
from domain.ports import Clock, Telemetry

_LEAST_MEMORY_BYTES = 64 << 20
_LOOK_SECONDS = 1.0
_MACHINE = Path("/proc/meminfo")
_CONTAINER = Path("/sys/fs/cgroup")


@attrs.define(kw_only=True)
class RoomCheck:
    """
    Says what there is too little of; safe to share between threads.

    Attributes:
        folder: where temporary files and, locally, images are; the nearest folder above it that exists is looked at.
        minimum_free_bytes: of its disk.
        drafts: the room of temporary files.
        available_memory: bytes that can still be had; None where that cannot be told.

    """

    folder: Path
    minimum_free_bytes: int
    drafts: DraftRoom
    clock: Clock
    telemetry: Telemetry
    available_memory: Callable[[], int | None] = attrs.field(factory=lambda: available_memory)
    _looked_at: float = attrs.field(default=float("-inf"), init=False)
    _shortage: str = attrs.field(default="", init=False)

    def shortage(self) -> str:
        """Return of what there is too little, and what to change; empty if there is enough."""
        now = self.clock.monotonic()
        if now - self._looked_at >= _LOOK_SECONDS:
            self._looked_at = now  # who comes meanwhile takes the last answer
            before, self._shortage = self._shortage, self._look()
            if self._shortage and not before:
                self.telemetry.event("room.refused", detail=self._shortage)
            elif before and not self._shortage:
                self.telemetry.event("room.restored")
        return self._shortage

    def _look(self) -> str:
        free = _free(self.folder)
        if free < self.minimum_free_bytes:
            return (
                f"{free} bytes are free on the disk of the data folder: free some, give --data-dir a larger disk"
                f" or lower --minimum-free-space ({self.minimum_free_bytes})"
            )
        if self.drafts.is_short():
            return (
                "temporary space is nearly used up by large instances on their way: raise --temporary-space"
                f" ({self.drafts.budget.temporary_bytes}) or let devices send fewer at once"
            )
        memory = self.available_memory()
        if memory is not None and memory < _LEAST_MEMORY_BYTES:
            return f"{memory} bytes of memory are left: give the receiver more, or lower --memory-budget"
        return ""


def _free(folder: Path) -> int:
    """Return the free bytes of the disk that a folder is on, or would be."""
    for place in (folder, *folder.absolute().parents):
        try:
            return shutil.disk_usage(place).free
        except FileNotFoundError:
            continue
        except OSError:
            return 0  # a disk that cannot be asked has no room either
    return 0


def available_memory(machine: Path = _MACHINE, container: Path = _CONTAINER) -> int | None:
    """Return the memory that can still be had, of this container or machine; None where that cannot be told."""
    amounts = [amount for amount in (_of_container(container), _of_machine(machine)) if amount is not None]
    return min(amounts, default=None)


def _of_machine(path: Path) -> int | None:
    try:
        lines = path.read_text("ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def _of_container(folder: Path) -> int | None:
    """Read control group version 2: what counts as used includes a cache that is given back when it is needed."""
    try:
        limit = folder.joinpath("memory.max").read_text("ascii").strip()
        used = int(folder.joinpath("memory.current").read_text("ascii"))
        lines = folder.joinpath("memory.stat").read_text("ascii").splitlines()
        cached = {name: int(value) for name, _, value in (line.partition(" ") for line in lines)}
    except (OSError, ValueError):
        return None
    if limit == "max":
        return None
    return max(0, int(limit) - used + cached.get("inactive_file", 0) + cached.get("active_file", 0))
