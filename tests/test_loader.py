"""Which versions serve, that none does which the engine cannot reproduce, and what a load changes."""

import contextlib
import json
import math
import os
import shutil
from collections.abc import Hashable, Iterator
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

from models.artifact import Artifact, ArtifactError, GoldenCase, read_artifact, write_artifact
from service.engine import Engine
from service.engine.packed import PackedEngine
from service.errors import UnknownModel
from service.sequence import Sequence
from tests.fake_engine import Fake
from tests.loading import opened
from tests.tiny import tiny_artifact, write_tiny


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    engine = PackedEngine("cpu", threads=1, lanes=2, budget=1000)  # room for fewer sequences than golden cases
    yield engine
    assert engine.close()


class Off(Fake):
    """Its logits are those of the golden cases and so much more, by precision."""

    precisions = MappingProxyType({"bfloat16": "fake", "float32": "fake"})

    def __init__(self, golden: list[GoldenCase], **off: float) -> None:
        super().__init__(lanes=3)
        self.golden = {tuple(case.token_ids): case.logits for case in golden}
        self.off = off

    def result(self, sequence: Sequence) -> list[float] | Exception:
        assert isinstance(sequence.weights, str)
        return [logit + self.off[sequence.weights] for logit in self.golden[tuple(sequence.token_ids)]]


def test_the_highest_complete_version_of_each_model_serves(
    tmp_path: Path, engine: Engine, caplog: pytest.LogCaptureFixture
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
    repository = opened(tmp_path, engine)
    left_out = [getattr(record, "folder", None) for record in caplog.records]
    assert left_out == [str(tmp_path / "odd name"), str(tmp_path / "reviews")]
    assert [(model.name, model.version) for model in repository] == [("imdb", 10), ("trec", 3)]
    assert repository.get().name == "imdb"
    assert repository.get().precision == "float32"
    assert repository.get("trec").config.labels == ("a", "b", "c")
    with pytest.raises(UnknownModel, match=r"no model 'nope'; there are: imdb, trec"):
        repository.get("nope")


@pytest.mark.parametrize("fields", [{"cell": "gru"}, {"cell": "rnn_relu", "num_layers": 2}, {"proj_size": 3}])
def test_every_kind_of_model_reproduces_its_golden_cases(
    tmp_path: Path, engine: Engine, fields: dict[str, Any]
) -> None:
    write_tiny(tmp_path / "imdb" / "1", **fields)
    assert opened(tmp_path, engine).get().version == 1


def test_a_version_that_the_engine_cannot_reproduce_is_refused(tmp_path: Path, engine: Engine) -> None:
    artifact = tiny_artifact()
    case = artifact.golden[3]
    for off, holds in ((0.5e-4, True), (2e-4, False)):
        changed = case.model_copy(update={"logits": (np.array(case.logits) + off).tolist()})
        folder = tmp_path / str(off) / "imdb" / "1"
        write_artifact(folder, artifact._replace(golden=[*artifact.golden[:3], changed]))
        if holds:
            opened(folder.parent.parent, engine)
        else:
            with pytest.raises(ArtifactError, match=r"a golden case of \d+ tokens is off by 2\.0e-04"):
                opened(folder.parent.parent, engine)


def test_a_version_whose_golden_cases_cannot_be_computed_is_refused(tmp_path: Path, engine: Engine) -> None:
    """Finite weights whose logits overflow."""
    artifact = tiny_artifact(cell="rnn_relu", with_tokenizer=False)
    weights = {name: array * np.float32(1e30) for name, array in artifact.weights.items()}
    write_artifact(tmp_path / "imdb" / "1", artifact._replace(weights=weights))
    with pytest.raises(ArtifactError, match="a golden case cannot be computed: the model's logits are not finite"):
        opened(tmp_path, engine)


def test_a_model_that_does_not_fit_the_device_is_named(tmp_path: Path, fake: Fake) -> None:
    class Full(Fake):
        def load(self, artifact: Artifact, precision: str, replaces: Hashable | None = None) -> Hashable:
            raise RuntimeError("out of memory")

    write_tiny(tmp_path / "imdb" / "1")
    with (
        contextlib.closing(Full()) as full,
        pytest.raises(ArtifactError, match=r"imdb/1: cannot be loaded on cpu: out of memory"),
    ):
        opened(tmp_path, full)


def test_an_engine_that_does_not_answer_is_not_waited_for(
    tmp_path: Path, fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.verification.SECONDS", 0.05)
    write_tiny(tmp_path / "imdb" / "1")
    fake.gate.clear()
    with pytest.raises(ArtifactError, match=r"imdb/1: cannot be loaded on cpu: no answer from the engine"):
        opened(tmp_path, fake)


def test_a_golden_case_that_cannot_start_is_told(tmp_path: Path, fake: Fake) -> None:
    write_tiny(tmp_path / "imdb" / "1")
    fake.start_fails = MemoryError("no room")
    with pytest.raises(ArtifactError, match="a golden case cannot be computed: no room"):
        opened(tmp_path, fake)
    assert len(fake.cancelled) == len(fake.started) > 0


CONFIGS: dict[str, dict[str, Any]] = {
    "softmax": {},
    "sigmoid": {"output": "sigmoid", "labels": ("a", "b", "c")},
    "binary": {"output": "binary"},
}


@pytest.mark.parametrize("output", CONFIGS)
@pytest.mark.parametrize(
    ("bfloat16", "float32", "served"),
    [
        (0.0, 0.0, "bfloat16"),
        (0.09, 9.0, "bfloat16"),
        (-0.09, 9.0, "bfloat16"),
        (0.11, 0.9e-4, "float32"),
        (math.nan, 0.9e-4, "float32"),
        (0.11, 1.2e-3, None),
        (0.11, math.nan, None),
    ],
)
def test_the_first_precision_that_reproduces_the_golden_cases_serves(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, output: str, bfloat16: float, float32: float, served: str | None
) -> None:
    artifact = tiny_artifact(**CONFIGS[output])
    count = artifact.config.num_logits
    golden = [
        case.model_copy(update={"logits": [(-1) ** (row + number) * (number + 1.0) for number in range(count)]})
        for row, case in enumerate(artifact.golden)
    ]
    write_artifact(tmp_path / "imdb" / "1", artifact._replace(golden=golden))
    with contextlib.closing(Off(golden, bfloat16=bfloat16, float32=float32)) as off:
        if served is None:
            with pytest.raises(ArtifactError, match=r"a golden case of \d+ tokens is off by .*; at most 1e-04 is"):
                opened(tmp_path, off)
        else:
            model = opened(tmp_path, off).get()
            assert (model.precision, model.weights) == (served, served)
    told = [
        (r.levelname, vars(r)["model"], vars(r)["version"], vars(r)["precision"])
        for r in caplog.records
        if r.levelname == "WARNING"
    ]
    assert told == ([] if served == "bfloat16" else [("WARNING", "imdb", 1, "bfloat16")])


@pytest.mark.parametrize(
    ("output", "logits", "served"),
    [
        ("softmax", [1.0, 1.05], "float32"),  # the first is drawn above the second
        ("softmax", [1.05, 1.0], "bfloat16"),
        ("sigmoid", [1.0, -0.05, -1.0], "float32"),
        ("sigmoid", [1.0, 0.05, -1.0], "bfloat16"),
        ("binary", [-0.05], "float32"),
        ("binary", [0.05], "bfloat16"),
    ],
)
def test_bfloat16_must_give_the_same_labels(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, output: str, logits: list[float], served: str
) -> None:
    class Tilted(Off):
        def result(self, sequence: Sequence) -> list[float] | Exception:
            result = list(self.golden[tuple(sequence.token_ids)])
            if sequence.weights == "bfloat16":
                result[len(result) // 2 if output == "sigmoid" else 0] += 0.09
            return result

    artifact = tiny_artifact(**CONFIGS[output])
    golden = [case.model_copy(update={"logits": logits}) for case in artifact.golden]
    write_artifact(tmp_path / "imdb" / "1", artifact._replace(golden=golden))
    with contextlib.closing(Tilted(golden)) as tilted:
        assert opened(tmp_path, tilted).get().precision == served
    reasons = [vars(record)["reason"] for record in caplog.records]
    assert len(reasons) == (served == "float32")
    assert all(reason.endswith("tokens has another label on this engine") for reason in reasons)


def test_a_broken_model_beside_the_default_is_left_out(
    tmp_path: Path, engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    write_tiny(tmp_path / "imdb" / "1")
    write_tiny(tmp_path / "other" / "1")
    config = tmp_path / "other" / "1" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "format_version": 9}))
    assert [model.name for model in opened(tmp_path, engine)] == ["imdb"]
    (failure,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert "other/1/config.json" in vars(failure)["reason"]


@pytest.mark.skipif(os.geteuid() != 0 or not hasattr(os, "seteuid"), reason="needs root, to be nobody for a while")
def test_what_cannot_be_read_is_not_complete(tmp_path: Path, engine: Engine) -> None:
    for version in (1, 2):
        write_tiny(tmp_path / "imdb" / str(version))
    write_tiny(tmp_path / "other" / "1")
    for folder in (*tmp_path.parents, tmp_path):
        if folder.stat().st_uid == 0 and folder.name.startswith(("pytest", "test")):
            folder.chmod(0o755)
    (tmp_path / "imdb" / "2").chmod(0o700)
    (tmp_path / "other").chmod(0o700)
    os.seteuid(65534)
    try:
        assert [(model.name, model.version) for model in opened(tmp_path, engine)] == [("imdb", 1)]
    finally:
        os.seteuid(0)


def test_a_version_too_large_to_read_is_refused(
    tmp_path: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(folder: Path) -> Artifact:
        if folder.name == "2":
            raise MemoryError
        return read_artifact(folder)

    for version in (1, 2):
        write_tiny(tmp_path / "imdb" / str(version), seed=version)
    monkeypatch.setattr("service.verification.read_artifact", full)
    assert opened(tmp_path, engine).get().version == 1
