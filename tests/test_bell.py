"""The bell: heard once it was rung, from any thread, and never in the way of who rings."""

import select
import socket
import threading
from collections.abc import Iterator

import pytest

from service.engine.bell import Bell


@pytest.fixture
def bell() -> Iterator[Bell]:
    bell = Bell()
    yield bell
    bell.close()


def rings(bell: Bell, seconds: float = 0) -> bool:
    return bool(select.select([bell], [], [], seconds)[0])


def test_it_is_heard_until_it_is_silenced(bell: Bell) -> None:
    assert not rings(bell)
    bell.ring()
    bell.ring()
    assert rings(bell)
    assert rings(bell)
    bell.silence()
    assert not rings(bell)
    bell.silence()
    bell.ring()
    assert rings(bell)


def test_it_wakes_another_thread(bell: Bell) -> None:
    thread = threading.Timer(0.05, bell.ring)
    thread.start()
    assert rings(bell, 10)
    thread.join()


def test_nobody_has_to_listen(bell: Bell) -> None:
    for _ in range(100_000):
        bell.ring()
    assert rings(bell)
    bell.silence()
    assert not rings(bell)


def test_native_code_rings_at_the_far_end(bell: Bell) -> None:
    with socket.socket(fileno=socket.dup(bell.far)) as far:
        far.send(b"\0")
    assert rings(bell)
