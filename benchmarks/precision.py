"""``python -m benchmarks.precision MODEL_DIR --data FILE``: how a version's precisions agree on labelled texts."""

import argparse
import select
import time
from pathlib import Path

import numpy as np

from models.artifact import read_artifact
from models.data import class_indices, read_rows, split_rows
from service.engine.native import NativeEngine
from service.sequence import Sequence


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.precision", description=str(__doc__).partition(": ")[2])
    parser.add_argument("model", type=Path, metavar="MODEL_DIR", help="version of a single-label model")
    parser.add_argument("--data", type=Path, required=True, help="labelled texts, as models.train reads them")
    parser.add_argument("--validation", type=float, default=0, help="only the part that training put aside with seed 0")
    options = parser.parse_args()
    artifact = read_artifact(options.model)
    assert artifact.tokenizer is not None, "the version has no tokenizer"
    rows = read_rows([options.data], "text", "label")
    if options.validation:
        rows = [rows[number] for number in split_rows(rows, options.validation, 0)[1]]
    texts = artifact.tokenizer.encode([row.text for row in rows])
    labels = np.array(class_indices(rows, artifact.config.labels))
    found = {}
    for precision in ("float32", "bfloat16"):
        engine = NativeEngine(threads=1, lanes=64, precision=precision, table_mb=192)
        weights = engine.load(artifact, precision)
        found[precision] = logits(engine, weights, [ids[: artifact.config.max_length] for ids in texts])
        accuracy = (found[precision].argmax(axis=1) == labels).mean()
        print(f"{precision} ({engine.precisions[precision]}): accuracy {accuracy:.2%} of {len(rows)} texts")
        engine.close()
    exact, rounded = found.values()
    same = (exact.argmax(axis=1) == rounded.argmax(axis=1)).mean()
    print(f"same label {same:.3%}, logits at most {np.abs(exact - rounded).max():.3g} apart")


def logits(
    engine: NativeEngine, weights: object, token_ids: list[list[int]]
) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """``[sequences, num_logits]``, in their order."""
    now = time.monotonic()
    sequences = [Sequence(ids, weights, now + 3600, now) for ids in token_ids]
    results: dict[Sequence, list[float] | Exception] = {}
    waiting = iter(sequences)
    while len(results) < len(sequences):
        for _ in range(engine.room):
            if (sequence := next(waiting, None)) is not None:
                engine.start(sequence)
        select.select([engine], [], [])
        results |= dict(engine.collect())
    return np.array([results[sequence] for sequence in sequences])


if __name__ == "__main__":
    main()
