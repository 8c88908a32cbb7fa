"""Models on disk -> verified versions in memory, ready to answer."""

import logging
import select
import time
from collections import deque
from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from models.artifact import NAME, SUMS, Artifact, ArtifactError, GoldenCase, highest_version, read_artifact
from models.config import ModelConfig
from service.engine import Engine
from service.errors import UnknownModel
from service.sequence import Sequence

log = logging.getLogger(__name__)

TOLERANCE = 1e-4
"""Golden cases hold in float32 when every logit is within this times max(1, |logit|) of the reference."""

BFLOAT16_TOLERANCE = 0.1
"""They hold in bfloat16 when every logit is within this of the reference and the labels are the same."""

GOLDEN_SECONDS = 120.0
"""More than the golden cases of any model take."""


class Model(NamedTuple):
    """A version that serves."""

    name: str
    version: int
    config: ModelConfig
    weights: Hashable
    precision: str


class Repository:
    """The models that serve, by name; the one named `default` answers where a route names none."""

    def __init__(self, models: list[Model], default: str) -> None:
        self._models = {model.name: model for model in models}
        self._default = default

    def get(self, name: str | None = None) -> Model:
        """Raises UnknownModel."""
        try:
            return self._models[name or self._default]
        except KeyError as error:
            raise UnknownModel(f"no model {name!r}; there are: {', '.join(self._models)}") from error

    def __iter__(self) -> Iterator[Model]:
        return iter(self._models.values())


def open_repository(store: Path, default: str, engine: Engine) -> Repository:
    """Loads the highest version of every model in `store` and verifies it on the engine that will serve it.

    Raises ArtifactError, naming what is wrong with which file.
    """
    if not store.is_dir():
        raise ArtifactError(store, "no such folder of models (LSTMSERVE_STORE)")
    folders = sorted(folder for folder in store.iterdir() if folder.is_dir() and not folder.name.startswith("."))
    if default not in [folder.name for folder in folders]:
        raise ArtifactError(store / default, "no such model (LSTMSERVE_MODEL)")
    models = []
    for folder in folders:
        version = highest_version(folder) if NAME.fullmatch(folder.name) else None
        if version is not None:
            models.append(_load(version, engine))
        elif folder.name == default:
            raise ArtifactError(folder, f"has no complete version (a folder 1, 2, ... with {SUMS}), or an odd name")
        else:
            log.warning("left out: no complete version, or an odd name", extra={"folder": str(folder)})
    return Repository(models, default)


def _load(folder: Path, engine: Engine) -> Model:
    """The version in the first precision of the engine in which its golden cases hold."""
    artifact = read_artifact(folder)
    name, version = folder.parent.name, int(folder.name)
    wrong = ""
    for precision in engine.precisions:
        try:
            weights = engine.load(artifact, precision)
            wrong = _verify(artifact, weights, engine, precision)
        except (RuntimeError, MemoryError) as error:  # for want of memory above all
            raise ArtifactError(folder, f"cannot be loaded on {engine.device}: {error}") from error
        if not wrong:
            return Model(name, version, artifact.config, weights, precision)
        del weights  # before the next: they take memory that it may need
        if precision != tuple(engine.precisions)[-1]:
            extra = {"model": name, "version": version, "precision": precision, "reason": wrong}
            log.warning("not served in this precision", extra=extra)
    hint = "; set LSTMSERVE_PRECISION to auto or float32" if precision == "bfloat16" else ""
    raise ArtifactError(folder, wrong + hint)


def _verify(artifact: Artifact, weights: Hashable, engine: Engine, precision: str) -> str:
    """Runs the golden cases, which also warms what the first request would have had to.

    What is wrong with one of them; empty where they hold.
    """
    cases = artifact.golden
    for case, result in zip(cases, _compute([case.token_ids for case in cases], weights, engine), strict=True):
        if isinstance(result, Exception):
            return f"a golden case cannot be computed: {result}"
        if wrong := _compare(case, result, artifact.config, precision):
            return f"a golden case of {len(case.token_ids)} tokens {wrong}"
    return ""


def _compute(token_ids: list[list[int]], weights: Hashable, engine: Engine) -> list[list[float] | Exception]:
    """What the engine makes of each sequence. Raises RuntimeError when it does not answer."""
    now = time.monotonic()
    deadline = now + GOLDEN_SECONDS
    sequences = [Sequence(tokens, weights, deadline, now) for tokens in token_ids]
    results: dict[Sequence, list[float] | Exception] = {}
    waiting, held = deque(sequences), 0
    while waiting or held:
        while waiting and engine.room:
            sequence = waiting.popleft()
            try:
                engine.start(sequence)
                held += 1
            except Exception as error:
                results[sequence] = error
        if held and not select.select([engine.fileno()], [], [], max(0.0, deadline - time.monotonic()))[0]:
            raise RuntimeError(f"no answer to its golden cases in {GOLDEN_SECONDS:.0f} s")
        outcomes = engine.collect()
        held -= len(outcomes)
        results.update(outcomes)
    return [results[sequence] for sequence in sequences]


def _compare(case: GoldenCase, result: list[float], config: ModelConfig, precision: str) -> str:
    """What is wrong with the logits of a golden case; empty where they hold."""
    logits, expected = np.array(result), np.array(case.logits)
    error = np.abs(logits - expected)
    if precision == "float32":
        error, most = error / np.maximum(1, np.abs(expected)), TOLERANCE
    else:
        most = BFLOAT16_TOLERANCE
        one = config.output == "softmax"
        if logits.argmax() != expected.argmax() if one else ((logits > 0) != (expected > 0)).any():
            return "has another label on this engine"
    if (error <= most).all():
        return ""
    return f"is off by {error.max():.1e} on this engine; at most {most:.0e} is allowed"
