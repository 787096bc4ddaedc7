"""What storescu cannot tell: latencies, many associations, a long line, one very large instance, the disk alone."""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

from tests.benchmarks.delay import DelayProxy
from tests.benchmarks.images import CT_SLICE, SMALL, Image, Kind, multi_frame_head, multi_frame_uid
from tests.benchmarks.machine import Highest, proportional_bytes, resident_bytes
from tests.benchmarks.receivers import Ours
from tests.benchmarks.sender import Sender

_LARGE_BYTES = 2_000_000_000
_DELAY_SECONDS = 0.060
_ASSOCIATIONS = 300


def latency(folder: Path, kind: Kind, instances: int = 60) -> dict[str, float]:
    """Measure the answers at eight associations, in ms from the last byte sent; each client is a process."""
    with Ours("latency", folder / f"latency-{kind.rows}") as receiver:
        clients = [
            subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "tests.benchmarks.probe",
                    str(receiver.port),
                    kind.name,
                    str(client),
                    str(instances),
                ],
                stdout=subprocess.PIPE,
                stdin=subprocess.PIPE,
                text=True,
                cwd=Path(__file__).parents[2],
            )
            for client in range(8)
        ]
        for client in clients:
            assert client.stdout is not None
            client.stdout.readline()  # it has its association
        outputs = [client.communicate("go\n", timeout=120)[0] for client in clients]
    latencies = sorted(float(word) for output in outputs for word in output.split())
    if len(latencies) != 8 * instances:
        raise RuntimeError("a client of the latency scenario failed")
    return {
        "answers": len(latencies),
        "median_ms": statistics.median(latencies) * 1e3,
        "p99_ms": latencies[int(len(latencies) * 0.99)] * 1e3,
        "max_ms": latencies[-1] * 1e3,
    }


def many_associations(folder: Path, instances: int = 2) -> dict[str, float]:
    """Open 300 associations, then let each store 525 KB instances; the sum of PSS is the receiver's processes'."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4096)), hard))
    everyone_is_in = threading.Barrier(_ASSOCIATIONS + 1)
    senders: list[Sender] = []

    def work(number: int) -> None:
        with Sender(receiver.port) as sender:
            senders.append(sender)
            everyone_is_in.wait(60)
            sender.store(Image(CT_SLICE, each, 1000 + number) for each in range(instances))

    with Ours("many", folder / "many") as receiver:
        pids = receiver.pids()
        idle = proportional_bytes(pids)
        with Highest(lambda: proportional_bytes(pids), 0.1) as highest:
            threads = [threading.Thread(target=work, args=(number,)) for number in range(_ASSOCIATIONS)]
            for thread in threads:
                thread.start()
            everyone_is_in.wait(60)
            connected = proportional_bytes(pids)
            start = time.perf_counter()
            for thread in threads:
                thread.join()
            seconds = time.perf_counter() - start
    stored = sum(sender.successes for sender in senders)
    return {
        "associations": len(senders),
        "asked": _ASSOCIATIONS * instances,
        "stored": stored,
        "per_second": stored / seconds,
        "idle_mib": idle / 2**20,
        "connected_mib": connected / 2**20,
        "highest_mib": highest.value / 2**20,
    }


def long_line(folder: Path, kind: Kind = CT_SLICE, instances: int = 40) -> dict[str, float]:
    """Store over one association through a line of 60 ms each way, with and without a window of eight operations."""
    rates = {}
    with Ours("far", folder / "far") as receiver, DelayProxy(receiver.port, _DELAY_SECONDS) as proxy:
        for study, window in ((2001, 1), (2002, 8)):
            with Sender(proxy.port, window) as sender:
                if sender.window != window:
                    raise RuntimeError("the window was not granted")
                start = time.perf_counter()
                sender.store(Image(kind, number, study) for number in range(instances))
                rates[window] = instances / (time.perf_counter() - start)
            if sender.successes != instances:
                raise RuntimeError("not all were stored over the long line")
    return {"window_1": rates[1], "window_8": rates[8], "gain": rates[8] / rates[1]}


def large_instance(folder: Path, size: int = _LARGE_BYTES) -> dict[str, float]:
    """Store one multi-frame image of 2 GB and watch the receiver's memory."""
    with Ours("large", folder / "large") as receiver:
        pids = receiver.pids()
        with Sender(receiver.port) as sender:
            sender.store([Image(CT_SLICE, 1, 3000)])
            before = resident_bytes(pids)
            start = time.perf_counter()
            with Highest(lambda: resident_bytes(pids)) as highest:
                sender.store_large(multi_frame_head(size), multi_frame_uid(), size)
            seconds = time.perf_counter() - start
        if sender.successes != 2:
            raise RuntimeError("the large instance was not stored")
    return {
        "bytes": size,
        "seconds": seconds,
        "mb_per_second": size / seconds / 1e6,
        "growth_mib": (highest.value - before) / 2**20,
        "answer_ms": sender.latencies[-1] * 1e3,
    }


def disk_alone(folder: Path) -> dict[str, float]:
    """Write, sync, rename and sync the folder, one after the other, without any receiver: ms an instance."""
    result = {}
    target = folder / "disk"
    target.mkdir()
    for kind in (SMALL, CT_SLICE):
        data = Image(kind, 1, 4000).data_set()
        times = []
        for number in range(100):
            start = time.perf_counter()
            descriptor = os.open(target / "part", os.O_WRONLY | os.O_CREAT | os.O_EXCL)
            os.write(descriptor, data)
            os.fsync(descriptor)
            (target / "part").rename(target / str(number))
            parent = os.open(target, os.O_RDONLY)
            os.fsync(parent)
            os.close(parent)
            os.close(descriptor)
            times.append(time.perf_counter() - start)
        result[kind.name] = statistics.median(times) * 1e3
    return result
