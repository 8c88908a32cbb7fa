"""Versions that are wrong in one place, and what becomes of them: ``python -m tests.fuzzing_artifact``.

Each is read, verified and tried on the engine as the service does; what comes of it is a model or an ArtifactError.
It is a process of its own, whose memory is bounded, as what goes wrong may be the end of it.
"""

import asyncio
import json
import random
import shutil
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from models.artifact import MOST_REASON, SUMS, ArtifactError, complete_versions, read_artifact, version_digest
from models.network import SequenceClassifier
from service.engine import choose
from service.repository import Model
from service.settings import Settings
from tests.fuzzing import bounded, largest
from tests.fuzzing_files import COVERED, WRONG, Files, file_wrong, sealed
from tests.loading import Loading


class Fuzzer:
    """Makes cases of a whole version in `folder`, and tries them."""

    def __init__(self, folder: Path, seed: int, loading: Loading) -> None:
        self._whole = {name: (folder / name).read_bytes() for name in (*COVERED, SUMS)}
        self._case, self._seed, self._loading = folder.parent / "fuzzed" / "1", seed, loading
        self.counts = Counter[str]()

    async def run(self, number: int) -> None:
        """Raises AssertionError, or whatever else than ArtifactError comes of it."""
        draw = random.Random(f"{self._seed} {number}")
        may_hold, what = self._make(draw)
        outcome = "refused"
        try:
            model = await self._verified()
            assert may_hold, f"{what}: loaded, although a file is not what its digest says"
            self._check(model)
            outcome = "loaded"
        except ArtifactError as error:
            reason = str(error)
            assert reason.isprintable(), reason
            assert len(reason) < MOST_REASON + 200, reason
            assert "memory" not in reason, reason
            assert not reason.startswith(f"{self._case}: cannot be "), f"something else than ArtifactError: {reason}"
        self.counts.update((outcome, f"{outcome} {what}"))

    def _make(self, draw: random.Random) -> tuple[bool, str]:
        """Writes a case; whether it may hold, and what kind it is of."""
        shutil.rmtree(self._case, ignore_errors=True)
        self._case.mkdir(parents=True)
        if draw.random() < 0.05:
            self._write(self._whole)
            return file_wrong(draw, self._case), "kind of file"
        files = dict(self._whole)
        name = draw.choice(list(WRONG))
        wrong = draw.choice(WRONG[name])
        files[name] = wrong(draw, files[name])
        same = files[name] == self._whole[name]
        seal = name != SUMS and draw.random() < 0.95
        if seal:
            files[SUMS] = sealed(files)
        self._write(files)
        return seal or same or name == SUMS, f"{name} {wrong.__name__}"

    def _write(self, files: Files) -> None:
        for name, content in files.items():
            (self._case / name).write_bytes(content)

    async def _verified(self) -> Model:
        if complete_versions(self._case.parent) != [1]:
            raise ArtifactError(self._case, "is not complete")
        try:
            digest = version_digest(self._case)
        except OSError as error:  # the loader takes it so
            raise ArtifactError(self._case, str(error.strerror)) from error
        return await self._loading.loader._verifier.verified(self._case, digest, None)

    def _check(self, model: Model) -> None:
        """The version gives what its golden cases say, by another implementation too, and texts give their tokens."""
        artifact = read_artifact(self._case)
        network = SequenceClassifier.from_weights(artifact.config, artifact.weights)
        logits = network.predict([case.token_ids for case in artifact.golden])
        for case, row in zip(artifact.golden, logits.tolist(), strict=True):
            for value, expected in zip(row, case.logits, strict=True):
                assert abs(value - expected) <= 1e-3 * max(1, abs(expected))
            if case.text is not None and model.tokenizer:
                assert model.tokenizer.encode([case.text])[0][: model.config.max_length] == case.token_ids


async def main(folder: Path, seed: int, first: int, cases: int) -> dict[str, Any]:
    """What came of that many cases; raises for the first one that is a fault."""
    engine = choose(Settings(device="cpu", threads=1, lanes=8, precision="float32"))
    loading = Loading(folder.parents[1], engine)
    loading.batcher.start()
    fuzzer = Fuzzer(folder, seed, loading)
    await fuzzer.run(-1)  # what is made once is made now
    fuzzer.counts.clear()
    before = bounded()
    note = folder.parent / "case"
    for number in range(first, first + cases):
        note.write_text(f"case {number} of seed {seed}")
        await fuzzer.run(number)
    await loading.batcher.close()
    return {"counts": fuzzer.counts, "grown": largest() - before}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(Path(sys.argv[1]), *map(int, sys.argv[2:])))))
