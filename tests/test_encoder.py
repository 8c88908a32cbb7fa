"""Training that goes on from another version, and several times from the same beginning."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers.pre_tokenizers import ByteLevel

from models import train
from models.artifact import read_artifact, write_artifact
from models.checkpoint import working_folder
from models.tokenizer import Tokenizer
from tests.reviews import reviews, write
from tests.test_pretraining import LANGUAGE, data, metrics, texts
from tests.test_train import covered_bytes, interrupt_after
from tests.tiny import write_tiny

__all__ = ["data", "texts"]

BYTES = {
    "model": {"type": "BPE", "vocab": {byte: number for number, byte in enumerate(ByteLevel.alphabet())}, "merges": []},
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
}
"""A tokenizer to which no text is unknown."""

SIZES = "--embedding-dim 8 --hidden-size 6"
SMALL = "--epochs 2 --crop 30 --batch-size 16 --learning-rate 0.02 --threads 1 --precision float32"


def command(data: Path, out: Path, options: str) -> list[str]:
    return ["--data", str(data), "--out", str(out), *SMALL.split(), *options.split()]


def made(data: Path, out: Path, options: str) -> Path:
    assert train.main(command(data, out, options)) == 0
    return out


def test_a_run_of_two_stages_is_two_runs_of_one(tmp_path: Path, data: Path, texts: Path) -> None:
    whole = made(data, tmp_path / "toy" / "1", f"{SIZES} --pretrain {texts} {LANGUAGE}")
    encoder = made(data, tmp_path / "language" / "1", f"{SIZES} --pretrain {texts} {LANGUAGE} --epochs 0")
    out = made(data, tmp_path / "toy" / "2", f"--encoder {encoder}")
    assert covered_bytes(out) == covered_bytes(whole)
    assert metrics(out)["made_by"][0]["language"] == metrics(whole)["made_by"][0]["language"]
    assert metrics(out)["made_by"][1]["language"] is None
    commands = [run["command"] for run in metrics(out)["made_by"]]
    assert "--pretrain texts.jsonl.gz" in commands[0]
    assert "--encoder models/store/language/1" in commands[1]
    assert "embedding" not in commands[1]
    card = (out / "README.md").read_text()
    assert card.index(commands[0]) < card.index(commands[1])
    assert "![Loss and perplexity by epoch](language.png)" in card
    assert (out / "language.png").read_bytes().startswith(b"\x89PNG")


def test_a_run_without_epochs_says_what_it_is_for(tmp_path: Path, data: Path, texts: Path) -> None:
    out = made(data, tmp_path / "1", f"{SIZES} --pretrain {texts} {LANGUAGE} --epochs 0")
    assert "The classes were not learned: this version is for `--encoder`." in (out / "README.md").read_text()
    assert not (out / "curves.png").exists()
    assert "## Metrics" not in (out / "README.md").read_text()
    assert metrics(out)["epochs"] == []


def test_a_version_goes_on_to_other_classes(tmp_path: Path, data: Path) -> None:
    fields: dict[str, Any] = {"cell": "gru", "hidden_size": 5, "num_layers": 2, "bidirectional": True, "bias": False}
    write_tiny(tmp_path / "old" / "1", **fields)
    old, weights, tokenizer, _ = read_artifact(tmp_path / "old" / "1")
    three = write(tmp_path / "three.csv", reviews(90, 3))
    options = "--pooling last --max-length 50 --dropout 0.25"
    out = made(three, tmp_path / "new" / "1", f"--encoder {tmp_path / 'old' / '1'} {options} --epochs 0")
    config, begun, known, _ = read_artifact(out)
    assert config.labels == ("mixed", "negative", "positive")
    assert (config.pooling, config.max_length, config.dropout) == (("last",), 50, 0.25)
    for name in (*fields, "vocab_size", "embedding_dim", "proj_size", "pad_id"):
        assert getattr(config, name) == getattr(old, name), name
    assert known is not None
    assert tokenizer is not None
    assert known.to_json() == tokenizer.to_json()
    for name in old.tensor_shapes():
        assert name.startswith("linear") or np.array_equal(begun[name], weights[name]), name
    learned = read_artifact(made(three, tmp_path / "new" / "2", f"--encoder {tmp_path / 'old' / '1'}")).weights
    assert not np.array_equal(learned["rnn.weight_hh_l1"], weights["rnn.weight_hh_l1"])


def test_a_version_goes_on_with_fewer_tokens(tmp_path: Path, data: Path) -> None:
    """Those that its new texts have keep what they mean."""
    encoder = made(data, tmp_path / "toy" / "1", SIZES)
    old, weights, tokenizer, _ = read_artifact(encoder)
    few = write(
        tmp_path / "few.csv",
        [(" ".join(["lovely , sisters"] * n), "positive") for n in range(1, 6)]
        + [(" ".join(["awful , story"] * n), "negative") for n in range(1, 6)],
    )
    options = f"--encoder {encoder} --vocab-size 7 --validation 2 --epochs 0"
    config, begun, known, _ = read_artifact(made(few, tmp_path / "toy" / "2", options))
    assert tokenizer is not None
    assert known is not None
    assert set(known.tokens()) == {"<pad>", "<unk>", "lovely", ",", "sisters", "awful", "story"}
    assert (config.vocab_size, config.pad_id) == (7, 0)
    ids = [tokenizer.tokens().index(token) for token in known.tokens()]
    assert np.array_equal(begun["embedding.weight"], weights["embedding.weight"][ids])
    assert np.array_equal(begun["rnn.weight_hh_l0"], weights["rnn.weight_hh_l0"])
    same = read_artifact(
        made(few, tmp_path / "toy" / "3", options.replace("--vocab-size 7", "--vocab-size 9999"))
    ).config
    assert same.vocab_size == old.vocab_size


@pytest.mark.parametrize("found", ['{"made_by": 3}', '{"made_by": [{"command": 3}]}', "[]", "{"])
def test_what_came_before_is_not_made_up(tmp_path: Path, data: Path, found: str) -> None:
    write_tiny(tmp_path / "old" / "1")
    (tmp_path / "old" / "1" / "metrics.json").write_text(found)
    out = made(data, tmp_path / "new" / "1", f"--encoder {tmp_path / 'old' / '1'}")
    assert len(metrics(out)["made_by"]) == 1
    assert metrics(out)["made_by"][0]["language"] is None
    assert "How its encoder was made is not known." in (out / "README.md").read_text()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ("--pretrain {texts} --runs 2", "argument --runs: 2 without an epoch are all the same"),
        ("", "argument --epochs: 0, and nothing to begin with or to learn: give --pretrain or --encoder"),
        ("--pretrain {texts} --pretrain-epochs 0", "argument --epochs: 0, and nothing"),
    ],
)
def test_a_run_without_epochs_has_something_to_do(
    tmp_path: Path, data: Path, texts: Path, capsys: pytest.CaptureFixture[str], options: str, reason: str
) -> None:
    with pytest.raises(SystemExit):
        train.main(command(data, tmp_path / "1", f"--epochs 0 {options.format(texts=texts)}"))
    assert reason in capsys.readouterr().err


def test_the_precision_is_for_the_encoder_s_sizes(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stacked layers do not train well in bfloat16 on a CPU."""
    monkeypatch.setattr("models.device._native_bfloat16", lambda: True)
    for layers, precision in ((1, "bfloat16"), (2, "float32")):
        write_tiny(tmp_path / "old" / str(layers), num_layers=layers)
        out = tmp_path / "new" / str(layers)
        made(data, out, f"--encoder {tmp_path / 'old' / str(layers)} --precision auto --device cpu")
        assert f'| `precision` | `"{precision}"` |' in (out / "README.md").read_text()


def test_stacked_layers_learn_from_texts_without_labels_where_no_language_is_learned(
    tmp_path: Path, data: Path, texts: Path
) -> None:
    out = made(data, tmp_path / "1", f"{SIZES} --num-layers 2 --pretrain {texts} --pretrain-epochs 0 --vat 0.1")
    assert metrics(out)["made_by"][0]["language"] is None


@pytest.mark.parametrize(("option", "name"), [("--hidden-size 128", "hidden-size"), ("--no-bias", "bias")])
def test_sizes_are_the_encoder_s(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str], option: str, name: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        train.main(command(data, tmp_path / "1", f"--encoder {tmp_path} {option}"))
    assert ended.value.code == 2
    assert f"argument --{name}: --encoder decides it; leave one of them out" in capsys.readouterr().err


def test_what_cannot_be_gone_on_with(tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_tiny(tmp_path / "old" / "1", with_tokenizer=False)
    assert train.main(command(data, tmp_path / "1", f"--encoder {tmp_path / 'old' / '1'}")) == 2
    assert "reads token ids only: texts cannot train it further" in capsys.readouterr().err.splitlines()[-1]
    assert train.main(command(data, tmp_path / "1", f"--encoder {tmp_path / 'none'}")) == 2
    assert f"{tmp_path / 'none'}" in capsys.readouterr().err.splitlines()[-1]
    bytes_only = tmp_path / "old" / "2"
    artifact = write_tiny(tmp_path / "old" / "3", vocab_size=300)
    bytes_level = Tokenizer.from_json(json.dumps(BYTES))
    write_artifact(bytes_only, artifact._replace(tokenizer=bytes_level, golden=artifact.golden[-1:]))
    assert train.main(command(data, tmp_path / "1", f"--encoder {bytes_only}")) == 2
    assert "no unknown token to show for others: give --word-dropout 0" in capsys.readouterr().err.splitlines()[-1]
    assert train.main(command(data, tmp_path / "2", f"--encoder {bytes_only} --word-dropout 0")) == 0
    assert train.main(command(data, tmp_path / "1", f"--encoder {bytes_only} --word-dropout 0 --vocab-size 9")) == 2
    assert "--vocab-size 9: the vocabulary of --encoder is of type BPE" in capsys.readouterr().err.splitlines()[-1]
    assert not working_folder(tmp_path / "1").exists()


def test_another_encoder_is_not_resumed_with(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in (0, 1):
        write_tiny(tmp_path / "old" / str(seed + 1), seed)
    with monkeypatch.context() as patch:
        interrupt_after(patch, 2)
        assert train.main(command(data, tmp_path / "1", f"--encoder {tmp_path / 'old' / '1'}")) == 130
    assert train.main([*command(data, tmp_path / "1", f"--encoder {tmp_path / 'old' / '2'}"), "--resume"]) == 2
    assert "made with --encoder" in capsys.readouterr().err


@pytest.mark.parametrize("steps", [3, 14, 25])
def test_several_runs_and_the_best_is_kept(
    tmp_path: Path,
    data: Path,
    texts: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    steps: int,
) -> None:
    options = f"{SIZES} --pretrain {texts} {LANGUAGE} --pretrain-epochs 1 --runs 3 --seed 4"
    whole, out = made(data, tmp_path / "toy" / "1", options), tmp_path / "toy" / "2"
    assert "classes (seed 5), epoch 1: train loss" in capsys.readouterr().err
    with monkeypatch.context() as patch:
        interrupt_after(patch, steps)
        assert train.main(command(data, out, options)) == 130
    assert train.main([*command(data, out, options), "--resume"]) == 0
    assert covered_bytes(out) == covered_bytes(whole)
    found = metrics(whole)
    runs = found["runs"]
    assert [run["seed"] for run in runs] == [4, 5, 6]
    assert len({run["validation_loss"] for run in runs}) == 3
    best = max(runs, key=lambda run: (run["validation_accuracy"], -run["validation_loss"]))
    assert found["seed"] == best["seed"]
    assert found["validation"]["accuracy"] == pytest.approx(best["validation_accuracy"])
    assert found["epochs"][found["best_epoch"] - 1]["validation_loss"] == best["validation_loss"]
    accuracies = [run["validation_accuracy"] for run in runs]
    card = (whole / "README.md").read_text()
    assert f"{np.mean(accuracies):.4f} in the mean, standard deviation {np.std(accuracies, ddof=1):.4f}" in card
    assert f"| 5 | {runs[1]['best_epoch']} | {accuracies[1]:.4f} | {runs[1]['validation_loss']:.4f} |" in card
    assert json.loads((out / "metrics.json").read_text())["runs"] == runs
