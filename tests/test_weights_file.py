"""Files of weights that cannot be brought in: refused by name, and nothing in them is executed."""

import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from models.artifact import read_artifact
from models.convert import main
from tests.foreign import command, foreign_state, save
from tests.test_convert_errors import refusal
from tests.tiny import tiny_config


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
    assert reason.startswith(f"{tmp_path / 'weights.pt'}: is no file of torch.save or safetensors, or a damaged one")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_safetensors_give_what_torch_save_gives(tmp_path: Path, dtype: torch.dtype) -> None:
    state = {name: tensor.to(dtype) for name, tensor in foreign_state().items()}
    (tmp_path / "weights.bin").write_bytes(safetensors.torch.save(state, {"format": "pt"}))
    save(tmp_path, state)
    for number, name in enumerate(("weights.pt", "weights.bin")):
        assert main(command(tmp_path / name, tmp_path / str(number), tiny_config())) == 0
    first, second = (read_artifact(tmp_path / number) for number in "01")
    assert first.config == second.config
    assert first.golden == second.golden
    for name, weight in first.weights.items():
        np.testing.assert_array_equal(second.weights[name], weight)
    assert "`weights.pt`, a torch.save file (" in (tmp_path / "0" / "README.md").read_text()
    assert "`weights.bin`, a safetensors file (" in (tmp_path / "1" / "README.md").read_text()


@pytest.mark.parametrize("change", [lambda content: content[:-1], lambda content: content.replace(b"F32", b"F99")])
def test_damaged_safetensors_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: Callable[[bytes], bytes]
) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(change(safetensors.torch.save(foreign_state())))
    reason = refusal(capsys, command(path, tmp_path / "1", tiny_config()), tmp_path)
    assert reason == f"{path}: is a damaged safetensors file: fetch or save it again"


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_damaged_file_never_ends_in_a_traceback(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    path = save(folder, foreign_state())
    content = bytearray(data.draw(st.sampled_from([path.read_bytes(), safetensors.torch.save(foreign_state())])))
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
