"""A version read from disk and made ready on the engine that will serve it, where it gives the logits it came with."""

import asyncio
import hashlib
import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import NamedTuple, ParamSpec, TypeVar

import numpy as np

from models.artifact import Artifact, ArtifactError, GoldenCase, read_artifact
from models.config import ModelConfig
from service.batcher import Batcher
from service.engine import Engine
from service.errors import DeadlineExceeded, EngineLost, NotReady, ServiceError
from service.repository import Model

log = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")

TOLERANCE = 1e-4
"""Golden cases hold in float32 when every logit is within this times max(1, |logit|) of the reference."""

BFLOAT16_TOLERANCE = 0.1
"""They hold in bfloat16 when every logit is within this of the reference and the labels are the same."""

SECONDS = 120.0
"""More than it takes to read any version, to make its weights ready, or to compute a few sequences."""

FEW, FEW_TOKENS = 64, 8192
"""Sequences, or their tokens, that are computed at a time beside the traffic."""


class _Read(NamedTuple):
    """What a version's folder holds, and what is asked of its tokenizer with every text."""

    artifact: Artifact
    tokenizer_digest: str
    unknown_id: int | None


class Verifier:
    """Reads and tries versions beside the traffic."""

    def __init__(self, engine: Engine, batcher: Batcher) -> None:
        self._engine, self._batcher = engine, batcher

    async def verified(self, folder: Path, digest: str, before: Model | None) -> Model:
        """The version in the first precision of the engine in which its golden cases hold.

        `before`: what it takes the place of. Raises ArtifactError.
        """
        try:
            artifact, tokenizer_digest, unknown_id = await _aside(_read, folder)
        except (RuntimeError, MemoryError) as error:
            raise ArtifactError(folder, f"cannot be read: {error or 'not enough memory'}") from error
        precisions = tuple(self._engine.precisions)
        wrong = ""
        for precision in precisions:
            try:
                weights = await _aside(self._engine.load, artifact, precision, before and before.weights)
                model = Model(
                    folder.parent.name,
                    int(folder.name),
                    artifact.config,
                    weights,
                    precision,
                    artifact.tokenizer,
                    tokenizer_digest,
                    unknown_id,
                    tuple(artifact.golden),
                    digest,
                    folder,
                )
                del weights
                wrong = await self.wrong(model)
            except (RuntimeError, MemoryError) as error:  # for want of memory above all
                raise ArtifactError(folder, f"cannot be loaded on {self._engine.device}: {error}") from error
            if not wrong:
                return model
            extra = {"model": model.name, "version": model.version, "precision": precision, "reason": wrong}
            del model  # before the next: its weights take memory that it may need
            if precision != precisions[-1]:
                log.warning("not served in this precision", extra=extra)
        hint = "; set LSTMSERVE_PRECISION to auto or float32" if precisions[-1] == "bfloat16" else ""
        raise ArtifactError(folder, wrong + hint)

    async def compute(self, model: Model, token_ids: list[list[int]]) -> list[list[float]]:
        """Logits ``[sequences][num_logits]``: among those who ask, a few at a time, even where the queue is full.

        Raises ServiceError, or RuntimeError where the engine does not answer.
        """
        logits: list[list[float]] = []
        while len(logits) < len(token_ids):
            few, tokens = [token_ids[len(logits)]], len(token_ids[len(logits)])
            for sequence in token_ids[len(logits) + 1 : len(logits) + FEW]:
                tokens += len(sequence)
                if tokens > FEW_TOKENS:
                    break
                few.append(sequence)
            try:
                answer = await self._batcher.run(model.weights, few, seconds=SECONDS, bounded=False)
            except DeadlineExceeded as error:
                raise RuntimeError(f"no answer from the engine in {SECONDS:.0f} s") from error
            logits += answer.logits
        return logits

    async def wrong(self, model: Model) -> str:
        """Runs the golden cases, which also warms what the first request would have had to.

        What is wrong with one of them; empty where they hold. Raises NotReady, EngineLost, and as `compute` does.
        """
        try:
            results = await self.compute(model, [case.token_ids for case in model.golden])
        except (NotReady, EngineLost):
            raise
        except ServiceError as error:
            return f"a golden case cannot be computed: {error.__cause__ or error}"
        for case, result in zip(model.golden, results, strict=True):
            if wrong := _compare(case, result, model.config, model.precision):
                return f"a golden case of {len(case.token_ids)} tokens {wrong}"
        return ""


async def _aside(work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Off the event loop, in a thread that the process does not wait for when it ends.

    Raises RuntimeError where it takes too long: what it does then goes on, and is lost.
    """
    result: Future[R] = Future()

    def run() -> None:
        try:
            result.set_result(work(*args, **kwargs))
        except BaseException as error:
            result.set_exception(error)

    result.set_running_or_notify_cancel()  # who does not wait any more does not end it
    threading.Thread(target=run, name="loader", daemon=True).start()
    try:
        async with asyncio.timeout(SECONDS):
            return await asyncio.wrap_future(result)
    except TimeoutError as error:
        raise RuntimeError(f"not done in {SECONDS:.0f} s") from error


def _read(folder: Path) -> _Read:
    """Raises ArtifactError."""
    artifact = read_artifact(folder)
    if artifact.tokenizer is None:
        return _Read(artifact, "", None)
    digest = hashlib.sha256(artifact.tokenizer.to_json().encode()).hexdigest()
    return _Read(artifact, digest, artifact.tokenizer.unknown_id)


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
