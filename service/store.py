"""The models on disk: a folder of NAME/VERSION/."""

import hashlib
import logging
from pathlib import Path

from models.artifact import NAME, SUMS, ArtifactError, complete_versions

log = logging.getLogger(__name__)


class Store:
    """What is there now: each call looks again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def names(self) -> list[str]:
        """Of the models that have a complete version. Raises ArtifactError where there is no such folder."""
        if not self.folder.is_dir():
            raise ArtifactError(self.folder, "no such folder of models (LSTMSERVE_STORE)")
        folders = sorted(folder for folder in self.folder.iterdir() if folder.is_dir() and folder.name[0] != ".")
        found = [folder.name for folder in folders if self.versions(folder.name)]
        for folder in folders:
            if folder.name not in found:
                log.warning("left out: no complete version, or an odd name", extra={"folder": str(folder)})
        return found

    def versions(self, name: str) -> list[int]:
        """The complete versions of a model, the highest first; none where the name is no model's."""
        folder = self.folder / name
        return complete_versions(folder) if NAME.fullmatch(name) and folder.is_dir() else []

    def path(self, name: str, version: int) -> Path:
        return self.folder / name / str(version)

    def digest(self, name: str, version: int) -> str:
        """Of the list of the version's digests: another one, and it is not the same version any more."""
        return hashlib.sha256((self.path(name, version) / SUMS).read_bytes()).hexdigest()

    def stamp(self, name: str, version: int) -> tuple[tuple[str, int, int], ...]:
        """Names, sizes and times of change of the version's files: the same, and there is nothing new to look at."""
        files = [(path.name, path.stat()) for path in self.path(name, version).iterdir()]
        return tuple(sorted((name, stat.st_size, stat.st_mtime_ns) for name, stat in files))
