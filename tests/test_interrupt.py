"""Ctrl-C in a real process: exit code 130 and one line, whatever the command is at."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from models.command import run_main
from models.extras import needs
from tests.foreign import command
from tests.slow_import import importing
from tests.tiny import tiny_config, write_tiny


def interrupted(process: subprocess.Popen[str]) -> str:
    """What the process says when it gets SIGINT."""
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    return errors


def wait_until_read(pipe: Path) -> int:
    """Descriptor of the named pipe's other end, open when the process has opened it to read."""
    deadline = time.monotonic() + 60
    while True:
        try:
            return os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.02)


@pytest.mark.parametrize(
    ("name", "slow"),
    [
        ("train", "torch"),
        ("train", "models.run"),
        ("evaluate", "rich.console"),
        ("evaluate", "torch"),
        ("convert", "torch"),
        ("convert", "safetensors.torch"),
    ],
)
def test_while_it_imports(name: str, slow: str) -> None:
    """The import of `slow` waits for the signal."""
    then = f"import runpy; runpy.run_module('models.{name}', run_name='__main__', alter_sys=True)"
    process = subprocess.Popen(
        [sys.executable, "-c", importing(slow, then)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "importing\n"
    assert interrupted(process) == "interrupted\n"


@pytest.mark.parametrize("name", ["train", "evaluate", "convert"])
def test_while_it_reads(tmp_path: Path, name: str) -> None:
    version, pipe = tmp_path / "1", tmp_path / "data.csv"
    os.mkfifo(pipe)
    write_tiny(version)
    words = {
        "train": ["--data", str(pipe), "--out", str(tmp_path / "2")],
        "evaluate": [str(version), "--data", str(pipe)],
        "convert": command(pipe, tmp_path / "2", tiny_config()),
    }[name]
    process = subprocess.Popen([sys.executable, "-m", f"models.{name}", *words], stderr=subprocess.PIPE, text=True)
    end = wait_until_read(pipe)
    time.sleep(0.2)  # a signal between the opening and the reading would be seen only after the latter
    before, after = ("reading data.csv …\n", "; nothing was written") if name == "train" else ("", "")
    assert interrupted(process) == f"{before}python -m models.{name}: interrupted{after}\n"
    os.close(end)
    assert {path.name for path in tmp_path.iterdir()} == {"1", "data.csv"}


def stop() -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("outcome", "line"),
    [("", "prog: interrupted\n"), ("nothing was written", "prog: interrupted; nothing was written\n")],
)
def test_what_became_of_the_work_is_said(capsys: pytest.CaptureFixture[str], outcome: str, line: str) -> None:
    assert run_main("prog", stop, (), lambda: outcome) == 130
    assert capsys.readouterr().err == line


def test_guarded_imports_end_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught, needs("train"):
        stop()
    assert caught.value.code == 130
    assert capsys.readouterr().err == "interrupted\n"
