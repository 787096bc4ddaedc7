"""
What a task of some size holds: memory for arriving instances, and disk for large ones.

The amounts are those of docs/operations.md, "Limits and what they cost", for the profile aws.
"""

from __future__ import annotations

import math

_MIB = 1 << 20
_GIB = 1 << 30
_PROGRAM_BYTES = 150_000_000
_PARTS_BYTES = 256 * _MIB
_ASSOCIATION_BYTES = 500_000
_COPIES = 2.2
_USABLE = 0.9
"""The share of a task's memory that is ours to plan with."""
_LEAST_BUDGET_MIB = 16
_OTHER_DISK_BYTES = 5_000_000_000
"""What --minimum-free-space keeps free, and the image."""


def memory_budget_mib(task_mib: int, associations: int) -> int:
    """Return how many MiB arriving instances may take together; less than 1 where a task is too small."""
    left = task_mib * _MIB * _USABLE - _PROGRAM_BYTES - _PARTS_BYTES - associations * _ASSOCIATION_BYTES
    return math.floor(left / _COPIES / _MIB)


def is_enough(task_mib: int, associations: int) -> bool:
    """Say whether a task of so much memory can serve so many associations."""
    return memory_budget_mib(task_mib, associations) >= _LEAST_BUDGET_MIB


def most_associations(task_mib: int) -> int:
    """Return how many associations a task of so much memory can serve; 0 is none."""
    spare = (memory_budget_mib(task_mib, 0) - _LEAST_BUDGET_MIB) * _MIB * _COPIES
    return max(0, math.floor(spare / _ASSOCIATION_BYTES))


def temporary_space_bytes(disk_gib: int) -> int:
    """Return how much of a task's disk large instances may take while they arrive."""
    return disk_gib * _GIB - _OTHER_DISK_BYTES
