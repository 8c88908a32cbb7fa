"""The version that scores: found, read, verified and on the engine."""

import asyncio
from pathlib import Path

from models.artifact import NAME, SUMS, VERSION, ArtifactError, version_digest
from service.batcher import Batcher
from service.engine import Engine
from service.metrics import Metrics
from service.repository import Model
from service.settings import Settings
from service.store import Store
from service.verification import Verifier


def find(settings: Settings, model: str | None, version: int | None) -> Path:
    """The version's folder; `model` is a name in the store, or such a folder. Raises ArtifactError."""
    model = model or settings.model
    if not NAME.fullmatch(model):
        if version is not None:
            raise ArtifactError(Path(model), f"is a version's folder already: leave --version {version} out")
        return Path(model)
    store = Store(settings.store)
    versions = store.versions(model)
    if not versions:
        there = ", ".join(store.names()) or "none"
        raise ArtifactError(store.folder / model, f"no such model; --model takes one of {there}, or a version's folder")
    version = settings.pinned.get(model, versions[0]) if version is None else version
    if version not in versions:
        there = ", ".join(map(str, versions))
        raise ArtifactError(store.path(model, version), f"no such version; --version takes one of {there}")
    return store.path(model, version)


def load(folder: Path, engine: Engine) -> Model:
    """The version, in the first precision of the engine in which its golden cases hold. Raises ArtifactError."""
    if not VERSION.fullmatch(folder.name):
        raise ArtifactError(folder, "is no version's folder, NAME/1, NAME/2, ...: give --model one, or a model's name")
    digest = version_digest(folder) if (folder / SUMS).is_file() else ""

    async def verified() -> Model:
        batcher = Batcher(engine, Metrics(), queue_tokens=1, queue_requests=1)
        batcher.start()
        return await Verifier(engine, batcher).verified(folder, digest, None)

    model = asyncio.run(verified())
    if model.tokenizer is None:
        raise ArtifactError(folder, "has no tokenizer and reads token ids only: texts cannot be scored")
    return model
