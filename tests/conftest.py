"""Fixtures that the tests of the service share."""

import logging
from collections.abc import Iterator

import pytest
import torch

from tests.fake_engine import Fake


@pytest.fixture
def anyio_backend() -> str:
    """Async tests run on asyncio alone: the service is made for it."""
    return "asyncio"


@pytest.fixture
def fake() -> Iterator[Fake]:
    """A fake engine of one thread; its gate is opened at the end, so that no thread is left behind it."""
    fake = Fake()
    yield fake
    fake.gate.set()


@pytest.fixture(autouse=True, scope="module")
def _torch_threads() -> Iterator[None]:
    """torch's threads as they were before: engines and training set them for the process."""
    threads = torch.get_num_threads()
    yield
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
