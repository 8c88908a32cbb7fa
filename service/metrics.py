"""What the service counts, for Prometheus; every series is there from the first scrape."""

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.gc_collector import GCCollector
from prometheus_client.process_collector import ProcessCollector

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    """The counters of one service; `registry` is its own, so that several services can live in one process."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        GCCollector(registry=registry)
        self._requests = Counter(
            "lstmserve_requests", "Requests by route and status.", ["method", "route", "status"], registry=registry
        )
        self._seconds = Histogram(
            "lstmserve_request_seconds",
            "Time from headers to the end of the reply.",
            ["route"],
            buckets=SECONDS,
            registry=registry,
        )
        self.in_flight = Gauge("lstmserve_requests_in_flight", "Requests being answered.", registry=registry)
        self._sequences = Counter("lstmserve_sequences", "Sequences answered.", registry=registry)
        self._tokens = Counter("lstmserve_tokens", "Tokens of answered sequences.", registry=registry)
        self._queue = Histogram(
            "lstmserve_queue_seconds", "Time until a request's last sequence began.", buckets=SECONDS, registry=registry
        )
        self._compute = Histogram(
            "lstmserve_compute_seconds", "Time from there to its logits.", buckets=SECONDS, registry=registry
        )
        self._waiting = Gauge("lstmserve_queue_sequences", "Sequences that wait.", registry=registry)
        self._waiting_tokens = Gauge("lstmserve_queue_tokens", "Tokens that wait.", registry=registry)
        self._ready = Gauge("lstmserve_ready", "1 while the service is ready.", registry=registry)
        self._model = Gauge(
            "lstmserve_model",
            "1 for each model version that serves, in its precision.",
            ["model", "version", "precision"],
            registry=registry,
        )

    def declare(self, routes: Iterable[tuple[str, str]], models: Iterable[tuple[str, int, str]]) -> None:
        """Makes the series of every route (method, path) and model version."""
        for method, route in routes:
            self._requests.labels(method, route, "200")
            self._seconds.labels(route)
        for name, version, precision in models:
            self._model.labels(name, str(version), precision).set(1)

    def watch_queue(self, sequences: Callable[[], int], tokens: Callable[[], int]) -> None:
        self._waiting.set_function(sequences)
        self._waiting_tokens.set_function(tokens)

    def watch_ready(self, ready: Callable[[], bool]) -> None:
        self._ready.set_function(ready)

    def answered(self, queue: float, compute: float, lengths: list[int]) -> None:
        """Notes a request's answer: seconds queued and computed, tokens of each of its sequences."""
        self._queue.observe(queue)
        self._compute.observe(compute)
        self._sequences.inc(len(lengths))
        self._tokens.inc(sum(lengths))

    def replied(self, method: str, route: str, status: int, seconds: float) -> None:
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def expose(self) -> bytes:
        """The text format of Prometheus."""
        return generate_latest(self.registry)
