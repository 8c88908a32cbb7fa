"""Fixtures that the tests of the service share."""

import importlib.util
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if library := os.environ.get("NATIVE_CORE"):  # a build with sanitizers (make sanitize), instead of the installed one
    name = "service.engine._core"
    spec = importlib.util.spec_from_file_location(name, library)
    assert spec is not None
    assert spec.loader is not None
    sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[name])
    assert library in Path("/proc/self/maps").read_text()

from tests.fake_engine import Fake
from tests.server import Server

if TYPE_CHECKING:  # imported where there are pages to look at
    from playwright.sync_api import Browser


@pytest.fixture
def anyio_backend() -> str:
    """Async tests run on asyncio alone: the service is made for it."""
    return "asyncio"


@pytest.fixture
def fake() -> Iterator[Fake]:
    """A fake engine, closed at the end."""
    fake = Fake()
    yield fake
    fake.close()


@pytest.fixture(autouse=True, scope="module")
def _torch_threads() -> Iterator[None]:
    """torch's threads as they were before: engines and training set them for the process."""
    torch = sys.modules.get("torch")
    threads = torch.get_num_threads() if torch else 0
    yield
    if torch:
        torch.set_num_threads(threads)


@pytest.fixture
def root_logger() -> Iterator[logging.Logger]:
    """The root logger, whose handlers and level are put back."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield root
    for handler in root.handlers[:]:
        root.removeHandler(handler)
    for handler in handlers:
        root.addHandler(handler)
    root.setLevel(level)


@pytest.fixture(scope="module")
def browser() -> "Iterator[Browser]":
    """A real Chromium."""
    from tests.browser import chromium

    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def shipped() -> Iterator[str]:
    """Address of a service of one model, the shipped one, which reads texts."""
    with Server(Path("models/store")) as server:
        yield server.url
