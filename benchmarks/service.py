"""``python -m benchmarks.service``: what the service does over HTTP, beside FastAPI around torch.

The two take turns, never at the same time; the load generator runs on the same cores. Every reply is checked.
"""

import argparse
import asyncio
import gc
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import client, figures, report
from benchmarks.agreement import Agreement
from benchmarks.lengths import LONG, draw_sequences, mixed, reviews
from benchmarks.model import CONFIG, NAME, make_artifact
from benchmarks.server import Server, baseline, service
from benchmarks.stream import batches, timed
from models.artifact import write_artifact
from models.network import SequenceClassifier
from service.engine.cores import usable_cores

SERVERS = ("baseline", "lstm-serve")
CONNECTIONS = (8, 32, 128)
BUSY = 32
"""Connections of the loads that differ in something else, and sequences of a large request."""
SHARES = (0.5, 0.8)
"""Of a server's rate in the closed loop: the rates of the open loop."""
PROBES = 20
"""Requests a second that look for the event loop's lag."""
WARM = 0.1
"""Share of a loop's time whose replies are checked, not counted."""


Figures = dict[str, dict[str, float]]
"""Of one server in one round, by load and name."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.service", description=str(__doc__).partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="how often everything is measured")
    parser.add_argument("--seconds", type=float, default=5, help="length of each load")
    parser.add_argument("--json", type=Path, help="file for the results")
    options = parser.parse_args()
    results = measure(options.rounds, options.seconds)
    if options.json:
        options.json.write_text(json.dumps(results))
    print(report.service(results))


def measure(rounds: int, seconds: float) -> dict[str, Any]:
    """All figures; in each round the baseline's come first, as its rate sets that of the open loop."""
    cores = usable_cores()
    torch.set_num_threads(cores)
    artifact = make_artifact()
    network = SequenceClassifier.from_weights(artifact.config, artifact.weights)
    sequences = draw_sequences(CONFIG, reviews, 320)
    single, large = Traffic(network, sequences), Traffic(network, sequences, BUSY)
    mix = Traffic(network, draw_sequences(CONFIG, mixed, 400))
    in_process: list[float] = []
    found: dict[str, dict[str, dict[str, list[float]]]] = {name: {} for name in SERVERS}
    with tempfile.TemporaryDirectory() as folder:
        version = Path(folder, NAME, "1")
        write_artifact(version, artifact)
        commands = dict(zip(SERVERS, (baseline(version, cores), service(Path(folder), NAME)), strict=True))
        gc.freeze()  # or collections of the load generator would last as long as a request
        for number in range(rounds):
            in_process.append(timed(batches(network.predict), sequences, BUSY, seconds)[0])
            rate = None
            for name, command in commands.items():
                with Server(command) as server:
                    run = Round(server, seconds, number)
                    run.start(single)
                    run.closed(single, large, mix)
                    rate = run.open(single, rate)
                for load, values in run.figures.items():
                    for title, value in values.items():
                        found[name].setdefault(load, {}).setdefault(title, []).append(value)
                    shown = ", ".join(f"{title} {figures.shown(value)}" for title, value in values.items())
                    print(f"round {number + 1}, {name}, {load}: {shown}", file=sys.stderr)
    return {"in_process": in_process, "figures": found}


class Traffic:
    """Sequences, the requests that carry them, and the logits that they must get."""

    def __init__(self, network: SequenceClassifier, sequences: list[list[int]], per_request: int = 1) -> None:
        self.long = [len(sequence) >= LONG for sequence in sequences]
        self.per_request = per_request
        self._reference = np.vstack([network.predict([sequence]) for sequence in sequences])
        rows = [sequences[start : start + per_request] for start in range(0, len(sequences), per_request)]
        self.requests = [client.predict(row, CONFIG.pad_id) for row in rows]

    def agreement(self, replies: Sequence[tuple[int, bytes]]) -> Agreement:
        """Of numbers of requests and the bodies of their replies."""
        answers = [
            (number * self.per_request + row, logits)
            for number, body in replies
            for row, logits in enumerate(json.loads(body)["logits"])
        ]
        return Agreement.of(answers, self._reference)


class Round:
    """One server through all loads, in one round."""

    def __init__(self, server: Server, seconds: float, seed: int) -> None:
        self._server, self._seconds = server, seconds
        self._draw = np.random.default_rng(seed)
        self.figures: Figures = {"start": {}, "memory": {}}

    def start(self, single: Traffic) -> None:
        """Its first reply, and one request after another."""
        seconds, reply = self._server.first_reply(single.requests[0].partition(b"\r\n\r\n")[2])
        self._precision = self._server.precision()
        self._check(single, [(0, reply)])
        self.figures["start"]["first right reply, s"] = seconds
        self.figures["1 connection"] = self._closed(single, 1)
        self.figures["memory"]["warm, MB"] = self._server.resident()

    def closed(self, single: Traffic, large: Traffic, mix: Traffic) -> None:
        for connections in CONNECTIONS:
            self.figures[f"{connections} connections"] = self._closed(single, connections)
        values = self._closed(large, 4)
        rate = {"sequences/s": values.pop("requests/s") * BUSY}
        self.figures[f"4 connections, {BUSY} sequences a request"] = rate | values
        self.figures[f"{BUSY} connections, mixed lengths"] = self._closed(mix, BUSY)
        self.figures["memory"]["after these loads, MB"] = self._server.resident()

    def open(self, single: Traffic, base: float | None) -> float:
        """Poisson arrivals at shares of the rate `base`, and of its own where that differs; its own rate."""
        own = self.figures[f"{BUSY} connections"]["requests/s"]
        rates = {f"open loop, {share:.0%} of the baseline's rate": share * (base or own) for share in SHARES}
        if base:
            rates |= {f"open loop, {share:.0%} of its own rate": share * own for share in SHARES}
        for load, rate in rates.items():
            arrivals = np.cumsum(self._draw.exponential(1 / rate, int(rate * self._seconds))).tolist()
            replies = client.run(client.open_loop(self._server.url, single.requests, arrivals))
            right = [reply for reply in replies if reply.status == 200]
            self._check(single, [(reply.number, reply.body) for reply in right])
            first = min(reply.due for reply in replies)
            counted = [reply.latency for reply in right if reply.due >= first + WARM * self._seconds]
            self.figures[load] = {
                "offered, requests/s": rate,
                "refused, %": 100 * (1 - len(right) / len(replies)),
                **latencies(counted),
            }
        return own

    def _closed(self, traffic: Traffic, connections: int) -> dict[str, float]:
        """Rate and latencies; at `BUSY` connections also what the load costs and how far the event loop lags."""
        used, generator = self._server.cpu_seconds(), time.process_time()
        replies, probes = client.run(self._probed(traffic, connections))
        used, generator = self._server.cpu_seconds() - used, time.process_time() - generator
        if refused := next((reply for reply in (*replies, *probes) if reply.status != 200), None):
            raise RuntimeError(f"a request was refused: {refused.status} {refused.body.decode()}")
        self._check(traffic, [(reply.number, reply.body) for reply in replies])
        first = min(reply.sent for reply in replies)
        begin, end = first + WARM * self._seconds, first + self._seconds
        counted = [reply for reply in replies if begin <= reply.finished < end]
        found = {"requests/s": len(counted) / (end - begin)}
        if any(traffic.long):
            for kind, long in (("short", False), ("long", True)):
                of_kind = [reply.latency for reply in counted if traffic.long[reply.number] is long]
                found |= {f"{kind}, {title}": value for title, value in latencies(of_kind).items()}
        else:
            found |= latencies([reply.latency for reply in counted])
        if connections == BUSY:
            found["CPU a request, ms"] = 1e3 * used / len(replies)
            found["the load generator's, ms"] = 1e3 * generator / len(replies)
            found |= {f"event loop's lag, {title}": value for title, value in latencies(lags(probes)).items()}
        return found

    async def _probed(self, traffic: Traffic, connections: int) -> tuple[list[client.Reply], list[client.Reply]]:
        probes = np.arange(0, self._seconds, 1 / PROBES).tolist()
        url = self._server.url
        return await asyncio.gather(
            client.closed_loop(url, traffic.requests, connections, self._seconds),
            client.open_loop(url, [client.get("/livez")], probes, connections=1),
        )

    def _check(self, traffic: Traffic, replies: Sequence[tuple[int, bytes]]) -> None:
        traffic.agreement(replies).check(self._server.url, self._precision)


def latencies(seconds: Sequence[float]) -> dict[str, float]:
    return {f"p{share}, ms": 1e3 * figures.quantile(seconds, share / 100) for share in (50, 95, 99)}


def lags(probes: Sequence[client.Reply]) -> list[float]:
    """Seconds to the reply of a route that computes nothing; a late generator is not the server's lag."""
    return [probe.finished - probe.sent for probe in probes]


if __name__ == "__main__":
    main()
