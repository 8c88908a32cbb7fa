"""One engine thread: takes sequences from the scheduler, steps the engine, hands outcomes back in bulk."""

import logging
import threading
import time
from collections.abc import Callable

from service.engine import Engine
from service.errors import DeadlineExceeded, EngineFailed
from service.scheduler import Scheduler
from service.sequence import Outcome, Sequence

log = logging.getLogger(__name__)


class Worker(threading.Thread):
    """Runs until `stop`; `changed` guards the scheduler and is notified when there is work or an end to it."""

    def __init__(
        self,
        make_engine: Callable[[], Engine],
        scheduler: Scheduler,
        changed: threading.Condition,
        deliver: Callable[[list[Outcome]], None],
        *,
        lanes: int,
        budget: int,
    ) -> None:
        super().__init__(name="engine", daemon=True)
        self._make_engine, self._scheduler, self._changed, self._deliver = make_engine, scheduler, changed, deliver
        self._lanes, self._budget = lanes, budget
        self._engine = make_engine()
        self._held: set[Sequence] = set()
        self._stopping = False

    def stop(self) -> None:
        with self._changed:
            self._stopping = True
            self._changed.notify_all()

    def run(self) -> None:
        try:
            while self._refill():
                try:
                    self._advance()
                except Exception:
                    log.exception("the engine failed and is replaced", extra={"sequences": len(self._held)})
                    # before it is replaced, which may fail as well
                    self._deliver([Outcome(sequence, EngineFailed("the engine failed")) for sequence in self._held])
                    self._held.clear()
                    self._engine = self._make_engine()
        except Exception:
            log.critical("an engine thread has ended: the service is neither ready nor live", exc_info=True)

    def _refill(self) -> bool:
        """Fills the free lanes; waits while there is nothing to do. False: stop."""
        with self._changed:
            while not (self._stopping or self._held or self._scheduler.sequences):
                self._changed.wait()
            if self._stopping:
                return False
            taken = self._scheduler.take(self._lanes - len(self._held), time.monotonic())
        outcomes = [overdue(sequence) for sequence in taken.overdue]
        for sequence in taken.ready:
            try:
                self._engine.start(sequence)
            except Exception as error:
                outcomes.append(Outcome(sequence, error))
            else:
                self._held.add(sequence)
        self._deliver(outcomes)
        return True

    def _advance(self) -> None:
        """One step; then frees the lanes of sequences whose caller left or whose deadline passed."""
        began = time.monotonic()
        outcomes = self._engine.step(self._budget)
        now = time.monotonic()
        with self._changed:
            self._scheduler.drained(sum(len(outcome.sequence.token_ids) for outcome in outcomes), now - began)
        self._held.difference_update(outcome.sequence for outcome in outcomes)
        self._deliver(outcomes)
        for sequence in [each for each in self._held if each.gone or each.deadline <= now]:
            self._engine.cancel(sequence)
            self._held.remove(sequence)
            self._deliver([overdue(sequence)])


def overdue(sequence: Sequence) -> Outcome:
    return Outcome(sequence, DeadlineExceeded())
