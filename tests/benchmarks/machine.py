"""What the machine is, and what processes take of it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import platform
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

import attrs

_GET_FLAGS = 0x80086601  # FS_IOC_GETFLAGS and FS_IOC_SETFLAGS of linux/fs.h
_SET_FLAGS = 0x40086602
_TOP_FOLDER = 0x00020000
_NOT_DISKS = {"tmpfs", "ramfs", "devtmpfs"}


def file_system(path: Path) -> str:
    """Return the type of the file system that holds `path`."""
    best, kind = "", "unknown"
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        mount = before.split()[4].encode().decode("unicode_escape")
        is_above = path == Path(mount) or Path(mount) in path.parents
        if is_above and len(mount) >= len(best):
            best, kind = mount, after.split()[0]
    return kind


def is_disk(kind: str) -> bool:
    """Tell whether a file system keeps its files on something that survives a loss of power."""
    return kind not in _NOT_DISKS


def spread_folders(folder: Path) -> None:
    """
    Ask ext4 to put each folder made in `folder` into a block group of its own; without it nothing is lost but peace.

    ext4 does not use inodes again within a minute of their deletion and passes them over one by one, so that whatever
    was deleted beside a receiver's folder shortly before makes each new file dearer, by up to half a millisecond.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        flags = int.from_bytes(fcntl.ioctl(descriptor, _GET_FLAGS, bytes(8)), sys.byteorder)
        fcntl.ioctl(descriptor, _SET_FLAGS, (flags | _TOP_FOLDER).to_bytes(8, sys.byteorder))
    except OSError:
        return
    finally:
        os.close(descriptor)


def stand_elsewhere() -> None:
    """
    Let this process stand in for another machine: it gets a processor the moment it wants one, if that is permitted.

    Else a busy machine would add to its latency; what it takes of the processors is taken from the receiver all the
    same.
    """
    with contextlib.suppress(OSError, AttributeError):
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(os.sched_get_priority_min(os.SCHED_RR)))


def pressure() -> float | None:
    """Return the percentage of the last ten seconds in which something waited for a processor; None if unknown."""
    try:
        text = Path("/proc/pressure/cpu").read_text()
    except OSError:
        return None
    return float(text.split("avg10=")[1].split()[0])


def describe() -> str:
    """Describe the machine in one line, without its name."""
    names = [line.partition(":")[2].strip() for line in _cpuinfo() if line.startswith("model name")]
    return f"{os.cpu_count()} x {names[0] if names else platform.machine()}, Linux {platform.release()}"


def proportional_bytes(pids: list[int]) -> int:
    """Return the sum of the proportional set sizes (PSS) of processes."""
    return sum(_kilobytes(f"/proc/{pid}/smaps_rollup", "Pss:") for pid in pids) * 1024


def resident_bytes(pids: list[int]) -> int:
    """Return the sum of the resident set sizes of processes."""
    return sum(_kilobytes(f"/proc/{pid}/status", "VmRSS:") for pid in pids) * 1024


def cpu_seconds(pids: list[int]) -> float:
    """Return the processor time that processes, and children of theirs that ended, took so far."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):  # it has ended meanwhile, and its parent has its time
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total += sum(int(field) for field in fields[11:15])
    return total / os.sysconf("SC_CLK_TCK")


def waiting_seconds(pid: int) -> float:
    """Return for how long the threads of a process were ready to run while no processor was free, all together."""
    return sum(int(text.split()[1]) for text in _of_threads(pid, "schedstat")) / 1e9


def family(pid: int) -> list[int]:
    """Return a process and the processes that it and they started; some may have ended meanwhile."""
    pids = [pid]
    for member in pids:
        pids.extend(int(child) for text in _of_threads(member, "children") for child in text.split())
    return pids


@attrs.define
class Highest:
    """The highest value that `measure` gives while the `with` block lasts."""

    measure: Callable[[], int]
    every_seconds: float = 0.05
    value: int = 0
    _is_over: threading.Event = attrs.field(factory=threading.Event, init=False)
    _thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self.value = self.measure()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        assert self._thread is not None
        self._thread.join()
        self.value = max(self.value, self.measure())

    def _watch(self) -> None:
        while not self._is_over.wait(self.every_seconds):
            self.value = max(self.value, self.measure())


def _of_threads(pid: int, name: str) -> Iterator[str]:
    """Yield what the kernel tells of each thread of a process; what has ended meanwhile is left out."""
    threads: list[Path] = []
    with contextlib.suppress(OSError):
        threads.extend(Path(f"/proc/{pid}/task").iterdir())
    for thread in threads:
        try:
            text = (thread / name).read_text()
        except OSError:
            continue
        yield text


def _kilobytes(path: str, name: str) -> int:
    try:
        text = Path(path).read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) for line in text.splitlines() if line.startswith(name)), 0)


def _cpuinfo() -> list[str]:
    return Path("/proc/cpuinfo").read_text().splitlines()
