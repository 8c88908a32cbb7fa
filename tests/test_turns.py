"""Requests that begin many at once, each of which holds the loop for a while."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from service.turns import AT_ONCE, Turns

pytestmark = pytest.mark.anyio

MANY = 10 * AT_ONCE


class Asked:
    """What reached the app, in order: its beginning holds the loop for a millisecond."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self._app = Turns(self._answer)

    async def __call__(self, path: str, method: str = "POST") -> None:
        await self._app({"type": "http", "method": method, "path": path}, _receive, _send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.begun.append(scope["path"])
        time.sleep(0.001)  # noqa: ASYNC251 (as parsing does)
        await asyncio.sleep(0)


async def _receive() -> Message:
    raise AssertionError("nothing is read here")


async def _send(message: Message) -> None:
    raise AssertionError("nothing is sent here")


async def test_a_probe_waits_for_a_few_of_those_that_came_at_once() -> None:
    asked = Asked()
    tasks = [asyncio.create_task(asked(str(number))) for number in range(MANY)]
    await asyncio.sleep(0)  # all are here, the first few have begun
    assert asked.begun == [str(number) for number in range(AT_ONCE)]
    await asyncio.create_task(asked("probe", "GET"))
    assert asked.begun.index("probe") <= 3 * AT_ONCE
    await asyncio.gather(*tasks)
    assert [path for path in asked.begun if path != "probe"] == [str(number) for number in range(MANY)]


async def test_who_comes_later_does_not_go_first() -> None:
    asked = Asked()
    tasks = [asyncio.create_task(asked(str(number))) for number in range(MANY)]
    for number in range(MANY, 2 * MANY):
        await asyncio.sleep(0)
        tasks.append(asyncio.create_task(asked(str(number))))
    await asyncio.gather(*tasks)
    assert asked.begun == [str(number) for number in range(2 * MANY)]


async def test_one_that_is_cut_off_takes_no_turn() -> None:
    asked = Asked()
    tasks = [asyncio.create_task(asked(str(number))) for number in range(MANY)]
    await asyncio.sleep(0)
    for task in tasks[AT_ONCE:-1]:
        task.cancel()
    await tasks[-1]
    assert asked.begun == [*(str(number) for number in range(AT_ONCE)), str(MANY - 1)]
    for task in tasks[AT_ONCE:-1]:
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_when_all_have_begun_the_loop_rests(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Asked()
    await asyncio.gather(*(asked(str(number)) for number in range(MANY)))
    loop = asyncio.get_running_loop()
    called: list[object] = []
    original = loop.call_soon

    def call_soon(callback: Callable[..., object], *rest: Any, **named: Any) -> asyncio.Handle:
        called.append(callback)
        return original(callback, *rest, **named)

    monkeypatch.setattr(loop, "call_soon", call_soon)
    await asyncio.sleep(0.01)
    assert len(called) <= AT_ONCE
