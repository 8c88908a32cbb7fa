"""What the service counts, for Prometheus: every series is there from the first scrape. docs/metrics.md lists them."""

from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric, generate_latest
from prometheus_client.core import CounterMetricFamily
from prometheus_client.gc_collector import GCCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

SECONDS = (1e-4, 2.5e-4, 5e-4, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
LOAD_SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)

OUTCOMES = ("loaded", "failed")
"""What becomes of a load."""

DROPPED = ("deadline", "left")
"""Why a sequence is not computed, or not to its end: its deadline passed, its caller left."""

CLOSED = ("idle", "malformed", "head_slow", "head_large", "busy", "crowded_out", "not_reading")
"""Why a connection is closed by the service: see service.protocol."""


class Registry(CollectorRegistry):
    """Without the ``_created`` series; the library itself can leave them out of a whole process only."""

    def collect(self) -> Iterator[Metric]:
        for metric in super().collect():
            metric.samples = [sample for sample in metric.samples if not sample.name.endswith("_created")]
            yield metric


class Metrics:
    """The counters of one service; `registry` is its own, so that several services can live in one process."""

    def __init__(self) -> None:
        self.registry = registry = Registry()
        ProcessCollector(registry=registry)
        GCCollector(registry=registry)
        self._requests = Counter(
            "lstmserve_requests", "Requests by route and status.", ["method", "route", "status"], registry=registry
        )
        self._seconds = Histogram(
            "lstmserve_request_seconds",
            "Time from a request's headers to the end of its reply.",
            ["route"],
            buckets=SECONDS,
            registry=registry,
        )
        self.in_flight = Gauge("lstmserve_requests_in_flight", "Requests being answered.", registry=registry)
        self._refusals = Counter("lstmserve_refusals", "Requests refused, by reason.", ["reason"], registry=registry)
        self._sequences = Counter("lstmserve_sequences", "Sequences answered.", registry=registry)
        self._tokens = Counter("lstmserve_tokens", "Tokens of answered sequences.", registry=registry)
        self._variants = Counter(
            "lstmserve_explanation_sequences",
            "Sequences computed to explain answers, besides the answered ones.",
            registry=registry,
        )
        self._variant_tokens = Counter(
            "lstmserve_explanation_tokens", "Tokens of the sequences computed to explain answers.", registry=registry
        )
        self._queue = Histogram(
            "lstmserve_queue_seconds",
            "Time until the last sequence of an answered request began.",
            buckets=SECONDS,
            registry=registry,
        )
        self._compute = Histogram(
            "lstmserve_compute_seconds",
            "Time from then until all its logits were there.",
            buckets=SECONDS,
            registry=registry,
        )
        self._dropped = Counter(
            "lstmserve_sequences_dropped",
            "Sequences that were asked for and not answered, by reason.",
            ["reason"],
            registry=registry,
        )
        for reason in DROPPED:
            self._dropped.labels(reason)
        self._waiting_requests = Gauge(
            "lstmserve_queue_requests", "Requests of which a sequence waits for a lane.", registry=registry
        )
        self._waiting = Gauge("lstmserve_queue_sequences", "Sequences that wait for a lane.", registry=registry)
        self._waiting_tokens = Gauge("lstmserve_queue_tokens", "Tokens of the sequences that wait.", registry=registry)
        self._oldest = Gauge(
            "lstmserve_queue_oldest_seconds", "Time that the oldest waiting sequence has waited.", registry=registry
        )
        self._ready = Gauge("lstmserve_ready", "1 while the service is ready.", registry=registry)
        self._loads = Counter(
            "lstmserve_model_loads", "Loads of model versions by outcome.", ["model", "outcome"], registry=registry
        )
        self._refused = Gauge(
            "lstmserve_model_versions_refused",
            "Versions that failed to load, and no higher one of their model was loaded since.",
            registry=registry,
        )
        self._load_seconds = Histogram(
            "lstmserve_model_load_seconds",
            "Time to read, verify, warm and compare a version that was loaded.",
            buckets=LOAD_SECONDS,
            registry=registry,
        )

        self._keys_refused = Gauge(
            "lstmserve_keys_files_refused",
            "Keys files that have changed and cannot be read; their keys before stay in force.",
            registry=registry,
        )
        self._connections = Gauge("lstmserve_connections", "Open connections.", registry=registry)
        self._closed = Counter(
            "lstmserve_connections_closed",
            "Connections that the service has closed on their clients, by reason.",
            ["reason"],
            registry=registry,
        )
        for reason in CLOSED:
            self._closed.labels(reason)

    def declare(self, routes: Iterable[tuple[str, str, Iterable[str]]], reasons: Iterable[str]) -> None:
        """Makes the series of every route (method, path, statuses), and of every reason why a request may fail."""
        for method, route, statuses in routes:
            for status in statuses:
                self._requests.labels(method, route, status)
            self._seconds.labels(route)
        for reason in reasons:
            self._refusals.labels(reason)

    def loaded(self, model: str, seconds: float) -> None:
        """Notes that a version of that model was loaded."""
        self._load(model, "loaded")
        self._load_seconds.observe(seconds)

    def load_failed(self, model: str) -> None:
        self._load(model, "failed")

    def _load(self, model: str, outcome: str) -> None:
        for each in OUTCOMES:
            self._loads.labels(model, each).inc(each == outcome)

    def watch_queue(
        self,
        requests: Callable[[], int],
        sequences: Callable[[], int],
        tokens: Callable[[], int],
        oldest: Callable[[], float],
    ) -> None:
        self._waiting_requests.set_function(requests)
        self._waiting.set_function(sequences)
        self._waiting_tokens.set_function(tokens)
        self._oldest.set_function(oldest)

    def watch_refused(self, refused: Callable[[], int]) -> None:
        self._refused.set_function(refused)

    def watch_ready(self, ready: Callable[[], bool]) -> None:
        self._ready.set_function(ready)

    def watch_engine(self, work: Callable[[], tuple[int, int]], failures: Callable[[], int]) -> None:
        """`work`: the steps that the engine has taken, and the lanes that were live in them, summed; `failures`: of
        its threads.
        """
        self.registry.register(_Engine(work, failures))

    def dropped(self, reason: str, sequences: int) -> None:
        """Notes sequences that were admitted, or came too late for it, and have no answer."""
        self._dropped.labels(reason).inc(sequences)

    def watch_keys(self, refused: Callable[[], int]) -> None:
        self._keys_refused.set_function(refused)

    def watch_connections(self, number: Callable[[], int]) -> None:
        self._connections.set_function(number)

    def closed(self, reason: str) -> None:
        """Notes a connection that was closed on its client, for one of `CLOSED`."""
        self._closed.labels(reason).inc()

    def answered(self, queue: float, compute: float, lengths: list[int]) -> None:
        """Notes a request's answer: seconds queued and computed, tokens of each of its sequences."""
        self._queue.observe(queue)
        self._compute.observe(compute)
        self._sequences.inc(len(lengths))
        self._tokens.inc(sum(lengths))

    def explained(self, lengths: list[int]) -> None:
        """Notes the sequences, by their tokens, that were computed to explain an answer."""
        self._variants.inc(len(lengths))
        self._variant_tokens.inc(sum(lengths))

    def refused(self, reason: str) -> None:
        self._refusals.labels(reason).inc()

    def unread(self, reason: str, status: int) -> Callable[[], None]:
        """What notes a request refused unread, whenever it is called: there may be thousands a second."""
        refusals = self._refusals.labels(reason)
        requests, seconds = self._requests.labels("POST", "none", str(status)), self._seconds.labels("none")

        def note() -> None:
            refusals.inc()
            requests.inc()
            seconds.observe(0.0)

        return note

    def replied(self, method: str, route: str, status: int, seconds: float) -> None:
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def expose(self) -> bytes:
        """The text format of Prometheus. OpenMetrics would say the same, and take half as long again."""
        return generate_latest(self.registry)


class _Engine(Collector):
    """The engine's own counts, read when they are asked for."""

    def __init__(self, work: Callable[[], tuple[int, int]], failures: Callable[[], int]) -> None:
        self._work, self._failures = work, failures

    def collect(self) -> Iterator[Metric]:
        steps, lane_steps = self._work()
        yield CounterMetricFamily("lstmserve_steps", "Steps that the engine's threads have taken.", steps)
        yield CounterMetricFamily("lstmserve_lane_steps", "Lanes that were live in these steps, summed.", lane_steps)
        yield CounterMetricFamily(
            "lstmserve_engine_failures", "Engine threads that failed and were replaced.", self._failures()
        )
