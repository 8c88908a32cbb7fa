"""Cycles are collected in the end, when nothing is asked or after long enough; what was there at the start never is."""

import asyncio
import gc
import weakref
from collections.abc import Awaitable, Callable, Iterator

import pytest

from service import garbage
from tests.fake_engine import until

pytestmark = pytest.mark.anyio


class Node:
    """One of a cycle of itself."""

    def __init__(self) -> None:
        self.me = self


def cycle() -> "weakref.ref[Node]":
    return weakref.ref(Node())


def gone(left: "weakref.ref[Node]") -> Callable[[], Awaitable[bool]]:
    async def holds() -> bool:
        return left() is None

    return holds


@pytest.fixture(autouse=True)
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(garbage, "LOOK_SECONDS", 0.001)
    before = gc.get_threshold()
    yield
    gc.unfreeze()
    gc.set_threshold(*before)


async def test_cycles_go_when_nothing_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(garbage, "COLLECT_SECONDS", 0.0)
    garbage.settle()
    idle = False
    left = cycle()
    collecting = asyncio.ensure_future(garbage.collect(lambda: idle))
    await asyncio.sleep(0.05)
    assert left() is not None, "somebody asks"
    idle = True
    await until(gone(left))
    collecting.cancel()


async def test_cycles_go_after_long_enough_whatever_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(garbage, "MOST_SECONDS", 0.0)
    garbage.settle()
    left = cycle()
    collecting = asyncio.ensure_future(garbage.collect(lambda: False))
    await until(gone(left))
    collecting.cancel()


async def test_what_was_there_is_looked_through_no_more() -> None:
    before = gc.get_freeze_count()
    garbage.settle()
    assert gc.get_freeze_count() > before + 10_000
    assert gc.get_count()[0] < garbage.YOUNGEST
    assert gc.get_threshold()[0] == garbage.YOUNGEST
