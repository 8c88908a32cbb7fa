"""The watchdog against the rule in one line: the same busy pulse at so many looks after the first."""

from hypothesis import given
from hypothesis import strategies as st

from service.engine import Pulse
from service.watchdog import LOOKS, Watchdog

pulses = st.builds(Pulse, beats=st.integers(0, 1), busy=st.integers(0, 9).map(bool))


@given(st.lists(st.tuples(pulses, pulses), min_size=1, max_size=40))
def test_stuck_is_who_was_busy_with_one_beat_at_every_look(looks: list[tuple[Pulse, Pulse]]) -> None:
    watchdog = Watchdog()
    for number, seen in enumerate(looks):
        last = looks[max(0, number - LOOKS) : number + 1]
        stuck = [
            len(last) == LOOKS + 1 and set(thread) == {last[-1][n]} and last[-1][n].busy
            for n, thread in enumerate(zip(*last, strict=True))
        ]
        assert watchdog.look(seen) is any(stuck)


def test_long_stuck_and_long_idle() -> None:
    watchdog = Watchdog()
    assert [watchdog.look([Pulse(5, busy=False), Pulse(5, busy=True)]) for _ in range(LOOKS + 3)] == [False] * LOOKS + [
        True
    ] * 3
    watchdog = Watchdog()
    assert not any(watchdog.look([Pulse(5, busy=False)]) for _ in range(10 * LOOKS))
    watchdog = Watchdog()
    assert not any(watchdog.look([Pulse(beats, busy=True)]) for beats in range(10 * LOOKS)), "busy, and going on"
