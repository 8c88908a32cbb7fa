"""From the store into the repository: a version is read, verified, warmed and compared before it serves."""

import asyncio
import logging
import math
import time
from collections.abc import Mapping
from typing import NamedTuple

from models.artifact import SUMS, ArtifactError
from service.comparison import Comparison, compare
from service.errors import NotReady, ServiceError, UnknownModel
from service.metrics import Metrics
from service.repository import Model, Repository
from service.store import Stamp, Store
from service.verification import Verifier

log = logging.getLogger(__name__)


TRANSIENT = (OSError, MemoryError, RuntimeError, ServiceError)
"""What a version that fails for it may well survive the next time."""

RETRY_SECONDS = 60.0
"""After which such a version is tried again."""


class Loaded(NamedTuple):
    """What a load did; `replaced` and `comparison` are None where no other version served."""

    model: Model
    replaced: int | None
    comparison: Comparison | None
    seconds: float


class Refused(NamedTuple):
    """Why a version failed, what it was then, and when it is to be tried again although nobody asks."""

    reason: str
    stamp: Stamp
    again: float


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
        self.refused: dict[tuple[str, int], Refused] = {}
        """Versions that failed, by model and number, until that one or a higher one is loaded."""
        self._seen: dict[tuple[str, int], Stamp] = {}
        """Versions that are not served yet: loaded by themselves once they have not changed between two looks."""
        metrics.watch_refused(lambda: len(self.refused))
        self._unloaded: set[str] = set()
        """Models that do not serve because somebody said so: not until somebody asks."""

    async def open(self) -> None:
        """Loads a version of every model: the pinned one, or the highest that holds.

        Raises ArtifactError, naming what is wrong with which file, where none holds of the default or of a pinned
        model; another model is left out.
        """
        names, folder = self.store.names(), self.store.folder
        for left_out in self.store.left_out():
            log.warning("left out: no complete version, or an odd name", extra={"folder": str(left_out)})
        default = self._repository.default
        if default not in names:
            reason = f"has no complete version (a folder 1, 2, ... with {SUMS}), or an odd name"
            there = (folder / default).is_dir()
            raise ArtifactError(folder / default, reason if there else "no such model (LSTMSERVE_MODEL)")
        for name, version in self._pins.items():
            if version not in self.store.versions(name):
                raise ArtifactError(self.store.path(name, version), "no such model or version (LSTMSERVE_PINS)")
        for name in names:
            pinned = self._pins.get(name)
            versions = [pinned] if pinned else self.store.versions(name)
            for version in versions:
                try:
                    await self._load(name, version)
                    break
                except ArtifactError:
                    if version == versions[-1] and (pinned or name == default):
                        raise

    async def load(self, name: str, version: int | None = None) -> Loaded:
        """Makes that version serve and pins it, or the highest there is and pins none.

        Raises UnknownModel, NotReady, or ArtifactError where it cannot serve.
        """
        self._unloaded.discard(name)
        async with self._lock:
            versions = await asyncio.to_thread(self.store.versions, name)
            if not versions:
                names = await asyncio.to_thread(self.store.names)
                raise UnknownModel(f"no model {name!r} in the store, which has {', '.join(names) or 'none'}")
            if version is not None and version not in versions:
                there = ", ".join(map(str, versions))
                raise UnknownModel(f"no version {version} of {name!r} in the store, which has {there}")
            loaded = await self._load(name, version or versions[0])
            if version is None:
                self._pins.pop(name, None)
            else:
                self._pins[name] = version
            return loaded

    def unload(self, name: str) -> None:
        """From the next request on it does not serve, nor what is being loaded of it. Raises UnknownModel."""
        model = self._repository.remove(name)
        self._unloaded.add(name)
        log.warning("unloaded", extra={"model": name, "version": model.version})

    async def refresh(self) -> None:
        """Loads what the store has and does not serve: of each model the pinned version, or a higher one.

        Raises ArtifactError where there is no store.
        """
        async with self._lock:
            for name in await asyncio.to_thread(self.store.names):
                try:
                    version = await asyncio.to_thread(self._wanted, name)
                    if version:
                        await self._load(name, version)
                except (ArtifactError, NotReady) as error:  # told where it failed, or it is not the version's fault
                    log.debug("not refreshed", extra={"model": name, "reason": str(error)})
                except Exception:  # the other models are not to suffer
                    log.exception("a model could not be refreshed", extra={"model": name})

    def pinned(self, name: str) -> bool:
        return name in self._pins

    def _wanted(self, name: str) -> int | None:
        """The version to load by itself, if any. Looks at the disk, and blocks."""
        versions = self.store.versions(name)
        version = self._pins.get(name) or next(iter(versions), None)
        serving = self._repository.get(name) if name in self._repository else None
        if version not in versions or name in self._unloaded:  # gone since, or not wanted
            return None
        if serving and version < serving.version and not self.pinned(name):  # a folder that is gone is no wish
            return None
        try:
            if serving and (serving.version, serving.digest) == (version, self.store.digest(name, version)):
                return None
            stamp = self.store.stamp(name, version)
        except OSError:  # in the middle of a change
            return None
        before, self._seen[name, version] = self._seen.get((name, version)), stamp
        failed = self.refused.get((name, version))
        tried = failed is not None and failed.stamp == stamp and time.monotonic() < failed.again
        return None if tried or stamp != before else version

    async def _load(self, name: str, version: int) -> Loaded:
        began = time.monotonic()
        before = self._repository.get(name) if name in self._repository else None
        folder = self.store.path(name, version)
        stamp: Stamp = ()
        try:
            stamp = await asyncio.to_thread(self.store.stamp, name, version)
            digest = await asyncio.to_thread(self.store.digest, name, version)
            if before and (before.version, before.digest) == (version, digest):
                return Loaded(before, None, None, 0.0)
            model = await self._verifier.verified(folder, digest, before)
            comparison = None
            if before:
                comparison = await compare(before, model, self._repository.served(model), self._verifier.compute)
            if name in self._unloaded:
                raise RuntimeError("it was unloaded meanwhile")
        except NotReady:
            raise
        except (ArtifactError, *TRANSIENT) as error:
            transient = isinstance(error, TRANSIENT) or isinstance(error.__cause__, TRANSIENT)
            again = time.monotonic() + RETRY_SECONDS if transient else math.inf
            self.refused[name, version] = Refused(str(error), stamp, again)
            self._metrics.load_failed(name)
            log.error("not loaded", extra={"model": name, "version": version, "reason": str(error)})
            if isinstance(error, ArtifactError):
                raise
            raise ArtifactError(folder, f"cannot be loaded: {error}") from error
        for passed in [key for key in self.refused if key[0] == name and key[1] <= version]:
            del self.refused[passed]
        self._seen.pop((name, version), None)
        self._repository.put(model)
        seconds = time.monotonic() - began
        self._metrics.loaded(name, seconds)
        log.info("loaded", extra=_told(model, before, comparison, seconds))
        return Loaded(model, before and before.version, comparison, seconds)


def _told(model: Model, before: Model | None, comparison: Comparison | None, seconds: float) -> dict[str, object]:
    """For the log. Counts alone: what was asked is nobody's business."""
    told: dict[str, object] = {
        "model": model.name,
        "version": model.version,
        "precision": model.precision,
        "seconds": round(seconds, 3),
    }
    if before and comparison:
        told["replaced"] = before.version
        told["golden"] = {"texts": comparison.golden, "flips": len(comparison.golden_flips)}
        told["served"] = {"sequences": comparison.served, "flips": comparison.served_flips}
    return told
