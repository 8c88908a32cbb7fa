"""Which versions are served, and that none is which the engine cannot reproduce."""

import json
import shutil
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.artifact import Artifact, ArtifactError, write_artifact
from service.engine import Backend, choose
from service.errors import UnknownModel
from service.repository import open_repository
from tests.tiny import tiny_artifact, write_tiny


@pytest.fixture(scope="module")
def backend() -> Backend:
    return choose("cpu", 1)


def test_the_highest_complete_version_of_each_model_serves(
    tmp_path: Path, backend: Backend, caplog: pytest.LogCaptureFixture
) -> None:
    for version in (1, 2, 10):
        write_tiny(tmp_path / "imdb" / str(version), seed=version)
    write_tiny(tmp_path / "trec" / "3", labels=("a", "b", "c"))
    shutil.copytree(tmp_path / "imdb" / "10", tmp_path / "imdb" / "11")
    (tmp_path / "imdb" / "11" / "SHA256SUMS").unlink()
    (tmp_path / "imdb" / "12.training").mkdir()
    (tmp_path / "imdb" / "notes.txt").write_text("not a version")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "reviews" / "1.training").mkdir(parents=True)
    write_tiny(tmp_path / "odd name" / "1")
    repository = open_repository(tmp_path, "imdb", backend)
    left_out = [getattr(record, "folder", None) for record in caplog.records]
    assert left_out == [str(tmp_path / "odd name"), str(tmp_path / "reviews")]
    assert [(model.name, model.version) for model in repository] == [("imdb", 10), ("trec", 3)]
    assert repository.get().name == "imdb"
    assert repository.get("trec").config.labels == ("a", "b", "c")
    with pytest.raises(UnknownModel, match=r"no model 'nope'; there are: imdb, trec"):
        repository.get("nope")


@pytest.mark.parametrize("fields", [{"cell": "gru"}, {"cell": "rnn_relu", "num_layers": 2}, {"proj_size": 3}])
def test_every_kind_of_model_reproduces_its_golden_cases(
    tmp_path: Path, backend: Backend, fields: dict[str, Any]
) -> None:
    write_tiny(tmp_path / "imdb" / "1", **fields)
    assert open_repository(tmp_path, "imdb", backend).get().version == 1


def test_a_version_that_the_engine_cannot_reproduce_is_refused(tmp_path: Path, backend: Backend) -> None:
    artifact = tiny_artifact()
    case = artifact.golden[3]
    for off, holds in ((0.5e-4, True), (2e-4, False)):
        changed = case.model_copy(update={"logits": (np.array(case.logits) + off).tolist()})
        folder = tmp_path / str(off) / "imdb" / "1"
        write_artifact(folder, artifact._replace(golden=[*artifact.golden[:3], changed]))
        if holds:
            open_repository(folder.parent.parent, "imdb", backend)
        else:
            with pytest.raises(ArtifactError, match=r"a golden case of \d+ tokens is off by 2\.0e-04"):
                open_repository(folder.parent.parent, "imdb", backend)


def test_a_version_whose_golden_cases_cannot_be_computed_is_refused(tmp_path: Path, backend: Backend) -> None:
    """Finite weights whose logits overflow."""
    artifact = tiny_artifact(cell="rnn_relu", with_tokenizer=False)
    weights = {name: array * np.float32(1e30) for name, array in artifact.weights.items()}
    write_artifact(tmp_path / "imdb" / "1", artifact._replace(weights=weights))
    with pytest.raises(ArtifactError, match="a golden case cannot be computed: the model's logits are not finite"):
        open_repository(tmp_path, "imdb", backend)


def test_a_model_that_does_not_fit_the_device_is_named(tmp_path: Path, backend: Backend) -> None:
    def load(artifact: Artifact) -> Hashable:
        raise RuntimeError("out of memory")

    write_tiny(tmp_path / "imdb" / "1")
    with pytest.raises(ArtifactError, match=r"imdb/1: cannot be loaded on cpu: out of memory"):
        open_repository(tmp_path, "imdb", backend._replace(load=load))


def test_a_broken_model_beside_the_default_is_refused_too(tmp_path: Path, backend: Backend) -> None:
    write_tiny(tmp_path / "imdb" / "1")
    write_tiny(tmp_path / "other" / "1")
    config = tmp_path / "other" / "1" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "format_version": 9}))
    with pytest.raises(ArtifactError, match=r"other/1/config\.json"):
        open_repository(tmp_path, "imdb", backend)
