"""``python -m benchmarks.soak``: minutes of everything at once, and not one wrong, lost or second answer.

Steady callers in three dialects, callers that leave or are in a hurry, bursts beyond what it can do, bad requests, bad
connections, strangers, reloads and changes of keys, all against one real process. Every answer is compared with that of
torch, and with the first one to the same input by the same version, bit for bit. Exit status 1 where anything is not as
it should be.
"""

import argparse
import asyncio
import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks import figures
from benchmarks.callers import BURST_ROWS, NAME, Answers, Callers, KeysFile
from benchmarks.lengths import draw_sequences, reviews
from benchmarks.server import ROOT, Command, Server, service
from models.artifact import Artifact, read_artifact, write_artifact
from models.golden import SENTENCES, golden_cases
from models.network import SequenceClassifier

MEMORY_MB_A_MINUTE, DESCRIPTORS = 2.0, 32
"""What may be gained from the middle of the run to its end, once it has run for `SETTLED_MINUTES`."""
SETTLED_MINUTES = 5.0
MUST = {("slow", "cut off"), ("burst", "429"), ("hurried", "504")}
"""Endings without which a run has not put the service to the test."""
QUEUE = ["--max-sequences", str(BURST_ROWS), "--queue-tokens", str(4096 * BURST_ROWS)]
"""The least that a request of so many sequences allows: bursts pass it."""


class Gained(NamedTuple):
    """From the middle of a run to its end."""

    mb_a_minute: float
    descriptors: int

    @classmethod
    def of(cls, samples: Sequence[tuple[float, float, int]]) -> "Gained":
        late = samples[len(samples) // 2 :]
        minutes, resident, descriptors = zip(*late, strict=True)
        slope = statistics.linear_regression(minutes, resident).slope
        fifth = max(1, len(late) // 5)
        return cls(slope, max(descriptors[-fifth:]) - max(descriptors[:fifth]))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=str(__doc__).partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=10, help="length of the run")
    minutes = parser.parse_args().minutes
    shipped = read_artifact(ROOT / "models/store/imdb/1")
    artifacts = {1: shipped, 2: another(shipped)}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for version, artifact in artifacts.items():
            write_artifact(folder / "store" / NAME / str(version), artifact)
        callers, operators = KeysFile(folder / "api.keys"), KeysFile(folder / "admin.keys")
        command = service(folder / "store", NAME, log_level="error")  # what it refuses, it warns of
        flags = [*QUEUE, "--api-keys-file", str(folder / "api.keys"), "--admin-keys-file", str(folder / "admin.keys")]
        with Server(Command([*command.arguments, *flags], command.environment)) as server:
            server.ready()
            assert shipped.tokenizer is not None
            sequences = [*shipped.tokenizer.encode(list(SENTENCES)), *draw_sequences(shipped.config, reviews, 60)]
            answers = Answers(artifacts, sequences, "bfloat16")
            soak = Callers(server, callers, operators, answers, sequences, minutes)
            asyncio.run(soak.run())
        return report(soak, minutes)


def another(artifact: Artifact) -> Artifact:
    """The model with another linear layer."""
    weights = dict(artifact.weights)
    weights["linear.weight"] = np.ascontiguousarray(-0.7 * weights["linear.weight"])
    network = SequenceClassifier.from_weights(artifact.config, weights)
    return artifact._replace(weights=weights, golden=golden_cases(network, artifact.tokenizer))


def report(soak: Callers, minutes: float) -> int:
    gained = Gained.of(soak.samples)
    if minutes >= SETTLED_MINUTES and gained.mb_a_minute > MEMORY_MB_A_MINUTE:
        soak.problems.append(f"memory: {gained.mb_a_minute:.1f} MB a minute")
    if gained.descriptors > DESCRIPTORS:
        soak.problems.append(f"descriptors: {gained.descriptors} gained")
    soak.problems += [f"{kind}: none was {ending!r}" for kind, ending in MUST - soak.counts.keys()]
    for (kind, ending), count in sorted(soak.counts.items()):
        print(f"{kind:>10}  {ending:>9}  {count:>8,}")
    p50, p99 = (1e3 * figures.quantile(soak.latencies, share) for share in (0.5, 0.99))
    print(f"steady callers: p50 {figures.shown(p50)} ms, p99 {figures.shown(p99)} ms, bursts included")
    print(
        f"resident: {soak.samples[-1][1]:.0f} MB at the end, {gained.mb_a_minute:+.2f} MB a minute in the second half"
    )
    print(f"descriptors: {soak.samples[-1][2]} at the end, {gained.descriptors:+d} in the second half")
    for problem, count in Counter(soak.problems).most_common(20):
        print(f"NOT AS IT SHOULD BE ({count} times): {problem}")
    print(f"{soak.counts.total():,} requests in {minutes:g} minutes, {len(soak.problems)} not as they should be")
    return int(bool(soak.problems))


if __name__ == "__main__":
    sys.exit(main())
