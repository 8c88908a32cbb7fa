"""Everything a user can do wrong in training: one line, exit code 2, nothing left behind."""

from argparse import ArgumentTypeError
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from models import train
from models.artifact import read_artifact
from models.checkpoint import CHECKPOINT, working_folder
from models.device import DeviceError, choose_device, choose_precision
from models.extras import needs
from models.options import training_settings
from models.settings import TrainingSettings
from models.tuning import Tuning
from models.values import version_folder, written
from tests.reviews import reviews, write
from tests.test_train import command, interrupt_after

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write(tmp_path / "reviews.csv", reviews(80))


def refusal(arguments: list[str], capsys: Captured) -> str:
    """The one line with which a command is refused with exit code 2, if need be after it began to read."""
    try:
        code: object = train.main(arguments)
    except SystemExit as exit_:
        code = exit_.code
    *reading, message = capsys.readouterr().err.splitlines()
    assert code == 2
    assert message.startswith("python -m models.train: error: ")
    assert reading in ([], ["reading data.csv …"], ["reading reviews.csv …"])
    return message


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ("--text-column body", "has no column 'body'"),
        ("--labels a,b", "unknown label 'negative'"),
        ("--labels negative,positive,unsure", "no row of class 'unsure'"),
        ("--label-map positive=negative", "one class only, 'negative'"),
        ("--label-map pos=good", "--label-map makes no row 'good': the labels are negative, positive"),
        ("--validation 500", "--validation"),
        ("--cell gru --proj-size 4", "error: proj_size is for lstm only, not gru"),
        ("--num-layers 5", "--num-layers: "),
        ("--pooling min", "--pooling: "),
        ("--learning-rate 1e30 --clip 1e30 --epochs 99", "is not finite: lower --learning-rate"),
        ("--validation 2.5", "neither a number of rows nor a fraction"),
        ("--validation nan", "neither a number of rows nor a fraction"),
        ("--dropout 1", "1 is not at least 0 and below 1"),
        ("--hidden-size 0", "0 is not at least 1"),
        ("--hidden-size x", "invalid integer value: 'x'"),
        ("--clip 0", "0 is not above 0"),
        ("--pooling max,max", "distinct names"),
        ("--label-map a", "OLD=NEW"),
        ("--label-map a=b,a=c", "OLD=NEW"),
        ("--epoch 3", "unrecognized arguments"),
        ("--resume", "no checkpoint to resume"),
    ],
)
def test_wrong_options(tmp_path: Path, data: Path, capsys: Captured, options: str, reason: str) -> None:
    assert reason in refusal(command(data, tmp_path / "toy" / "1", options), capsys)
    assert [path.name for path in tmp_path.iterdir()] == [data.name]


def test_logits_that_are_not_finite(
    tmp_path: Path,
    data: Path,
    capsys: Captured,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        "models.tuning.predict_sequences", lambda network, rows, on_batch: np.full((len(rows), 2), np.nan)
    )
    assert "the logits of epoch 1 are not finite" in refusal(command(data, tmp_path / "toy" / "1"), capsys)


def test_wrong_data(tmp_path: Path, capsys: Captured) -> None:
    path = tmp_path / "data.csv"
    assert f"{path}: cannot be read" in refusal(command(path, tmp_path / "1"), capsys)
    path.write_text(
        "text,label\n" + "".join(f"fine {number},x\nbad {number},y\n" for number in range(9)) + "<br />,y\n"
    )
    assert f"{path}, row 20: the text has no tokens" in refusal(command(path, tmp_path / "1"), capsys)
    below_a_file = command(write(path, reviews(40)), path / "1")
    assert f"{path} is not a folder" in refusal(below_a_file, capsys)
    assert list(tmp_path.iterdir()) == [path]


def test_a_version_that_exists_is_left_alone(tmp_path: Path, data: Path, capsys: Captured) -> None:
    (tmp_path / "1").mkdir()
    assert f"{tmp_path / '1'}: exists already" in refusal(command(data, tmp_path / "1"), capsys)


@pytest.mark.parametrize(
    "out", ["reviews", "rev/v1", "odd name/1", "-x/1", ".x/1", "rev/0", "rev/01", "rev/12345678901", "é/1", "rev/²"]
)
def test_a_folder_from_which_it_is_not_served_is_told(tmp_path: Path, out: str) -> None:
    assert written(tmp_path / "film-reviews_2.0" / "12") == f"wrote {tmp_path}/film-reviews_2.0/12"
    assert written(tmp_path / "s" / out).startswith(f"wrote {tmp_path}/s/{out}, from where it is not served: ")


def test_a_relative_folder_is_named_by_where_it_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert version_folder("12") == tmp_path / "12"
    with pytest.raises(ArgumentTypeError, match="'/' names no version"):
        version_folder("/")


def test_an_unfinished_run_is_neither_overwritten_nor_resumed_otherwise(
    tmp_path: Path,
    data: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Captured,
) -> None:
    out = tmp_path / "1"
    folder = working_folder(out)
    with monkeypatch.context() as patch:
        interrupt_after(patch, 2)
        assert train.main(command(data, out)) == 130
    capsys.readouterr()
    assert {path.name for path in folder.iterdir()} == {CHECKPOINT}

    message = refusal(command(data, out), capsys)
    assert "--resume" in message
    assert f"{folder}: " in message
    assert "delete" in message
    message = refusal(command(data, out, "--resume --word-dropout 0.3"), capsys)
    assert "made with --word-dropout 0.1, not 0.3" in message
    data.write_text(data.read_text() + "fine,positive\n")
    assert "made with --data" in refusal(command(data, out, "--resume"), capsys)
    write(data, reviews(80))
    whole = (folder / CHECKPOINT).read_bytes()
    for damaged in (whole[:-1000], b"", b"\x80\x02c__builtin__\neval\nq\x00."):
        (folder / CHECKPOINT).write_bytes(damaged)
        assert "checkpoint is damaged" in refusal(command(data, out, "--resume"), capsys)
    (folder / CHECKPOINT).write_bytes(whole)
    assert train.main(command(data, out, "--resume --checkpoint-seconds 5")) == 0


def test_weights_beyond_float16_are_written_as_float32_by_the_same_run(
    tmp_path: Path,
    data: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Captured,
) -> None:
    out = tmp_path / "1"
    end_epoch = Tuning.end_epoch

    def large(self: Tuning, **arguments: Any) -> dict[str, float]:
        torch.nn.init.constant_(self.network.linear.bias, 7e4)
        return end_epoch(self, **arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Tuning, "end_epoch", large)
        assert train.main(command(data, out, "--weights float16")) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert f"error: {out}: linear.bias goes up to 7e+04, more than float16 holds" in line
    assert line.endswith("--resume --weights float32")
    assert not out.exists()
    with monkeypatch.context() as patch:
        patch.setattr(Tuning, "step", None)  # no step is left to be done
        assert train.main(command(data, out, "--weights float32 --resume")) == 0
    assert read_artifact(out).weights["linear.bias"].tolist() == [7e4, 7e4]
    assert not working_folder(out).exists()


@pytest.mark.parametrize("weights", ["float16", "float32"])
def test_a_version_that_cannot_be_written_leaves_the_run_to_be_resumed(
    tmp_path: Path,
    data: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Captured,
    weights: str,
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("models.version.write_artifact", full)
        assert train.main(command(data, tmp_path / "1", f"--weights {weights}")) == 2
    assert "No space left" in capsys.readouterr().err.splitlines()[-1]
    assert train.main(command(data, tmp_path / "1", f"--weights {weights} --resume")) == 0


def settings_of(options: str) -> TrainingSettings:
    return training_settings(["--data", "x.csv", "--out", "name/1", *options.split()])


def test_device_and_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == choose_device("cpu") == torch.device("cpu")
    with pytest.raises(DeviceError, match="--device cuda: torch sees no GPU"):
        choose_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(DeviceError, match="--nproc-per-node 2: there are 1 GPUs, and each process takes one"):
        choose_device("auto", 2)
    assert choose_device("cpu", 2) == torch.device("cpu")
    assert choose_device("auto") == choose_device("cuda") == torch.device("cuda")
    assert choose_device("cpu") == torch.device("cpu")

    for native, name in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda native=native: native)
        monkeypatch.setattr(
            torch,
            "cpu",
            SimpleNamespace(_is_avx512_bf16_supported=lambda: False, _is_amx_tile_supported=lambda n=native: n),
        )
        cpu, cuda = torch.device("cpu"), torch.device("cuda")
        for options in ("", "--cell gru --num-layers 2"):
            assert choose_precision(settings_of(options), cpu) == choose_precision(settings_of(options), cuda) == name
        for options in ("--num-layers 2", "--proj-size 8"):
            assert choose_precision(settings_of(options), cpu) == "float32"
            assert choose_precision(settings_of(options), cuda) == name
        assert choose_precision(settings_of("--precision bfloat16 --num-layers 2"), cpu) == "bfloat16"
    monkeypatch.setattr(torch, "cpu", SimpleNamespace())  # torch without its private names
    assert choose_precision(settings_of(""), cpu) == "float32"


def test_a_missing_extra_is_named_with_its_command(capsys: Captured) -> None:
    with pytest.raises(SystemExit) as caught, needs("train"):
        import no_such_module  # type: ignore[import-not-found]  # noqa: F401
    assert caught.value.code == 2
    assert capsys.readouterr().err == "no_such_module is not installed: pip install 'lstm-serve[train]'\n"


def test_help_shows_every_default(capsys: Captured) -> None:
    with pytest.raises(SystemExit) as caught:
        training_settings(["--help"])
    assert caught.value.code == 0
    assert "(default: 0.002)" in capsys.readouterr().out
