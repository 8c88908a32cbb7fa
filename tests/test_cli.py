"""``lstm-serve``: every command by its installed name, in real processes."""

import csv
import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
import torch

from service import cli
from service.settings import Settings, flag
from tests.reviews import reviews, write
from tests.slow_import import importing
from tests.tiny import tiny_network, write_tiny

ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("LSTMSERVE_")}
Captured = pytest.CaptureFixture[str]


def run(*words: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "service.cli", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=300)
    assert done.returncode == code, done.stderr
    return done


def told(capsys: Captured, *words: str) -> tuple[int, str, str]:
    """Exit code, standard output and error of a command in this process."""
    try:
        code: object = cli.main(words)
    except SystemExit as exit_:
        code = exit_.code
    assert isinstance(code, int)
    return (code, *capsys.readouterr())


def test_help_lists_the_commands_with_one_line_each(capsys: Captured) -> None:
    code, out, _ = told(capsys, "--help")
    assert code == 0
    lines = out.partition("commands:\n")[2].partition("\n\n")[0].splitlines()
    assert [line.split()[0] for line in lines] == ["serve", "train", "evaluate", "convert", "score", "keys"]
    assert all(len(line) <= 100 and len(line.split()) > 3 for line in lines)


def test_the_version_is_that_of_the_package(capsys: Captured) -> None:
    project = (Path(__file__).parents[1] / "pyproject.toml").read_text()
    code, out, _ = told(capsys, "--version")
    assert code == 0
    name, _, version = out.strip().partition(" ")
    assert name == "lstm-serve"
    assert f'\nversion = "{version}"\n' in project


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["trian"], "there is no command 'trian'; did you mean train?"),
        (["scores", "x"], "there is no command 'scores'; did you mean score?"),
        (["xyzzy"], "there is no command 'xyzzy'"),
        ([], "which command?"),
        (["--store", "x"], "unrecognized arguments: --store x"),
    ],
)
def test_a_wrong_command_is_one_line_with_a_hint(capsys: Captured, words: list[str], line: str) -> None:
    assert told(capsys, *words) == (2, "", f"lstm-serve: error: {line} (--help lists the commands)\n")


@pytest.mark.parametrize(
    ("words", "start"), [(["help"], "usage: lstm-serve [-h]"), (["help", "train"], "usage: lstm-serve train ")]
)
def test_help_is_a_word_too(capsys: Captured, words: list[str], start: str) -> None:
    code, out, _ = told(capsys, *words)
    assert code == 0
    assert out.startswith(start)


@pytest.mark.parametrize("command", ["train", "evaluate", "convert", "score", "keys"])
def test_help_and_wrong_options_need_no_extra(command: str) -> None:
    program = f"""
import sys
for name in ("torch", "rich", "matplotlib", "pyarrow"):
    sys.modules[name] = None
from service.cli import main
main(["{command}", sys.argv[1]])
"""
    asked, wrong = (
        subprocess.run([sys.executable, "-c", program, word], capture_output=True, text=True, env=ENVIRONMENT)
        for word in ("--help", "--bogus")
    )
    assert (asked.returncode, asked.stderr) == (0, "")
    assert asked.stdout.startswith(f"usage: lstm-serve {command} ")
    assert wrong.returncode == 2
    assert wrong.stderr.startswith(f"lstm-serve {command}: error: the following arguments are required")


def test_help_imports_nothing_that_is_slow() -> None:
    program = """
import sys
from service.cli import main
try:
    main(["--help"])
except SystemExit as exit_:
    print(sorted({"torch", "numpy", "pydantic", "fastapi", "rich", "pyarrow", "uvicorn"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("command", ["train", "evaluate", "convert", "score", "keys"])
def test_help_and_errors_of_a_command_call_it_by_its_name(capsys: Captured, command: str) -> None:
    code, out, _ = told(capsys, command, "--help")
    assert code == 0
    assert out.startswith(f"usage: lstm-serve {command} [-h] ")
    code, _, errors = told(capsys, command)
    assert code == 2
    assert errors.startswith(f"lstm-serve {command}: error: the following arguments are required: ")
    assert errors.count("\n") == 1


def test_help_of_serve_names_every_setting(capsys: Captured) -> None:
    code, out, _ = told(capsys, "serve", "--help")
    assert code == 0
    words = out.split()
    assert [name for name in Settings.model_fields if flag(name) not in words] == []


def test_from_texts_to_scores_by_the_installed_command(tmp_path: Path) -> None:
    data, version = write(tmp_path / "reviews.csv", reviews(120), ("text", "class")), tmp_path / "store/reviews/1"
    sizes = ["--embedding-dim=8", "--hidden-size=8", "--epochs=2", "--min-count=1", "--threads=1", "--device=cpu"]
    trained = run("train", "--data", data, "--label-column", "class", "--out", version, *sizes)
    assert "wrote" in trained.stderr
    predictions = tmp_path / "predictions.jsonl"
    run("evaluate", version, "--data", data, "--label-column", "class", "--json", "--predictions", predictions)
    run("score", data, "--model", version, "--precision", "float32", "--out", tmp_path / "scored.csv")
    with (tmp_path / "scored.csv").open(newline="") as file:
        scored = list(csv.DictReader(file))
    expected = [json.loads(line) for line in predictions.read_text().splitlines()]
    assert [(row["label"], int(row["tokens"])) for row in scored] == [
        (row["predicted"], row["tokens"]) for row in expected
    ]
    assert [(row["text"], row["class"]) for row in scored] == reviews(120)


def test_an_interrupted_training_is_gone_on_with_by_its_name(
    tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write(tmp_path / "reviews.csv", reviews(80))
    monkeypatch.setattr("models.version.write_artifact", lambda *_, **__: signal.raise_signal(signal.SIGINT))
    sizes = ["--embedding-dim=8", "--hidden-size=8", "--epochs=1", "--device=cpu"]
    code, _, errors = told(capsys, "train", "--data", str(data), "--out", str(tmp_path / "1"), *sizes)
    assert code == 130
    last = errors.splitlines()[-1]
    assert last.startswith("lstm-serve train: interrupted; to go on: lstm-serve train --data ")
    assert last.endswith(" --resume")


def test_convert_by_the_installed_command(tmp_path: Path) -> None:
    torch.save(tiny_network().state_dict(), tmp_path / "weights.pt")
    run("convert", tmp_path / "weights.pt", "--labels=a,b", "--pooling=last", "--out", tmp_path / "mine/1")
    assert (tmp_path / "mine/1/SHA256SUMS").exists()


def test_serve_answers_and_ends_on_a_signal(tmp_path: Path) -> None:
    write_tiny(tmp_path / "tiny/1")
    command = [sys.executable, "-m", "service.cli", "serve", f"--store={tmp_path}", "--model=tiny", "--port=0"]
    with subprocess.Popen(
        [*command, "--drain-seconds=0"], stderr=subprocess.PIPE, text=True, env=ENVIRONMENT
    ) as process:
        assert process.stderr is not None
        records = (json.loads(line) for line in process.stderr)
        address = next(record["address"] for record in records if record["message"] == "serving")
        with urllib.request.urlopen(f"{address}/livez", timeout=30) as reply:
            assert reply.status == 200
        process.send_signal(signal.SIGTERM)
        assert any(record["message"] == "stopped" for record in records)
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("command", "slow", "number", "code"),
    [
        ("serve", "uvicorn", signal.SIGTERM, 0),
        ("serve", "uvicorn", signal.SIGINT, 0),
        ("train --data=x.csv --out=x/1", "torch", signal.SIGINT, 130),
        ("train", "numpy", signal.SIGINT, 130),
        ("score x.csv --out=y.csv", "rich.console", signal.SIGINT, 130),
    ],
)
def test_a_signal_while_a_command_is_imported(command: str, slow: str, number: signal.Signals, code: int) -> None:
    then = f"from service.cli import main; sys.exit(main({command.split()!r}))"
    process = subprocess.Popen(
        [sys.executable, "-c", importing(slow, then)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "importing\n"
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code
    assert errors == ("" if command == "serve" else "interrupted\n")


def test_score_without_its_extra_names_it(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rich.console", None)
    monkeypatch.delitem(sys.modules, "service.score.command", raising=False)
    code, _, errors = told(capsys, "score", "x.csv", "--out", "y.csv")
    assert code == 2
    assert errors.endswith("is not installed: pip install 'lstm-serve[cli]'\n")
