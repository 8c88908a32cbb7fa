import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer as HFTokenizer
from tokenizers import processors

from models.convert import main
from tests.foreign import command, foreign_state, save, tokenizer_file
from tests.tiny import tiny_config


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A state_dict of the tiny configuration."""
    return save(tmp_path, foreign_state())


def refusal(capsys: pytest.CaptureFixture[str], arguments: list[str], folder: Path) -> str:
    """The one line on standard error of a refused command, which leaves nothing behind in `folder`."""
    before = sorted(folder.rglob("*"))
    try:
        code: object = main(arguments)
    except SystemExit as exit_:
        code = exit_.code
    assert code == 2
    output = capsys.readouterr()
    assert output.out == ""
    (line,) = output.err.splitlines()
    assert line.startswith("python -m models.convert: error: ")
    assert sorted(folder.rglob("*")) == before
    return line.removeprefix("python -m models.convert: error: ")


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--pooling", "sum"], "argument --pooling: 'sum' is not one of last, last_output, max, mean"),
        (["--pooling", "max,max"], "argument --pooling: 'max,max' is not a list of distinct names"),
        (["--labels", "a,,b"], "argument --labels: 'a,,b' is not a list of distinct names"),
        (["--labels", "a,b,c"], "fc.weight gives 2 logits, but --labels names 3"),
        (["--pooling", "max,mean"], "fc.weight reads 16 features, but --pooling max,mean gives 32"),
        (["--pad-id", "-1"], "argument --pad-id: -1 is not at least 0"),
        (["--pad-id", "40"], "pad_id 40 must be below vocab_size 40"),
        (["--max-length", "0"], "argument --max-length: 0 is not at least 1"),
        (["--output", "argmax"], "argument --output: invalid choice: 'argmax'"),
        (["--nonlinearity", "tanh"], "--nonlinearity is for a plain RNN only"),
        (["--out", "/"], "argument --out: '/' names no version"),
        (["--tokens", "x"], "unrecognized arguments: --tokens x"),
    ],
)
def test_options_that_do_not_fit(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], reason: str
) -> None:
    assert reason in refusal(capsys, [*command(weights, tmp_path / "1", tiny_config()), *words], tmp_path)


@pytest.mark.parametrize("option", ["--labels", "--pooling", "--out"])
def test_options_that_must_be_given(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    words = command(weights, tmp_path / "1", tiny_config())
    del words[words.index(option) : words.index(option) + 2]
    assert f"the following arguments are required: {option}" in refusal(capsys, words, tmp_path)


def test_a_missing_file_and_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = command(tmp_path / "none.pt", tmp_path / "1", tiny_config())
    assert refusal(capsys, words, tmp_path) == f"{tmp_path / 'none.pt'}: cannot be read: No such file or directory"
    assert "Is a directory" in refusal(capsys, command(tmp_path, tmp_path / "1", tiny_config()), tmp_path)


def test_a_version_that_exists_is_left_alone(weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "1").mkdir()
    reason = refusal(capsys, command(weights, tmp_path / "1", tiny_config()), tmp_path)
    assert reason == f"{tmp_path / '1'}: exists already; versions never change: write the next number"


def test_a_folder_that_cannot_be_written(weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "store").write_text("a file")
    reason = refusal(capsys, command(weights, tmp_path / "store" / "1", tiny_config()), tmp_path)
    assert str(tmp_path / "store") in reason


def add_pad(pipeline: HFTokenizer) -> None:
    pipeline.add_special_tokens(["<pad>"])


def frame(pipeline: HFTokenizer) -> None:
    pipeline.post_processor = processors.TemplateProcessing(single="[UNK] $A [UNK]", special_tokens=[("[UNK]", 1)])


@pytest.mark.parametrize(
    ("change", "vocab", "reason"),
    [
        (lambda _: None, {"film": 40}, "gives token ids up to 40, but the embedding has 40 rows"),
        (lambda _: None, {"pad": 3}, "its pad token has id 3, but --pad-id is 0: they must agree"),
        (add_pad, {"film": 8}, "its pad token has id 3, but --pad-id is 0: they must agree"),
        (lambda pipeline: pipeline.enable_padding(pad_id=5), {"pad": 0}, "its pad token has id 5, but --pad-id is 0"),
        (lambda _: None, {"unk": -1}, "has no id for its unknown token [UNK]"),
        (frame, {}, "adds 2 special tokens to a text, which serving does not"),
    ],
)
def test_a_tokenizer_that_does_not_fit(
    weights: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: Any,
    vocab: dict[str, int],
    reason: str,
) -> None:
    path = tokenizer_file(tmp_path, change, **vocab)
    words = [*command(weights, tmp_path / "1", tiny_config()), "--tokenizer", str(path)]
    assert refusal(capsys, words, tmp_path).startswith(f"{path}: {reason}")


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff\xfe", json.dumps({"version": "1.0"}).encode()])
def test_what_is_no_tokenizer_is_refused(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes
) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    words = [*command(weights, tmp_path / "1", tiny_config()), "--tokenizer", str(path)]
    assert refusal(capsys, words, tmp_path).startswith(f"{path}: ")


def test_a_missing_tokenizer(weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*command(weights, tmp_path / "1", tiny_config()), "--tokenizer", str(tmp_path / "none.json")]
    assert refusal(capsys, words, tmp_path) == f"{tmp_path / 'none.json'}: cannot be read: No such file or directory"
