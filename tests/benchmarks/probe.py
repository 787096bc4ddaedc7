"""A client of the latency scenario: `python -m tests.benchmarks.probe PORT KIND CLIENT INSTANCES`."""

import sys

from tests.benchmarks.images import CT_SLICE, SMALL, Image
from tests.benchmarks.sender import Sender


def main() -> None:
    port, kind_name, client, instances = sys.argv[1:]
    kind = next(kind for kind in (CT_SLICE, SMALL) if kind.name == kind_name)
    images = [Image(kind, number, 5000 + int(client)) for number in range(int(instances))]
    with Sender(int(port)) as sender:
        print("ready", flush=True)
        sys.stdin.readline()
        sender.store(images)
        if sender.successes != len(images):
            sys.exit("not all were stored")
        print(*sender.latencies)


if __name__ == "__main__":
    main()
