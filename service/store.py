"""The models on disk: a folder of NAME/VERSION/. Its calls block, and each looks again."""

from pathlib import Path

from models.artifact import NAME, ArtifactError, complete_versions, version_digest

Stamp = tuple[tuple[str, int, int], ...]


class Store:
    """What is there now."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def names(self) -> list[str]:
        """Of the models that have a complete version. Raises ArtifactError where there is no such folder."""
        return [name for name in self._folders() if self.versions(name)]

    def left_out(self) -> list[Path]:
        """Folders without a complete version that can be read, or with an odd name."""
        return [self.folder / name for name in self._folders() if not self.versions(name)]

    def versions(self, name: str) -> list[int]:
        """The complete versions of a model that can be read, the highest first; none where the name is no model's."""
        folder = self.folder / name
        return complete_versions(folder) if NAME.fullmatch(name) else []

    def path(self, name: str, version: int) -> Path:
        return self.folder / name / str(version)

    def digest(self, name: str, version: int) -> str:
        """As `models.artifact.version_digest` gives it."""
        return version_digest(self.path(name, version))

    def stamp(self, name: str, version: int) -> Stamp:
        """Names, sizes and times of change of the version's files: the same, and there is nothing new to look at."""
        files = [(path.name, path.stat()) for path in self.path(name, version).iterdir()]
        return tuple(sorted((name, stat.st_size, stat.st_mtime_ns) for name, stat in files))

    def _folders(self) -> list[str]:
        try:
            return sorted(path.name for path in self.folder.iterdir() if path.is_dir() and path.name[0] != ".")
        except OSError as error:
            reason = "no such folder of models (LSTMSERVE_STORE), or it cannot be read"
            raise ArtifactError(self.folder, reason) from error
