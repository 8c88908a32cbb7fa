import json
import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as HFTokenizer
from tokenizers import processors
from torch import nn

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


class NotPlain:
    """Whose unpickling runs code of the file's choice."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("executed"),)


def test_nothing_in_the_file_is_executed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    weights = save(tmp_path, {"state_dict": foreign_state(), "hook": NotPlain()})
    reason = refusal(capsys, command(weights, tmp_path / "1", tiny_config()), tmp_path)
    assert "weights.pt: holds more than tensors and would run " in reason
    assert "save its weights alone by torch.save(model.state_dict(), 'weights.pt')" in reason


def test_a_whole_module_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = save(tmp_path, nn.Linear(2, 2))
    reason = refusal(capsys, command(weights, tmp_path / "1", tiny_config()), tmp_path)
    assert "would run torch.nn.modules.linear.Linear when loaded, which is refused" in reason


@pytest.mark.filterwarnings("ignore")  # torch is about to drop the format
def test_torchscript_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "weights.pt"
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), str(path))
    reason = refusal(capsys, command(path, tmp_path / "1", tiny_config()), tmp_path)
    assert reason.startswith(f"{path}: is a TorchScript program, which is not run: save the weights by torch.save(")


@pytest.mark.parametrize(
    "content",
    [b"", b"hello there", b"PK\x03\x04", b"\x00" * 64, pickle.dumps({"a": 1}), bytes(range(256)), b"{}", b"\x80\x02}."],
    ids=["empty", "text", "zip", "zeros", "pickle", "bytes", "json", "empty pickle"],
)
def test_what_is_no_torch_file_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes) -> None:
    (tmp_path / "weights.pt").write_bytes(content)
    reason = refusal(capsys, command(tmp_path / "weights.pt", tmp_path / "1", tiny_config()), tmp_path)
    assert reason.startswith(f"{tmp_path / 'weights.pt'}: is not a file of torch.save, or a damaged one")


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_a_damaged_file_never_ends_in_a_traceback(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    path = save(folder, foreign_state())
    content = bytearray(path.read_bytes())
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    else:
        for _ in range(data.draw(st.integers(1, 20))):
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    code = main(command(path, folder / "1", tiny_config()))
    assert code in (0, 2)
    assert (folder / "1").exists() == (code == 0)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ([torch.zeros(2)], "holds a list, not a state_dict"),
        (torch.zeros(2), "holds a Tensor, not a state_dict"),
        ({"net": OrderedDict(a=torch.zeros(2)), "epoch": 1}, "entry 'net' is of type OrderedDict, not a named tensor"),
        ({"a\nb": torch.zeros(2)}, r"entry 'a\nb' is of type Tensor, not a named tensor"),
        ({0: torch.zeros(2)}, "entry 0 is of type Tensor, not a named tensor"),
        ({"state_dict": {"a": 1.5}}, "entry 'a' is of type float, not a named tensor"),
        ({}, "holds no recurrent layer"),
    ],
)
def test_what_is_no_state_dict_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: Any, reason: str
) -> None:
    weights = save(tmp_path, content)
    assert reason in refusal(capsys, command(weights, tmp_path / "1", tiny_config()), tmp_path)


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("fc.bias", lambda tensor: tensor * float("nan"), "fc.bias holds values that are not finite in float32"),
        ("fc.bias", lambda tensor: tensor.double() + 1e300, "fc.bias holds values that are not finite in float32"),
        ("lstm.bias_ih_l0", lambda tensor: tensor.half() / 0, "lstm.bias_ih_l0 holds values that are not finite"),
        ("fc.weight", lambda tensor: tensor.long(), "fc.weight is no plain floating-point tensor (int64, strided)"),
        (
            "fc.weight",
            lambda tensor: tensor.cfloat(),
            "fc.weight is no plain floating-point tensor (complex64, strided)",
        ),
        (
            "fc.weight",
            lambda tensor: tensor.to_sparse(),
            "fc.weight is no plain floating-point tensor (float32, sparse_",
        ),
        ("fc.weight", lambda tensor: tensor.to("meta"), "fc.weight is no plain floating-point tensor (meta)"),
        ("fc.weight", lambda tensor: tensor + 3e38, "gives logits that are not finite"),
        ("attention", lambda _: torch.zeros(3), "attention [3], no part of one embedding"),
    ],
)
def test_tensors_that_cannot_serve_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, change: Callable[[Any], Any], reason: str
) -> None:
    state = foreign_state(pooling=("max",))
    weights = save(tmp_path, state | {name: change(state.get(name))})
    message = refusal(capsys, command(weights, tmp_path / "1", tiny_config(pooling=("max",))), tmp_path)
    assert message.startswith(f"{weights}: ")
    assert reason in message


def test_a_vocabulary_of_the_pad_alone_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = save(tmp_path, foreign_state(vocab_size=1))
    assert "a vocabulary of the pad alone" in refusal(
        capsys, command(weights, tmp_path / "1", tiny_config(vocab_size=1)), tmp_path
    )


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
