"""The Makefile: its help, and what it installs when. Nothing is installed here: make says what it would do."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TARGETS = ["help", "install", "serve", "test", "lint", "bench"]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What installation reads."""
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def make(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    # this may itself run under make
    outer = ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "PYTHON", "TORCH")
    environment = {name: value for name, value in os.environ.items() if name not in outer}
    return subprocess.run(["make", *arguments], cwd=folder, env=environment, capture_output=True, text=True)


def plan(folder: Path, target: str) -> str:
    done = make(folder, "--dry-run", target)
    assert done.returncode == 0, done.stderr
    return done.stdout


def stamp(path: Path, age: int) -> None:
    """Writes `path` as of `age` seconds after pyproject.toml."""
    path.parent.mkdir(exist_ok=True)
    path.touch()
    seconds = (path.parent.parent / "pyproject.toml").stat().st_mtime + age
    os.utime(path, (seconds, seconds))


def test_help_lists_every_target(checkout: Path) -> None:
    listed = re.findall(r"^  make (\S+)", make(checkout, "help").stdout, re.MULTILINE)
    assert listed == TARGETS
    phony = re.search(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert phony
    assert phony[1].split() == TARGETS


@pytest.mark.parametrize("target", TARGETS)
def test_every_target_exists(checkout: Path, target: str) -> None:
    assert plan(checkout, target)


@pytest.mark.parametrize("target", ["install", "test", "lint", "bench"])
def test_a_fresh_machine_gets_all_that_development_needs(checkout: Path, target: str) -> None:
    assert re.search(r'-m venv \.venv\n.* pip install .*"torch==[\d.]+" -e "\.\[dev\]"', plan(checkout, target))


def test_a_fresh_machine_gets_what_serving_needs(checkout: Path) -> None:
    commands = plan(checkout, "serve")
    assert re.search(r'-m venv \.venv\n.* pip install .*"torch==[\d.]+" -e "\.\[torch\]"', commands)
    assert commands.splitlines()[-1].endswith(".venv/bin/python -m service")


@pytest.mark.parametrize(("target", "stamped"), [("serve", ".serve"), ("serve", ".develop"), ("test", ".develop")])
def test_installs_again_only_when_the_project_file_changes(checkout: Path, target: str, stamped: str) -> None:
    stamp(checkout / ".venv" / stamped, age=1)
    assert "pip install" not in plan(checkout, target)
    stamp(checkout / ".venv" / stamped, age=-1)
    assert "pip install" in plan(checkout, target)


def test_serving_alone_is_not_enough_for_development(checkout: Path) -> None:
    stamp(checkout / ".venv" / ".serve", age=1)
    assert '".[dev]"' in plan(checkout, "test")


def test_torch_can_be_chosen(checkout: Path) -> None:
    assert '"torch==9.9+other"' in make(checkout, "--dry-run", "install", "TORCH=torch==9.9+other").stdout


def test_an_old_python_is_refused_in_one_line(checkout: Path) -> None:
    old = checkout / "python3.9"
    old.write_text(
        f'#!/bin/sh\nexec {sys.executable} -c "import sys; sys.version_info = (3, 9, 2); exec(sys.argv[2])" "$@"\n'
    )
    old.chmod(0o755)
    done = make(checkout, "install", f"PYTHON={old}")
    assert done.returncode == 2
    message, *rest = done.stderr.splitlines()
    assert message == f"lstm-serve needs Python 3.11 or newer, {old} is 3.9: name another, as in make PYTHON=python3.12"
    assert all(line.startswith("make: ***") for line in rest)
    assert not (checkout / ".venv").exists()
