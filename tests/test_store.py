"""Which folders are versions, looked at anew each time."""

from pathlib import Path

import pytest

from models.artifact import ArtifactError
from service.store import Store
from tests.tiny import write_tiny


def test_versions_are_complete_and_the_highest_stands_first(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for version in (2, 10, 1):
        write_tiny(tmp_path / "imdb" / str(version), seed=version)
    (tmp_path / "imdb" / "11").mkdir()
    (tmp_path / "imdb" / "007").mkdir()
    assert store.versions("imdb") == [10, 2, 1]
    assert store.names() == ["imdb"]
    (tmp_path / "imdb" / "10" / "SHA256SUMS").unlink()
    assert store.versions("imdb") == [2, 1], "it looks again"


@pytest.mark.parametrize("name", ["..", ".", "../imdb", "imdb/1", "/etc", "", "no such", "none"])
def test_a_name_that_is_no_models_has_no_versions(tmp_path: Path, name: str) -> None:
    write_tiny(tmp_path / "store" / "imdb" / "1")
    write_tiny(tmp_path / "1")
    assert Store(tmp_path / "store").versions(name) == []


def test_a_digest_is_that_of_the_content(tmp_path: Path) -> None:
    store = Store(tmp_path)
    write_tiny(tmp_path / "imdb" / "1", seed=1)
    write_tiny(tmp_path / "imdb" / "2", seed=1)
    write_tiny(tmp_path / "imdb" / "3", seed=3)
    digests = [store.digest("imdb", version) for version in (1, 2, 3)]
    assert digests[0] == digests[1] != digests[2]


def test_a_store_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"gone: no such folder of models \(LSTMSERVE_STORE\)"):
        Store(tmp_path / "gone").names()
