"""The torch engine: packed sequences through ``nn.LSTM/GRU/RNN``, on CPU or GPU; any configuration."""

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Hashable, Mapping
from types import MappingProxyType

import torch

from models.artifact import Artifact
from models.network import SequenceClassifier
from service.engine import Pulse, Work
from service.engine.bell import Bell
from service.errors import BackendError, DeadlineExceeded, EngineFailed, EngineLost
from service.sequence import Outcome, Sequence

log = logging.getLogger(__name__)

BATCH_SECONDS = 10.0
"""More than any batch takes."""

PAUSE_SECONDS = 0.01
"""Between a thread's failure and its new beginning: a cause that stays must not take a whole core."""


def cuda_available() -> bool:
    return torch.cuda.is_available()


class _Hand:
    """What one thread holds of the queue, until it has ended; guarded as the queue is, but for its pulse."""

    def __init__(self) -> None:
        self.batch: list[Sequence] = []
        self.batches = 0
        """Batches that it has ended."""

    @property
    def pulse(self) -> Pulse:
        return Pulse(self.batches, bool(self.batch))


class PackedEngine:
    """Computes whole sequences: a thread takes a batch of the oldest that were started and runs it to the end.

    A batch takes as many steps as its longest sequence has tokens, and its lane steps are the tokens of all of them,
    whatever the model's layers and directions.
    """

    name = "packed"
    precisions: Mapping[str, str] = MappingProxyType({"float32": "torch"})

    def __init__(self, device: str, threads: int, lanes: int, budget: int) -> None:
        """`threads` that each run batches of at most `budget` tokens; room for two batches of `lanes` each."""
        _prepare()
        self.device, self.threads, self._budget = device, threads, budget
        self._places = 2 * lanes * threads
        self._taken = 0
        self._bell = Bell()
        # it guards what follows
        self._changed = threading.Condition()
        self._queue: deque[Sequence] = deque()
        self._wanted: set[Sequence] = set()
        self._ended: list[Outcome] = []
        self._closing = False
        self._work = Work(0, 0)
        self._failures = 0
        self._hands = [_Hand() for _ in range(threads)]
        self._threads: list[threading.Thread] = []
        try:
            for hand in self._hands:
                thread = threading.Thread(target=self._run, args=(hand,), name="engine", daemon=True)
                thread.start()
                self._threads.append(thread)
        except RuntimeError as error:  # no more threads: those that run must end
            self.close()
            raise BackendError(
                f"{threads} engine threads cannot be started ({error}): set fewer (LSTMSERVE_THREADS)"
            ) from error

    @property
    def work(self) -> Work:
        return self._work

    @property
    def pulses(self) -> list[Pulse]:
        return [hand.pulse for hand in self._hands]

    @property
    def failures(self) -> int:
        return self._failures

    def load(self, artifact: Artifact, precision: str, replaces: Hashable | None = None) -> SequenceClassifier:
        """The version's network on the device, read-only, shared by all threads."""
        return SequenceClassifier.from_weights(artifact.config, artifact.weights).to(self.device)

    @property
    def room(self) -> int:
        return self._places - self._taken

    def start(self, sequence: Sequence) -> None:
        self._taken += 1
        with self._changed:
            self._queue.append(sequence)
            self._wanted.add(sequence)
            self._changed.notify()

    def cancel(self, sequence: Sequence) -> None:
        with self._changed:
            self._wanted.remove(sequence)

    def fileno(self) -> int:
        return self._bell.fileno()

    def collect(self) -> list[Outcome]:
        self._bell.silence()
        if not all(thread.is_alive() for thread in self._threads):
            raise RuntimeError("an engine thread has ended, and what it held with it")
        with self._changed:
            ended, self._ended = self._ended, []
            outcomes = [outcome for outcome in ended if outcome.sequence in self._wanted]
            self._wanted.difference_update([outcome.sequence for outcome in outcomes])
        self._taken -= len(ended)
        return outcomes

    def close(self) -> bool:
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        end = time.monotonic() + BATCH_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))
        stuck = any(thread.is_alive() for thread in self._threads)
        if not stuck:  # it would ring
            self._bell.close()
        return not stuck

    def _run(self, hand: _Hand) -> None:
        failed = False
        while not self._closing:
            try:
                if failed:
                    self._lose(hand)
                    failed = False
                self._serve(hand)
            except BaseException:  # whatever it is, the thread begins anew
                log.exception("an engine thread failed: what it held ends with an error, and it begins anew")
                failed = True
                with self._changed:
                    self._failures += 1
                time.sleep(PAUSE_SECONDS)

    def _serve(self, hand: _Hand) -> None:
        """Runs batches until it closes."""
        while self._take(hand):
            now = time.monotonic()
            due, outcomes = [], []
            with self._changed:
                for sequence in hand.batch:
                    sequence.started = now
                    if sequence in self._wanted and sequence.deadline > now:
                        due.append(sequence)
                    else:
                        outcomes.append(Outcome(sequence, DeadlineExceeded()))
            outcomes += _compute(due)
            lengths = [len(sequence.token_ids) for sequence in due]
            with self._changed:
                self._end(hand, outcomes)
                self._work = Work(self._work.steps + max(lengths, default=0), self._work.lane_steps + sum(lengths))
            self._bell.ring()

    def _take(self, hand: _Hand) -> bool:
        """Waits for the oldest sequences of one version, of at most `budget` tokens together, and holds them.

        At least one, and no more than this thread's share, for the others are idle or soon will be. False: it closes.
        """
        with self._changed:
            while not (self._queue or self._closing):
                self._changed.wait()
            if self._closing:
                return False
            share = math.ceil(len(self._queue) / self.threads)
            tokens = 0
            while self._queue and len(hand.batch) < share:
                first = self._queue[0]
                tokens += len(first.token_ids)
                if hand.batch and (tokens > self._budget or first.weights is not hand.batch[0].weights):
                    break
                hand.batch.append(first)
                self._queue.popleft()
            return True

    def _end(self, hand: _Hand, outcomes: list[Outcome]) -> None:
        """All that the thread holds has come to its end."""
        self._ended += outcomes
        hand.batch.clear()
        hand.batches += 1

    def _lose(self, hand: _Hand) -> None:
        """Ends what the thread held when it failed; what had ended then may not have been rung for."""
        with self._changed:
            self._end(hand, [Outcome(sequence, EngineLost()) for sequence in hand.batch])
        self._bell.ring()


def _prepare() -> None:
    """Sets torch up for engine threads of one core each.

    torch's own threads would be made anew for every engine thread and all contend for the same cores.
    """
    torch.set_num_threads(1)
    # full float32 products: a GPU's TF32 would break the golden cases
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


def _compute(batch: list[Sequence]) -> list[Outcome]:
    """The outcomes of sequences of one version; one that cannot be computed fails alone."""
    if not batch:
        return []
    try:
        network = batch[0].weights
        assert isinstance(network, SequenceClassifier)
        logits = network.predict([sequence.token_ids for sequence in batch])
        finite = (logits - logits == 0).all(axis=1)
        return [
            Outcome(sequence, row if whole else EngineFailed("the model's logits are not finite"))
            for sequence, row, whole in zip(batch, logits.tolist(), finite.tolist(), strict=True)
        ]
    except Exception as error:
        if len(batch) == 1:
            return [Outcome(batch[0], error)]
        return [outcome for sequence in batch for outcome in _compute([sequence])]
