"""
What the receiver counts, in the text format of Prometheus.

Everything is read when it is asked for, from counters that exist anyway: receiving does nothing for this.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import attrs
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from adapters.inbound.dicom.counters import LATENCY_BOUNDS
from adapters.inbound.dicom.server import Totals

_PREFIX = "storescp_"


@attrs.frozen(kw_only=True)
class Held:
    """
    What instances on their way in hold.

    Attributes:
        memory: bytes of memory.
        temporary: bytes of temporary files.
        stores: how many there are.

    """

    memory: int = 0
    temporary: int = 0
    stores: int = 0


@attrs.frozen(kw_only=True)
class Sources:
    """
    Where the numbers come from; each is asked at every reading.

    Attributes:
        totals: of the DICOM server.
        held: by instances on their way in.
        batch_age: of the open batch in seconds, None without one.
        certificate_seconds: until our certificate ends, None without one.
        is_ready: whether more is taken.
        events: how often each event was told of.

    """

    totals: Callable[[], Totals]
    held: Callable[[], Held] = Held
    batch_age: Callable[[], float | None] = lambda: None
    certificate_seconds: Callable[[], float | None] = lambda: None
    is_ready: Callable[[], bool] = lambda: True
    events: Callable[[], Mapping[str, int]] = dict


class Metrics(Collector):
    """The numbers of one receiver, and what its process uses."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def text(self, accept: str = "") -> tuple[str, bytes]:
        """Return content type and text, in the format that suits the Accept header."""
        encode, content_type = choose_encoder(accept)
        return content_type, encode(self._registry)

    def collect(self) -> Iterator[Metric]:
        """Read everything once."""
        sources = self._sources
        yield from _of_server(sources.totals())
        held = sources.held()
        yield _gauge("ready", "1 while the receiver takes more, else 0.", int(sources.is_ready()))
        yield _gauge("stores_in_flight", "Instances that are arriving.", held.stores)
        yield _gauge("memory_in_flight_bytes", "Memory that arriving instances hold.", held.memory)
        yield _gauge("temporary_in_flight_bytes", "Temporary space that arriving instances hold.", held.temporary)
        yield _gauge("batch_age_seconds", "Age of the open batch; 0 without one.", sources.batch_age() or 0)
        left = sources.certificate_seconds()
        if left is not None:
            yield _gauge("certificate_expiry_seconds", "Time until our TLS certificate ends.", left)
        yield _counters("events", "Events by name.", "event", sources.events())


def _of_server(totals: Totals) -> Iterator[Metric]:
    work = totals.work
    yield _gauge("connections_open", "TCP connections open.", totals.open_connections)
    yield _gauge("associations_open", "Associations open.", totals.open_associations)
    yield _counter("associations", "Associations accepted.", totals.accepted)
    yield _counters("connections", "Connections by how they ended.", "end", totals.ends)
    yield _counters("rejections", "Rejections by result,source,reason (PS3.8 9.3.4).", "code", totals.rejections)
    yield _counters("tls_failures", "TLS handshakes that failed, by cause.", "cause", totals.tls_failures)
    yield _counter("instances", "Instances that are durable and were answered Success.", work.stored)
    yield _counter("data_set_bytes", "Bytes of data sets that arrived.", work.data_set_bytes)
    yield _counter("echoes", "C-ECHO requests answered.", work.echoed)
    statuses = {f"0x{status:04X}": count for status, count in work.statuses.items()}
    yield _counters("c_store_answers", "C-STORE answers by status.", "status", statuses)
    yield _latencies(work.latencies, work.latency_seconds)


def _latencies(counts: list[int], seconds: float) -> Metric:
    buckets = []
    total = 0
    for bound, count in zip((*map(str, LATENCY_BOUNDS), "+Inf"), counts, strict=True):
        total += count
        buckets.append((bound, total))
    return HistogramMetricFamily(
        f"{_PREFIX}c_store_answer_seconds",
        "From the last byte of a data set until its answer was sent.",
        buckets=buckets,
        sum_value=seconds,
    )


def _gauge(name: str, meaning: str, value: float) -> Metric:
    return GaugeMetricFamily(_PREFIX + name, meaning, value=value)


def _counter(name: str, meaning: str, value: float) -> Metric:
    return CounterMetricFamily(_PREFIX + name, meaning, value=value)


def _counters(name: str, meaning: str, label: str, values: Mapping[str, float]) -> Metric:
    family = CounterMetricFamily(_PREFIX + name, meaning, labels=[label])
    for value, count in sorted(values.items()):
        family.add_metric([value], count)
    return family
