"""The Makefile: its help, and what it installs when.

Nothing is installed here: make says what it would do, or a stand-in for Python notes what it is asked.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TARGETS = ["help", "install", "serve", "test", "sanitize", "fuzz", "overload", "soak", "lint", "bench", "lock"]
DEVELOPMENT = [target for target in TARGETS if target not in ("help", "serve")]

PYTHON = """#!/bin/sh
echo "$@" >>asked
case "$*" in
  "-m venv .venv") mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
  *service.engine._core*) test ! -e broken ;;
esac
"""
"""A stand-in that notes what it is asked; the native engine is not built where a file "broken" is."""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What installation reads."""
    for path in (ROOT / "Makefile", ROOT / "pyproject.toml", ROOT / "CMakeLists.txt", *ROOT.glob("*.lock")):
        shutil.copy(path, tmp_path)
    (tmp_path / "native").mkdir()
    (tmp_path / "native" / "cell.cpp").touch()
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
    """Writes `path` as of `age` seconds after what installation reads."""
    path.parent.mkdir(exist_ok=True)
    path.touch()
    checkout = path.parent.parent
    read = [*checkout.glob("*.*"), checkout / "native" / "cell.cpp"]
    seconds = max(file.stat().st_mtime for file in read) + age
    os.utime(path, (seconds, seconds))


def executable(path: Path, script: str) -> Path:
    path.write_text(script)
    path.chmod(0o755)
    return path


def test_help_lists_every_target(checkout: Path) -> None:
    listed = re.findall(r"^  make (\S+)", make(checkout, "help").stdout, re.MULTILINE)
    assert listed == TARGETS
    phony = re.search(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert phony
    assert phony[1].split() == TARGETS


@pytest.mark.parametrize("target", TARGETS)
def test_every_target_exists(checkout: Path, target: str) -> None:
    assert plan(checkout, target)


@pytest.mark.parametrize("target", DEVELOPMENT)
def test_a_fresh_machine_gets_all_that_development_needs(checkout: Path, target: str) -> None:
    venv, hashes = r"-m venv \.venv\n", r".* pip install .*--require-hashes --requirement requirements-dev\.lock\n"
    package = r'.* pip install .*--no-build-isolation "torch==[\d.]+" -e "\.\[dev\]"'
    assert re.search(venv + hashes + package, plan(checkout, target))


@pytest.mark.parametrize("built", [True, False])
def test_serving_gets_torch_only_where_the_native_engine_is_not_built(checkout: Path, built: bool) -> None:
    if not built:
        (checkout / "broken").touch()
    done = make(checkout, "serve", f"PYTHON={executable(checkout / 'python', PYTHON)}")
    assert done.returncode == 0, done.stderr
    asked = (checkout / "asked").read_text().splitlines()
    installed = [line for line in asked if line.startswith("-m pip install")]
    files = "--requirement requirements.lock --requirement requirements-build.lock"
    package, torch = "-m pip install --quiet --no-build-isolation -e .", r"-m pip install --quiet torch==[\d.]+"
    assert installed[:2] == [f"-m pip install --quiet --require-hashes {files}", package]
    assert re.fullmatch("" if built else torch, "\n".join(installed[2:]))
    said = r"" if built else r"the native engine was not built \(.*C\+\+17 compiler.*\): torch takes its place\n"
    assert re.fullmatch(said, done.stderr)
    assert asked[-1] == "-m service"


@pytest.mark.parametrize(("target", "stamped"), [("serve", ".serve"), ("serve", ".develop"), ("test", ".develop")])
@pytest.mark.parametrize("changed", ["pyproject.toml", "CMakeLists.txt", "requirements.lock", "native/cell.cpp"])
def test_installs_again_only_when_something_changes(checkout: Path, target: str, stamped: str, changed: str) -> None:
    stamp(checkout / ".venv" / stamped, age=1)
    (checkout / "build/kserve-venv").mkdir(parents=True)
    (checkout / "build/kserve-venv/.made").touch()
    assert "pip install" not in plan(checkout, target)
    seconds = (checkout / ".venv" / stamped).stat().st_mtime + 1
    os.utime(checkout / changed, (seconds, seconds))
    assert "pip install" in plan(checkout, target)


def test_the_tests_have_the_client_of_kserve(checkout: Path) -> None:
    assert "pip install --quiet kserve==" in plan(checkout, "test")
    assert "kserve" not in plan(checkout, "install")


def test_the_tests_and_the_sanitizers_have_a_native_engine_with_faults(checkout: Path) -> None:
    faults = r"LSTMSERVE_FAULTS=ON .*-B build/faults .*\n.*cmake --build build/faults"
    assert re.search(faults, plan(checkout, "test"))
    assert plan(checkout, "sanitize").count("-D LSTMSERVE_FAULTS=ON") == 2
    assert "LSTMSERVE_FAULTS" not in plan(checkout, "install") + plan(checkout, "serve")


@pytest.mark.parametrize("changed", ["CMakeLists.txt", "native/cell.cpp"])
def test_the_native_engine_with_faults_is_built_again_only_when_it_changes(checkout: Path, changed: str) -> None:
    made = checkout / "build/faults/.made"
    made.parent.mkdir(parents=True)
    stamp(checkout / ".venv" / ".develop", age=1)
    made.touch()
    assert "build/faults" not in plan(checkout, "test")
    seconds = made.stat().st_mtime + 1
    os.utime(checkout / changed, (seconds, seconds))
    assert "build/faults" in plan(checkout, "test")


def test_what_serving_needs_is_not_enough_for_development(checkout: Path) -> None:
    stamp(checkout / ".venv" / ".serve", age=1)
    assert 'dev]"' in plan(checkout, "test")


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
@pytest.mark.parametrize(
    ("tests", "status"),
    [
        ("def test_passes(): pass", 0),
        ("def test_fails(): assert False", 2),
        ("import pytest\ndef test_skips(): pytest.skip('this CPU has none')", 2),
    ],
)
def test_sanitize_fails_where_a_test_fails_or_none_ran(checkout: Path, tests: str, status: int) -> None:
    stamp(checkout / ".venv" / ".develop", age=1)
    (checkout / ".venv" / "bin").mkdir()
    executable(checkout / ".venv" / "bin" / "cmake", "#!/bin/sh\n")
    executable(checkout / ".venv" / "bin" / "python", f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (checkout / "tests").mkdir()
    (checkout / "tests" / "test_native_cell.py").write_text(tests)
    done = make(checkout, "sanitize")
    assert done.returncode == status, done.stdout + done.stderr


def test_torch_can_be_chosen(checkout: Path) -> None:
    assert '"torch==9.9+other"' in make(checkout, "--dry-run", "install", "TORCH=torch==9.9+other").stdout


def test_an_old_python_is_refused_in_one_line(checkout: Path) -> None:
    script = f'#!/bin/sh\nexec {sys.executable} -c "import sys; sys.version_info = (3, 9, 2); exec(sys.argv[2])" "$@"\n'
    old = executable(checkout / "python3.9", script)
    done = make(checkout, "install", f"PYTHON={old}")
    assert done.returncode == 2
    message, *rest = done.stderr.splitlines()
    assert message == f"lstm-serve needs Python 3.11 or newer, {old} is 3.9: name another, as in make PYTHON=python3.12"
    assert all(line.startswith("make: ***") for line in rest)
    assert not (checkout / ".venv").exists()
