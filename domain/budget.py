"""
How much the objects on their way in may take together: memory, and temporary files when they leave memory.

The laws:

* Memory held never exceeds its budget; a draft that gets no more of it goes on in its temporary file.
* While memory is short, a draft stays in it for its first MiB only, so that small instances keep the fast way.
* Temporary files queue by when they began to take space, and the oldest always reads on: the others together leave it
  room for the largest object there may be. So every draft can finish, one after the other, and none waits for ever
  for another that waits for it.
"""

from __future__ import annotations

import attrs

_SHORT_FROM = 0.5
_FULL_FROM = 0.9


@attrs.frozen(kw_only=True)
class DraftBudget:
    """
    What all drafts of a process may take.

    Attributes:
        memory_bytes: of memory.
        temporary_bytes: of temporary files; holds at least one object of `largest_bytes`.
        largest_bytes: the largest object that is taken.
        first_bytes: what a draft may keep in memory while it is short, as long as there is any.

    """

    memory_bytes: int = attrs.field(default=512 << 20, validator=attrs.validators.ge(0))
    temporary_bytes: int = attrs.field(default=16_000_000_000)
    largest_bytes: int = attrs.field(default=4_000_000_000, validator=attrs.validators.ge(1))
    first_bytes: int = attrs.field(default=1 << 20, validator=attrs.validators.ge(0))

    @temporary_bytes.validator
    def _holds_the_largest(self, _attribute: object, value: int) -> None:
        if value < self.largest_bytes:
            raise ValueError(f"temporary_bytes {value} is less than one object of {self.largest_bytes}")

    def keeps_in_memory(self, size: int, *, others: int) -> bool:
        """
        Say whether a draft may hold `size` bytes of memory.

        Args:
            size: what it would hold.
            others: what all other drafts hold.

        """
        if others + size > self.memory_bytes:
            return False
        return size <= self.first_bytes or others + size <= self.memory_bytes * _SHORT_FROM

    def may_fill_file(self, size: int, *, waiting_files: int, is_oldest: bool) -> bool:
        """
        Say whether a temporary file may have `size` bytes now; if not, its draft waits.

        Args:
            size: what it would have.
            waiting_files: what all files but the oldest have, this one left out.
            is_oldest: it began to take space before all others that do.

        """
        if is_oldest:
            # The others left room for the largest object, so up to that size this is never False.
            return waiting_files + size <= self.temporary_bytes
        return waiting_files + size <= self.temporary_bytes - self.largest_bytes

    def is_space_short(self, *, waiting_files: int) -> bool:
        """Say whether drafts wait for temporary space, or soon will; `waiting_files` as above, none left out."""
        return waiting_files > (self.temporary_bytes - self.largest_bytes) * _FULL_FROM
