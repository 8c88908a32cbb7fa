"""``python -m benchmarks.overload``: what becomes of the service far beyond what it can do, and right afterwards.

An open loop from the same machine: requests come at their time, whatever was answered. Every answer is checked. Exit
status 1 where a promise of docs/operations.md does not hold.
"""

import argparse
import asyncio
import gc
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks import client, figures
from benchmarks.flood import Flood
from benchmarks.lengths import draw_sequences, reviews
from benchmarks.model import CONFIG, NAME, make_artifact
from benchmarks.server import Server, service
from benchmarks.service import Traffic
from models.artifact import write_artifact
from models.network import SequenceClassifier
from service.settings import Settings

LARGE = 32
"""Sequences of a large request."""
CONNECTIONS = 3000
"""Of the open loop: more than there are requests that wait."""
PROBES = {"/livez": 10, "/metrics": 1}
"""Requests a second to the routes that must answer throughout; a scrape costs 5 ms, and comes every 15 s in truth."""
GOODPUT, WAIT, PROBE_MS, AFTER_SECONDS = 0.9, 2.0, 100.0, 1.0
"""The promises: of the peak; of the queue bound's computed wait; of /livez and /metrics; until all is as before."""
GROWTH_MB = 50.0
"""Memory that may be gained from the first third of a load to its last."""


class Load(NamedTuple):
    """`times` as much as the service can do, by requests of that traffic."""

    name: str
    traffic: Traffic
    times: float
    connections: int
    """Of the closed loop that finds what it can do."""


class Found(NamedTuple):
    """What one load did; times in seconds, rates in sequences/s."""

    peak: float
    offered: float
    goodput: float
    refused: float
    p50: float
    p99: float
    computed: float
    """The wait of the queue bound at that goodput."""
    livez: float
    metrics: float
    """The worst of all."""
    memory: tuple[float, float]
    """MB in the first third and in the last, the most of each."""
    before: float
    after: float
    """p99 of single requests one after another, before the load and from a second after its last arrival."""
    late: int
    """Single requests refused from a second after it."""
    failed: int
    """Probes with a status other than 200."""

    def broken(self) -> list[str]:
        """The promises that do not hold."""
        kept = {
            "goodput": self.goodput >= GOODPUT * self.peak,
            "p99 of the accepted": self.p99 <= WAIT * self.computed,
            "/livez": 1e3 * self.livez <= PROBE_MS,
            "/metrics": 1e3 * self.metrics <= PROBE_MS,
            "probes": not self.failed,
            "memory": self.memory[1] - self.memory[0] <= GROWTH_MB,
            "normal afterwards": not self.late and self.after <= max(2 * self.before, 0.01),
        }
        return [name for name, holds in kept.items() if not holds]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overload", description=str(__doc__).partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60, help="length of each load")
    options = parser.parse_args()
    artifact = make_artifact()
    network = SequenceClassifier.from_weights(artifact.config, artifact.weights)
    sequences = draw_sequences(CONFIG, reviews, 320)
    single, large = Traffic(network, sequences), Traffic(network, sequences, LARGE)
    tokens = float(np.mean([len(sequence) for sequence in sequences]))
    loads = [Load(f"{LARGE} sequences a request, 10 times", large, 10, 16), Load("one, twice", single, 2, 256)]
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        write_artifact(Path(folder, NAME, "1"), artifact)
        gc.disable()  # or collections of the load generator would last as long as a request
        for load in loads:
            with Server(service(Path(folder), NAME)) as server:
                server.first_reply(single.requests[0].partition(b"\r\n\r\n")[2])
                found = measure(server, load, single, tokens, options.seconds)
            show(load, found)
            failed |= bool(found.broken())
    return int(failed)


def measure(server: Server, load: Load, single: Traffic, tokens: float, seconds: float) -> Found:
    precision = server.precision()
    size = load.traffic.per_request
    normal = client.run(client.closed_loop(server.url, single.requests, 1, 2))
    first = client.run(client.closed_loop(server.url, load.traffic.requests, load.connections, seconds / 6))
    over = client.run(watched(server, load, single, load.times * served(first, size) / size, seconds))
    last = client.run(client.closed_loop(server.url, load.traffic.requests, load.connections, seconds / 6))
    right = [reply for reply in over.replies if reply.status == 200]
    for traffic, replies in (
        (load.traffic, [*first, *over.replies, *last]),
        (single, [*normal, *over.after]),
    ):
        answered = [(reply.number, reply.body) for reply in replies if reply.status == 200]
        traffic.agreement(answered).check(server.url, precision)
        if odd := {reply.status for reply in replies} - {200, 429}:
            raise RuntimeError(f"replies with status {odd}")
    goodput = served(over.replies, size)
    settings = Settings()
    waiting = min(settings.queue_tokens, settings.queue_requests * size * tokens)
    waits = [reply.latency for reply in right]
    third = len(over.memory) // 3
    return Found(
        # machines become slower and faster in a minute: what it could do before the load and after it
        peak=(served(first, size) + served(last, size)) / 2,
        offered=load.times * served(first, size),
        goodput=goodput,
        refused=1 - len(right) / len(over.replies),
        p50=figures.quantile(waits, 0.5),
        p99=figures.quantile(waits, 0.99),
        computed=waiting / (goodput * tokens),
        # the generator's own lateness is not the service's
        livez=max(probe.finished - probe.sent for probe in over.livez),
        metrics=max(probe.finished - probe.sent for probe in over.metrics),
        memory=(max(over.memory[:third]), max(over.memory[-third:])),
        before=figures.quantile([reply.latency for reply in normal], 0.99),
        after=figures.quantile([reply.latency for reply in over.after], 0.99),
        late=sum(reply.status != 200 for reply in over.after),
        failed=sum(probe.status != 200 for probe in (*over.livez, *over.metrics)),
    )


class Watched(NamedTuple):
    """The replies of a load, of the probes meanwhile and of single requests afterwards; resident memory, in MB."""

    replies: list[client.Reply]
    livez: list[client.Reply]
    metrics: list[client.Reply]
    after: list[client.Reply]
    """One after another from `AFTER_SECONDS` after the last arrival, beside what still waits."""
    memory: list[float]


async def watched(server: Server, load: Load, single: Traffic, rate: float, seconds: float) -> Watched:
    """An open loop of so many requests a second, at random times, and what comes after it."""
    draw = np.random.default_rng(0)
    arrivals = np.cumsum(draw.exponential(1 / rate, int(rate * seconds))).tolist()
    probes = {path: np.arange(0, seconds, 1 / rate).tolist() for path, rate in PROBES.items()}
    memory: list[float] = []
    sent = asyncio.Event()
    loop = asyncio.get_running_loop()

    def tell() -> None:
        loop.call_soon_threadsafe(sent.set)

    async def look() -> None:
        while True:
            memory.append(server.resident())
            await asyncio.sleep(seconds / 30)

    async def afterwards() -> list[client.Reply]:
        await sent.wait()
        await asyncio.sleep(AFTER_SECONDS)
        return await client.closed_loop(server.url, single.requests, 1, 2)

    with Flood(server.url, CONNECTIONS) as flood:
        looking = asyncio.ensure_future(look())
        replies, livez, metrics, after = await asyncio.gather(
            asyncio.to_thread(flood.run, load.traffic.requests, arrivals, tell),
            *(client.open_loop(server.url, [client.get(path)], times, 1) for path, times in probes.items()),
            afterwards(),
        )
    looking.cancel()
    return Watched(replies, livez, metrics, after, memory)


def served(replies: Sequence[client.Reply], size: int) -> float:
    """Sequences/s that were answered, between the first and the last fifth of the load."""
    first, last = min(reply.sent for reply in replies), max(reply.sent for reply in replies)
    begin, end = first + (last - first) / 5, last
    return size * sum(begin <= reply.finished < end for reply in replies if reply.status == 200) / (end - begin)


def show(load: Load, found: Found) -> None:
    print(f"{load.name}: {', '.join(found.broken()) or 'all promises hold'}")
    lines = {
        "offered, at the peak, accepted (sequences/s)": (found.offered, found.peak, found.goodput),
        "of the peak, refused (%)": (100 * found.goodput / found.peak, 100 * found.refused),
        "accepted: p50, p99; the bound's computed wait (ms)": (1e3 * found.p50, 1e3 * found.p99, 1e3 * found.computed),
        "/livez, /metrics: the worst (ms)": (1e3 * found.livez, 1e3 * found.metrics),
        "resident: first third, last third (MB)": found.memory,
        "single requests' p99: before, a second after (ms); refused": (
            1e3 * found.before,
            1e3 * found.after,
            found.late,
        ),
    }
    for title, values in lines.items():
        print(f"  {title}: {', '.join(map(figures.shown, values))}")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
