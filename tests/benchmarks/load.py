"""
A client of the S3 scenario: `python -m tests.benchmarks.load PORT KIND ASSOCIATIONS INSTANCES STUDY`.

One thread serves all associations: an answer to one lets its next instance go, encoded beforehand.
Each association has stored a few instances before time counts.
It prints the seconds from the first instance to the last answer and its own processor time meanwhile, and keeps its
associations until its input ends.
"""

from __future__ import annotations

import select
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack

from tests.benchmarks.images import CT_SLICE, SMALL, Image
from tests.benchmarks.machine import stand_elsewhere
from tests.benchmarks.sender import Sender

_UNCOUNTED = 10


def main() -> None:
    """Send what the arguments tell."""
    port, kind_name, associations, instances, study = sys.argv[1:]
    kind = next(kind for kind in (CT_SLICE, SMALL) if kind.name == kind_name)
    count = _UNCOUNTED + int(instances)
    with ExitStack() as stack:
        senders = [stack.enter_context(Sender(int(port))) for _ in range(int(associations))]
        messages = [
            [sender.message(Image(kind, each, int(study) + number)) for each in range(count)]
            for number, sender in enumerate(senders)
        ]
        _store({sender: iter(each[:_UNCOUNTED]) for sender, each in zip(senders, messages, strict=True)})
        print("ready", flush=True)
        sys.stdin.readline()
        stand_elsewhere()
        began, cpu = time.perf_counter(), time.process_time()
        _store({sender: iter(each[_UNCOUNTED:]) for sender, each in zip(senders, messages, strict=True)})
        print(time.perf_counter() - began, time.process_time() - cpu, flush=True)
        sys.stdin.readline()  # whoever measures the receiver wants its threads alive
        if sum(sender.successes for sender in senders) != count * len(senders):
            sys.exit("not all were stored")


def _store(messages: dict[Sender, Iterator[bytes]]) -> None:
    for sender, rest in messages.items():
        sender.send(next(rest))
    while messages:
        for sender in select.select(list(messages), (), ())[0]:
            sender.answer()
            message = next(messages[sender], None)
            if message is None:
                del messages[sender]
            else:
                sender.send(message)


if __name__ == "__main__":
    main()
