import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as HFTokenizer
from tokenizers.models import BPE
from torch import nn

from models.artifact import read_artifact
from models.config import ModelConfig
from models.convert import main
from models.network import SequenceClassifier
from models.tokenizer import Tokenizer
from tests.foreign import (
    WRAPPERS,
    Flat,
    Foreign,
    Nested,
    Parallel,
    command,
    foreign_state,
    predict,
    save,
    tokenizer_file,
)
from tests.test_network import configs
from tests.tiny import TEXTS, tiny_config

TOLERANCE = 1e-5


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")  # of the original
@settings(max_examples=60, deadline=None)
@given(
    config=configs(),
    kind=st.sampled_from([Flat, Nested, Parallel]),
    linear_bias=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float32, torch.float64, torch.float16, torch.bfloat16]),
    wrapper=st.sampled_from(sorted(WRAPPERS)),
    legacy=st.booleans(),
    seed=st.integers(0, 2**31 - 1),
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=4),
)
def test_logits_are_those_of_the_original(
    tmp_path_factory: pytest.TempPathFactory,
    config: ModelConfig,
    kind: type[Foreign],
    linear_bias: bool,
    dtype: torch.dtype,
    wrapper: str,
    legacy: bool,
    seed: int,
    lengths: list[int],
) -> None:
    torch.manual_seed(seed)
    foreign = kind(config, linear_bias).to(dtype).eval()
    if config.cell == "rnn_relu":  # as it comes it may grow beyond float32 over the 150 tokens of a golden case
        for name, weight in foreign.named_parameters():
            if "weight_hh" in name:
                weight.data.mul_(0.5)
    folder = tmp_path_factory.mktemp("convert")
    weights, out = folder / "weights.pt", folder / "store" / "1"
    torch.save(WRAPPERS[wrapper](foreign.state_dict()), weights, _use_new_zipfile_serialization=not legacy)
    assert main(command(weights, out, config)) == 0
    artifact = read_artifact(out)
    assert artifact.config == config
    draw = np.random.default_rng(seed)
    sequences = [draw.integers(0, config.vocab_size, length).tolist() for length in lengths]
    found = SequenceClassifier.from_weights(artifact.config, artifact.weights).predict(sequences)
    expected = predict(foreign.to(torch.float64 if dtype == torch.float64 else torch.float32), sequences)
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)
    for case in artifact.golden:
        np.testing.assert_allclose(case.logits, predict(foreign, [case.token_ids])[0], rtol=0, atol=TOLERANCE)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A state_dict of the tiny configuration."""
    return save(tmp_path, foreign_state())


def test_what_was_read_and_written_is_said(weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "tiny" / "1"
    assert main(command(weights, out, tiny_config())) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == (
        f"read {weights}: lstm, layers: 1, bidirectional, with bias, hidden size 8, embedding 40 x 6, logits: 2"
    )
    assert "  embedding.weight [40, 6] from word_embeddings.weight" in lines
    assert "  rnn.weight_hh_l0_reverse [32, 8] from lstm.weight_hh_l0_reverse" in lines
    assert lines[-1] == f"wrote {out}; serves token ids only: no --tokenizer was given; 5 golden cases"


def test_a_linear_without_a_bias_gets_zeros(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tiny_config(num_layers=2, proj_size=3, bidirectional=False, bias=False)
    weights = save(tmp_path, Flat(config, linear_bias=False).state_dict())
    assert main(command(weights, tmp_path / "1", config)) == 0
    assert not read_artifact(tmp_path / "1").weights["linear.bias"].any()
    output = capsys.readouterr().out
    assert "  linear.bias [2] from nowhere: zeros" in output
    assert "layers: 2, one direction, without bias, hidden size 8 projected to 3" in output


def test_the_card_says_where_the_version_comes_from(weights: Path, tmp_path: Path) -> None:
    tokenizer = tmp_path / "words.json"
    tokenizer.write_text(Tokenizer.train(TEXTS, 40, 1).to_json())
    out = tmp_path / "reviews" / "3"
    words = command(weights, out, tiny_config(labels=("not good", "good")))
    assert main([*words, "--tokenizer", str(tokenizer), "--max-length", "32"]) == 0
    card = (out / "README.md").read_text()
    assert f"`weights.pt`, a torch.save file (sha256 `{hashlib.sha256(weights.read_bytes()).hexdigest()}`)" in card
    assert card.startswith("# reviews, version 3\n")
    (line,) = (line for line in card.splitlines() if line.startswith("python"))
    assert line.startswith("python -m models.convert weights.pt --labels 'not good,good' --pooling last ")
    assert line.endswith(" --out models/store/reviews/3")
    assert "--tokenizer words.json" in line
    assert "--max-length 32" in line
    assert str(tmp_path) not in card
    configuration = card.split("```json\n")[1].split("```")[0]
    assert ModelConfig.model_validate_json(configuration) == read_artifact(out).config


def test_the_cards_command_gives_the_same_version(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(output="sigmoid")
    assert main(command(weights, tmp_path / "there" / "1", config)) == 0
    card = (tmp_path / "there" / "1" / "README.md").read_text()
    (line,) = (line for line in card.splitlines() if line.startswith("python -m models.convert "))
    monkeypatch.chdir(tmp_path)
    assert main(line.split()[3:]) == 0
    for path in (tmp_path / "there" / "1").iterdir():
        assert (tmp_path / "models" / "store" / "there" / "1" / path.name).read_bytes() == path.read_bytes()


def test_tied_and_trained_parameters_are_read(tmp_path: Path) -> None:
    """Parameters that want gradients, views of one storage."""
    state = {name: nn.Parameter(tensor) for name, tensor in foreign_state().items()}
    shared = torch.randn(2 * 32)
    state |= {"lstm.bias_ih_l0": nn.Parameter(shared[::2]), "lstm.bias_hh_l0": nn.Parameter(shared[1::2])}
    assert main(command(save(tmp_path, state), tmp_path / "1", tiny_config())) == 0
    np.testing.assert_array_equal(read_artifact(tmp_path / "1").weights["rnn.bias_hh_l0"], shared[1::2].numpy())


@pytest.mark.parametrize(
    ("change", "vocab", "pad_id"),
    [
        (lambda _: None, {}, 0),
        (lambda _: None, {"pad": 0}, 0),
        (lambda _: None, {"pad": 3}, 3),
        (lambda pipeline: pipeline.enable_padding(pad_id=5, pad_token="film"), {"pad": 3}, 5),
        (lambda pipeline: pipeline.enable_truncation(2), {"pad": 0}, 0),
    ],
)
def test_a_tokenizer_goes_along(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: Any, vocab: dict[str, int], pad_id: int
) -> None:
    words = command(weights, tmp_path / "1", tiny_config(pad_id=pad_id))
    assert main([*words, "--tokenizer", str(tokenizer_file(tmp_path, change, **vocab))]) == 0
    artifact = read_artifact(tmp_path / "1")
    assert artifact.tokenizer is not None
    assert artifact.tokenizer.encode(["good film ?"]) == [[2, 39, 1]]
    assert any(case.text for case in artifact.golden)
    assert "serves texts and token ids; " in capsys.readouterr().out


def test_a_tokenizer_without_an_unknown_token_drops_what_it_does_not_know(weights: Path, tmp_path: Path) -> None:
    pipeline = HFTokenizer(BPE({"o": 1, "k": 2, "ok": 3}, [("o", "k")]))
    (tmp_path / "bpe.json").write_text(pipeline.to_str())
    words = command(weights, tmp_path / "1", tiny_config())
    assert main([*words, "--tokenizer", str(tmp_path / "bpe.json")]) == 0
    tokenizer = read_artifact(tmp_path / "1").tokenizer
    assert tokenizer is not None
    assert tokenizer.encode(["ok!", "?"]) == [[3], []]


def test_as_a_process(weights: Path, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "models.convert", *command(weights, tmp_path / "1", tiny_config())]
    first = subprocess.run(words, capture_output=True, text=True)
    assert (first.returncode, first.stderr) == (0, "")
    read_artifact(tmp_path / "1")
    second = subprocess.run(words, capture_output=True, text=True)
    assert (second.returncode, second.stdout) == (2, "")
    assert second.stderr.count("\n") == 1
    assert "exists already" in second.stderr


def test_without_torch_the_extra_is_named() -> None:
    script = "import sys; sys.modules['torch'] = None; import models.convert"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (2, "torch is not installed: pip install 'lstm-serve[torch]'\n")
