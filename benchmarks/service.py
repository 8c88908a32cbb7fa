"""``python -m benchmarks.service``: cold start, memory, latency and throughput of the service on one model.

Beside the service's rates stands that of the same network called in process, one sequence at a time on one thread,
measured in the same run: only the ratio can be compared between machines.
"""

import argparse
import asyncio
import functools
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.client import Result, closed_loop
from models.artifact import highest_version, read_artifact
from models.config import ModelConfig
from models.network import SequenceClassifier
from service.repository import TOLERANCE


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.service", description=__doc__.partition("\n")[0])
    parser.add_argument("--store", type=Path, default=Path("models/store"), help="folder of models")
    parser.add_argument("--model", default="imdb", help="model in it")
    parser.add_argument("--seconds", type=float, default=10, help="length of each loop")
    options = parser.parse_args()
    artifact = read_artifact(highest_version(options.store / options.model) or options.store / options.model)
    network = SequenceClassifier.from_weights(artifact.config, artifact.weights)
    sequences = draw_sequences(artifact.config, 256)
    torch.set_num_threads(1)
    reference = np.vstack([network.predict([sequence]) for sequence in sequences])
    load = Load(sequences, reference, artifact.config.pad_id)

    with socket.create_server(("127.0.0.1", 0)) as probe:
        url = f"http://127.0.0.1:{probe.getsockname()[1]}"
    flags = ["--port", url.rpartition(":")[2], "--log-level", "warning"]
    flags += ["--store", str(options.store), "--model", options.model]
    began = time.perf_counter()
    server = subprocess.Popen([sys.executable, "-m", "service", *flags])
    try:
        wait_for_right_answer(server, url, load)
        print(f"{'cold start, process start to first right reply':52} {time.perf_counter() - began:8.2f} s")
        print(f"{'resident memory after it':52} {resident(server.pid):8.0f} MB")
        alone = in_process_rate(network, sequences)
        print(f"{'in process, one by one, one thread':52} {alone:8.0f} sequences/s")
        for connections, per_request in ((1, 1), (32, 1), (4, 32)):
            used = cpu_seconds(server.pid)
            result = load.run(url, connections, per_request, options.seconds)
            used = (cpu_seconds(server.pid) - used) / len(result.latencies)
            rate = result.rate * per_request
            print(
                f"{connections:3} connections, {per_request:2} sequences a request: {result.rate:8.0f} requests/s, "
                f"{rate:6.0f} sequences/s = {rate / alone:.2f} x in process, p50 {1e3 * result.quantile(0.5):.1f} ms, "
                f"p99 {1e3 * result.quantile(0.99):.1f} ms, CPU {1e3 * used:.2f} ms a request"
            )
        print(f"{'resident memory after the load':52} {resident(server.pid):8.0f} MB")
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(60)


class Load(NamedTuple):
    """Sequences, and the logits ``[sequences, num_logits]`` that each must get."""

    sequences: list[list[int]]
    reference: npt.NDArray[np.float32]
    pad_id: int

    def run(self, url: str, connections: int, per_request: int, seconds: float) -> Result:
        """A closed loop whose every reply is checked."""
        batches = [slice(start, start + per_request) for start in range(0, len(self.sequences), per_request)]
        bodies = [self.body(batch) for batch in batches]
        check = functools.partial(self.check, batches)
        return asyncio.run(closed_loop(url, bodies, connections=connections, seconds=seconds, check=check))

    def body(self, batch: slice) -> bytes:
        rows = self.sequences[batch]
        width = max(map(len, rows))
        padded = [row + [self.pad_id] * (width - len(row)) for row in rows]
        return json.dumps({"token_ids": padded, "lengths": [len(row) for row in rows]}).encode()

    def check(self, batches: list[slice], index: int, logits: list[list[float]]) -> None:
        """Raises RuntimeError where a reply is wrong: nothing is timed that is not right."""
        expected = self.reference[batches[index]]
        error = (np.abs(np.array(logits) - expected) / np.maximum(1, np.abs(expected))).max()
        if not error <= TOLERANCE:
            raise RuntimeError(f"a reply is off by {error:.1e}")


def draw_sequences(config: ModelConfig, count: int) -> list[list[int]]:
    """Token ids of lengths as in IMDB reviews: log-normal, 10 to 400 tokens, about 200 in the mean."""
    draw = np.random.default_rng(0)
    lengths = np.clip(draw.lognormal(5.2, 0.55, count), 10, min(400, config.max_length)).astype(int)
    ids = np.delete(np.arange(config.vocab_size), config.pad_id)
    return [draw.choice(ids, length).tolist() for length in lengths]


def wait_for_right_answer(server: subprocess.Popen[bytes], url: str, load: Load) -> None:
    batch = slice(0, 1)
    request = urllib.request.Request(f"{url}/predict", load.body(batch), {"Content-Type": "application/json"})
    while server.poll() is None:
        try:
            with urllib.request.urlopen(request) as reply:
                load.check([batch], 0, json.load(reply)["logits"])
                return
        except urllib.error.URLError:
            time.sleep(0.005)
    raise RuntimeError("the service ended before it answered")


def in_process_rate(network: SequenceClassifier, sequences: list[list[int]]) -> float:
    began = time.perf_counter()
    for sequence in sequences:
        network.predict([sequence])
    return len(sequences) / (time.perf_counter() - began)


def resident(pid: int) -> float:
    """MB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) * 1024 / 1e6


def cpu_seconds(pid: int) -> float:
    """User and system time of all threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
