"""The native engine in whose way tests can put faults (native/fault.h), beside the installed one."""

import importlib.util
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from service.engine import _core

BUILT = Path("build/faults")


def load_core(library: str) -> Any:
    spec = importlib.util.spec_from_file_location("_core", library)
    assert spec is not None
    assert spec.loader is not None
    core = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(core)
    return core


def faulty_core() -> Any:
    """The one that is imported, if it is of that kind, as those with sanitizers are; or the one that make builds."""
    if hasattr(_core, "inject"):
        return _core
    if found := sys.modules.get("tests.faulty_core.loaded"):  # a second one would share nothing with the first
        return found
    libraries = [*BUILT.glob("_core.*.so")]
    assert libraries, "there is no native engine to put faults in the way of: make build/faults/.made"
    sys.modules["tests.faulty_core.loaded"] = core = load_core(str(libraries[0]))
    return core


def until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < end, "it never holds"
        time.sleep(0.001)
