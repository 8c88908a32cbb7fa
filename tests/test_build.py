"""The wheel: what it holds, with the native engine and where that cannot be built."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from service.engine import _core

ROOT = Path(__file__).parent.parent


MODULE = "#include <nanobind/nanobind.h>\nNB_MODULE(_core, module) { module.doc(); }\n"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of all that a wheel is built from, with an empty native engine: the real one takes a minute."""
    for name in ("CMakeLists.txt", "LICENSE", "README.md", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    for name in ("models", "service"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "*.training"))
    (tmp_path / "native").mkdir()
    (tmp_path / "native" / "bindings.cpp").write_text(MODULE)
    (tmp_path / "native" / "empty.cpp").touch()
    return tmp_path


def build(checkout: Path, **environment: str) -> Path:
    """The wheel, built with what is installed here; no index is asked."""
    command = [sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "--wheel-dir", "built", "."]
    done = subprocess.run(command, cwd=checkout, env=os.environ | environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = (checkout / "built").iterdir()
    return wheel


def contents(wheel: Path) -> set[str]:
    """The files, with the licences as ``licenses/NAME``, without what only describes the wheel."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    return {
        re.sub(r"^[^/]+\.dist-info/(?=licenses/)", "", name)
        for name in names
        if not re.match(r".+-info/\w+(\.txt)?$", name)
    }


def python_and_store(checkout: Path) -> set[str]:
    packages = [checkout / "models", checkout / "service"]
    return {str(path.relative_to(checkout)) for folder in packages for path in folder.rglob("*") if path.is_file()}


def test_a_wheel_holds_the_native_engine(checkout: Path) -> None:
    wheel = build(checkout)
    assert not wheel.name.endswith("-none-any.whl")
    added = contents(wheel) - python_and_store(checkout)
    (extension,) = (name for name in added if name.startswith("service/engine/_core."))
    assert added == {extension, "licenses/LICENSE", "licenses/LICENSE.nanobind"}
    assert python_and_store(checkout) <= contents(wheel)
    assert {f"service/page/{name}" for name in ("index.html", "page.css", "page.js")} <= contents(wheel)


@pytest.mark.parametrize("reason", ["an error in a source", "no compiler"])
def test_a_wheel_without_the_native_engine_holds_all_else(checkout: Path, reason: str) -> None:
    if reason == "no compiler":
        wheel = build(checkout, CXX=str(checkout / "absent"))
    else:
        (checkout / "native" / "empty.cpp").write_text("#error this does not compile\n")
        wheel = build(checkout)
    assert wheel.name.endswith("-py3-none-any.whl")
    assert contents(wheel) == python_and_store(checkout) | {"licenses/LICENSE"}


def test_what_is_installed_has_no_faults_for_tests() -> None:
    assert not hasattr(_core, "inject")
    assert not hasattr(_core.Engine, "counts")
