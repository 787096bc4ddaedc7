"""
Fuzz one target without coverage, where atheris is not to be had: `python -m tests.fuzz.mutation TARGET CORPUS SECONDS`.

What a target returns stands in for coverage: an input that makes something new happen is mutated further.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Hashable
from pathlib import Path

from tests.fuzz.corpus import seeds
from tests.fuzz.targets import TARGETS

_INTERESTING = (0, 1, 2, 3, 4, 5, 6, 7, 12, 0x10, 0x20, 0x50, 0x7F, 0x80, 0xFE, 0xFF)
_LONGEST = 64 * 1024
_MOST_KEPT = 4000


def mutate(data: bytes, others: list[bytes], chance: random.Random) -> bytes:
    """Damage an input in one to five places."""
    mutated = bytearray(data)
    for _ in range(chance.randint(1, 5)):
        at = chance.randrange(len(mutated) + 1)
        kind = chance.randrange(7)
        if kind == 0 and at < len(mutated):
            mutated[at] ^= 1 << chance.randrange(8)
        elif kind == 1 and at < len(mutated):
            mutated[at] = chance.choice(_INTERESTING)
        elif kind == 2:
            mutated[at:at] = chance.randbytes(chance.randint(1, 8))
        elif kind == 3:
            del mutated[at : at + chance.randint(1, 16)]
        elif kind == 4:
            mutated[at : at + 4] = chance.choice((0, 1, 6, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF)).to_bytes(4, "big")
        elif kind == 5:
            mutated[at:at] = mutated[at : at + chance.randint(1, 64)]
        else:
            other = chance.choice(others)
            start = chance.randrange(len(other) + 1)
            mutated[at:] = other[start:]
    return bytes(mutated[:_LONGEST])


def fuzz(name: str, seconds: float, corpus: list[bytes], *, seed: int = 0, tries: int | None = None) -> tuple[int, int]:
    """
    Fuzz a target for some time, or at most so many times.

    Returns:
        How many inputs were tried, and how many different things happened.

    """
    target = TARGETS[name]
    chance = random.Random(seed)  # the same run again, should it find something
    kept = list(corpus)
    seen: set[Hashable] = set()
    tried = 0
    deadline = time.monotonic() + seconds
    for data in corpus:
        seen.add(target(data))
    while time.monotonic() < deadline and tried != tries:
        data = mutate(chance.choice(kept), kept, chance)
        tried += 1
        try:
            happened = target(data)
        except Exception:
            print(f"broken by {data.hex()}")
            raise
        if happened not in seen:
            seen.add(happened)
            if len(kept) < _MOST_KEPT:
                kept.append(data)
    return tried, len(seen)


def main() -> None:
    """Fuzz, leaving what broke a promise in the corpus' folder."""
    name, folder, seconds = sys.argv[1], Path(sys.argv[2]), float(sys.argv[3])
    corpus = [*seeds(name), *(path.read_bytes() for path in sorted(folder.glob("*")))]
    tried, happened = fuzz(name, seconds, corpus, seed=time.time_ns())
    print(f"Done {tried} runs in {seconds:.0f} second(s); {happened} different outcomes")


if __name__ == "__main__":
    main()
