"""How often each may ask. Pure: the time is an argument, nothing here waits or locks."""

from collections import OrderedDict
from collections.abc import Hashable

MOST = 10_000
"""Of whom a note is kept; beyond, the one who has not asked for longest is forgotten, and may ask as if anew."""


class Rate:
    """A token bucket each: `limit` requests a second, and one second's worth, or one request, at once.

    Of each only the time is kept at which the bucket will be full (the generic cell rate algorithm, ITU-T I.371).
    """

    def __init__(self, limit: float, most: int = MOST) -> None:
        self.limit = limit
        self._most = most
        self._cost = 1 / limit
        self._burst = max(1.0, self._cost)
        self._full: OrderedDict[Hashable, float] = OrderedDict()

    def take(self, who: Hashable, now: float) -> float:
        """Lets a request in, and gives 0; or the seconds after which it would be let in."""
        full = max(self._full.get(who, now), now) + self._cost
        wait = full - now - self._burst
        if wait > 1e-9:  # what is left of rounding
            self._full.move_to_end(who)
            return wait
        self._full[who] = full
        self._full.move_to_end(who)
        if len(self._full) > self._most:
            self._full.popitem(last=False)
        return 0.0
