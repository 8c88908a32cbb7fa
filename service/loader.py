"""From the store into the repository: a version is read, verified, warmed and compared before it serves."""

import asyncio
import logging
import time
from collections.abc import Mapping
from typing import NamedTuple

from models.artifact import SUMS, ArtifactError
from service.comparison import Comparison, compare
from service.errors import ServiceError, UnknownModel
from service.metrics import Metrics
from service.repository import Model, Repository
from service.store import Store
from service.verification import Verifier

log = logging.getLogger(__name__)


class Loaded(NamedTuple):
    """What a load did; `replaced` is None where no version served, `comparison` where no other one did."""

    model: Model
    replaced: int | None
    comparison: Comparison | None
    seconds: float


class Loader:
    """One load at a time. A version that fails any part of it changes nothing.

    `pins`: the versions that serve of some models, whatever higher ones there are.
    """

    def __init__(
        self,
        store: Store,
        repository: Repository,
        verifier: Verifier,
        metrics: Metrics,
        pins: Mapping[str, int],
    ) -> None:
        self.store, self._repository, self._verifier, self._metrics = store, repository, verifier, metrics
        self._pins = dict(pins)
        self._lock = asyncio.Lock()
        self._refused: dict[tuple[str, int], object] = {}
        """Stamps of versions that failed: they are not tried again until they change or somebody asks."""
        self._unloaded: set[str] = set()
        """Models that do not serve because somebody said so: not until somebody asks."""

    async def open(self) -> None:
        """Loads a version of every model: the pinned one, or the highest that holds.

        Raises ArtifactError, naming what is wrong with which file, where none holds.
        """
        names = self.store.names()
        default = self._repository.default
        if default not in names:
            reason = f"has no complete version (a folder 1, 2, ... with {SUMS}), or an odd name"
            there = (self.store.folder / default).is_dir()
            raise ArtifactError(self.store.folder / default, reason if there else "no such model (LSTMSERVE_MODEL)")
        if unknown := sorted(self._pins.keys() - set(names)):
            raise ArtifactError(self.store.folder / unknown[0], "no such model (LSTMSERVE_PINS)")
        for name in names:
            pinned = self._pins.get(name)
            versions = [pinned] if pinned else self.store.versions(name)
            for version in versions:
                try:
                    await self._load(name, version)
                    break
                except ArtifactError:
                    if version == versions[-1]:
                        raise

    async def load(self, name: str, version: int | None = None) -> Loaded:
        """Makes that version serve and pins it, or the highest there is and pins none.

        Raises UnknownModel, or ArtifactError where it cannot serve.
        """
        async with self._lock:
            versions = self.store.versions(name)
            if not versions:
                raise UnknownModel(f"no model {name!r} in the store, which has {', '.join(self.store.names())}")
            if version is not None and version not in versions:
                there = ", ".join(map(str, versions))
                raise UnknownModel(f"no version {version} of {name!r} in the store, which has {there}")
            loaded = await self._load(name, version or versions[0])
            if version is None:
                self._pins.pop(name, None)
            else:
                self._pins[name] = version
            self._unloaded.discard(name)
            return loaded

    async def unload(self, name: str) -> None:
        """From the next request on it does not serve. Raises UnknownModel."""
        async with self._lock:
            model = self._repository.remove(name)
            self._unloaded.add(name)
            log.warning("unloaded", extra={"model": name, "version": model.version})

    async def refresh(self) -> None:
        """Loads what the store has and does not serve: of each model the pinned version, or the highest."""
        async with self._lock:
            for name in self.store.names():
                versions = self.store.versions(name)
                version = self._pins.get(name) or next(iter(versions), None)
                if version not in versions or name in self._unloaded:  # gone since, or not wanted
                    continue
                serving = self._repository.get(name) if name in self._repository else None
                try:
                    new = serving is None or serving.digest != self.store.digest(name, version)
                    if new and self._refused.get((name, version)) != self.store.stamp(name, version):
                        await self._load(name, version)
                except (ArtifactError, OSError) as error:  # it has been logged where it failed; or has just gone
                    log.debug("not refreshed", extra={"model": name, "reason": str(error)})

    def pinned(self, name: str) -> bool:
        return name in self._pins

    async def _load(self, name: str, version: int) -> Loaded:
        began = time.monotonic()
        before = self._repository.get(name) if name in self._repository else None
        try:
            digest = self.store.digest(name, version)
            if before and (before.version, before.digest) == (version, digest):
                return Loaded(before, version, None, 0.0)
            self._refused[name, version] = self.store.stamp(name, version)  # until it has held
            model = await self._verifier.verified(self.store.path(name, version), digest, before)
            comparison = None
            if before:
                comparison = await compare(before, model, self._repository.served(model), self._verifier.compute)
        except (OSError, ServiceError) as error:
            self._failed(name, version, str(error))
            raise ArtifactError(self.store.path(name, version), f"cannot be loaded: {error}") from error
        except ArtifactError as error:
            self._failed(name, version, str(error))
            raise
        del self._refused[name, version]
        self._repository.put(model)
        seconds = time.monotonic() - began
        self._metrics.loaded(name, seconds)
        extra: dict[str, object] = {
            "model": name,
            "version": version,
            "precision": model.precision,
            "seconds": round(seconds, 3),
        }
        if before and comparison:
            # counts alone: what was asked is nobody's business
            extra["replaced"] = before.version
            extra["golden"] = {"texts": comparison.golden, "flips": len(comparison.golden_flips)}
            extra["served"] = {"sequences": comparison.served, "flips": comparison.served_flips}
        log.info("loaded", extra=extra)
        return Loaded(model, before and before.version, comparison, seconds)

    def _failed(self, name: str, version: int, reason: str) -> None:
        self._metrics.load_failed(name)
        log.error("not loaded", extra={"model": name, "version": version, "reason": reason})
