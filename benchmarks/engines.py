"""``python -m benchmarks.engines``: what engines compute in process, side by side.

Every engine gets the same sequences in the same order, always `concurrent` of them together: those that take batches
get the next `concurrent` when a batch is done, the service's own engine one as soon as one is done. All use all cores.
"""

import argparse
import contextlib
import itertools
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from benchmarks import figures, report
from benchmarks.agreement import Agreement
from benchmarks.lengths import draw_sequences, reviews, uniform
from benchmarks.model import CONFIG, make_artifact, measured_peak
from benchmarks.onnx_lstm import OnnxRuntime, export, quantise
from benchmarks.padded import Padded
from benchmarks.stream import Run, batches, lanes, timed
from models.artifact import Artifact
from models.network import SequenceClassifier
from service.engine import choose
from service.engine.cores import usable_cores
from service.settings import Settings

LENGTHS = {"reviews": reviews, "uniform": uniform}
CONCURRENT = (1, 8, 32, 64)


class Contender(NamedTuple):
    """An engine to be measured."""

    name: str
    precision: str
    run: Run


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engines", description=str(__doc__).partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="how often everything is measured")
    parser.add_argument("--seconds", type=float, default=0.5, help="least time of each figure")
    parser.add_argument("--sequences", type=int, default=128, help="how many different ones")
    parser.add_argument("--json", type=Path, help="file for the results")
    options = parser.parse_args()
    with contextlib.ExitStack() as engines:
        results = measure(options.rounds, options.seconds, options.sequences, engines)
    if options.json:
        options.json.write_text(json.dumps(results))
    print(report.engines(results))


def measure(rounds: int, seconds: float, count: int, engines: contextlib.ExitStack) -> dict[str, Any]:
    """All figures; `engines` closes ours. They take turns at each load: what is compared lies seconds apart."""
    machine, cores = figures.machine(), usable_cores()
    artifact = make_artifact()
    network = SequenceClassifier.from_weights(artifact.config, artifact.weights)
    contenders = [*others(network, cores), *ours(artifact, engines)]
    loads = {name: draw_sequences(CONFIG, lengths, count) for name, lengths in LENGTHS.items()}
    references = {
        name: np.vstack([network.predict([sequence]) for sequence in sequences]) for name, sequences in loads.items()
    }
    peaks: dict[str, list[float]] = {"float32": [], "bfloat16": []}
    agreements = {contender.name: Agreement(0.0, 1.0) for contender in contenders}
    rates: dict[str, dict[str, dict[str, list[float]]]] = {
        name: {str(concurrent): {contender.name: [] for contender in contenders} for concurrent in CONCURRENT}
        for name in loads
    }
    for number, name, concurrent in itertools.product(range(rounds), loads, CONCURRENT):
        if (name, concurrent) == (next(iter(loads)), CONCURRENT[0]):
            for dtype, found in peaks.items():
                found.append(measured_peak(getattr(torch, dtype), cores))
        for contender in contenders:
            torch.set_num_threads(cores)  # the packed engine of the service sets it for the process
            rate, answers = timed(contender.run, loads[name], concurrent, seconds)
            agreement = Agreement.of(answers, references[name])
            agreement.check(contender.name, contender.precision)
            agreements[contender.name] = agreement.or_worse(agreements[contender.name])
            rates[name][str(concurrent)][contender.name].append(rate)
            where = f"round {number + 1}, {name}, {concurrent} together"
            print(f"{where:32} {contender.name:28} {rate:8.0f} sequences/s", file=sys.stderr)
    return {
        "machine": machine,
        "precisions": {contender.name: contender.precision for contender in contenders},
        "agreements": agreements,
        "peaks": peaks,
        "tokens": {name: sum(map(len, sequences)) / len(sequences) for name, sequences in loads.items()},
        "rates": rates,
    }


def others(network: SequenceClassifier, cores: int) -> Iterator[Contender]:
    """What users would pick instead; torch's threads are set before each measurement."""
    yield Contender("torch packed", "float32", batches(network.predict))
    yield Contender("torch oneDNN float32", "float32", batches(Padded(network, torch.float32).predict))
    yield Contender("torch oneDNN bfloat16", "bfloat16", batches(Padded(network, torch.bfloat16).predict))
    model = export(network)
    yield Contender("ONNX Runtime float32", "float32", batches(OnnxRuntime(model, cores).predict))
    yield Contender("ONNX Runtime int8", "int8", batches(OnnxRuntime(quantise(model), cores).predict))


def ours(artifact: Artifact, engines: contextlib.ExitStack) -> Iterator[Contender]:
    """The engine that the service chooses on this CPU, in each of its precisions."""
    chosen = choose(Settings.load(["--device", "cpu"], {}))
    chosen.close()
    for precision, path in reversed(list(chosen.precisions.items())):
        # one of its own for each: the precisions of one engine would share its memory for tables
        engine = choose(Settings.load(["--device", "cpu", "--precision", precision], {}))
        engines.callback(engine.close)
        name = f"lstm-serve {engine.name} {precision} ({path})"
        yield Contender(name, precision, lanes(engine, engine.load(artifact, precision)))


if __name__ == "__main__":
    main()
