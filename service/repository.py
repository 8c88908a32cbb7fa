"""Models on disk -> verified versions in memory, ready to answer."""

import logging
import time
from collections.abc import Callable, Hashable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from models.artifact import NAME, SUMS, ArtifactError, GoldenCase, highest_version, read_artifact
from models.config import ModelConfig
from service.engine import Backend, Engine
from service.errors import UnknownModel
from service.sequence import Sequence

log = logging.getLogger(__name__)

TOLERANCE = 1e-4
"""Golden cases hold when every float32 logit is within this times max(1, |logit|) of the reference."""


class Model(NamedTuple):
    """A version that serves."""

    name: str
    version: int
    config: ModelConfig
    weights: Hashable


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


def open_repository(store: Path, default: str, backend: Backend) -> Repository:
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
            models.append(_load(version, backend))
        elif folder.name == default:
            raise ArtifactError(folder, f"has no complete version (a folder 1, 2, ... with {SUMS}), or an odd name")
        else:
            log.warning("left out: no complete version, or an odd name", extra={"folder": str(folder)})
    return Repository(models, default)


def _load(folder: Path, backend: Backend) -> Model:
    artifact = read_artifact(folder)
    try:
        weights = backend.load(artifact)
        _verify(folder, artifact.golden, weights, backend.engine)
    except (RuntimeError, MemoryError) as error:  # torch's, for want of memory above all
        raise ArtifactError(folder, f"cannot be loaded on {backend.device}: {error}") from error
    return Model(folder.parent.name, int(folder.name), artifact.config, weights)


def _verify(folder: Path, golden: list[GoldenCase], weights: Hashable, make_engine: Callable[[], Engine]) -> None:
    """Runs the golden cases, which also warms what the first request would have had to."""
    engine = make_engine()
    now = time.monotonic()
    cases = {Sequence(case.token_ids, weights, now, now): case for case in golden}
    for sequence in cases:
        engine.start(sequence)
    while cases:
        for sequence, result in engine.step(1):
            case = cases.pop(sequence)
            if isinstance(result, Exception):
                raise ArtifactError(folder, f"a golden case cannot be computed: {result}") from result
            expected = np.array(case.logits)
            error = np.abs(result - expected) / np.maximum(1, np.abs(expected))
            if not (error <= TOLERANCE).all():
                raise ArtifactError(
                    folder,
                    f"a golden case of {len(case.token_ids)} tokens is off by {error.max():.1e} on this engine; "
                    f"at most {TOLERANCE:.0e} is allowed",
                )
