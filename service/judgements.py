"""What the served versions read and say, for Prometheus: texts, unknown tokens, labels and confidence.

Answers are noted by a list's append and counted in bulk, when there are many or somebody looks: a label's counter for
each of them would cost as much as the reply.
"""

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator

import numpy as np
from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from models.scores import scores
from service.repository import Model, Repository
from service.texts import Encoded, TextError

BULK = 512
"""Answers of a version that are noted before they are counted."""

VERSIONS = 2
"""Of each model whose counts are kept at most: the one that serves, and the one before it."""

KEPT_SECONDS = 900.0
"""For which the last counts of a version that serves no more are kept: several scrapes of any scraper."""

CONFIDENCE = (0.1, 0.25, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)

OUTCOMES = ("read", "empty", "too_long", "unknown_only")
"""What becomes of a text."""


class _Tally:
    """The counts of one version."""

    def __init__(self, model: Model, seen: float) -> None:
        self.model = model.name
        self.version = str(model.version)
        self.digest = model.digest
        self.seen = seen
        """When it was last known to serve."""
        self.texts = dict.fromkeys(OUTCOMES, 0)
        self.tokens = self.unknown = self.truncated = 0
        self._config = model.config
        self._noted: list[list[float]] = []
        self._labels = np.zeros(len(model.config.labels), np.int64)
        self._confidence = np.zeros(len(CONFIDENCE) + 1, np.int64)
        self._confidence_sum = 0.0

    def read(self, texts: Iterable[Encoded | TextError]) -> None:
        for text in texts:
            if isinstance(text, TextError):
                self.texts[text.code] += 1
                continue
            self.texts["read"] += 1
            self.tokens += len(text.token_ids)
            self.unknown += text.unknown
            self.truncated += text.dropped > 0

    def note(self, logits: list[list[float]]) -> None:
        self._noted += logits
        if len(self._noted) >= BULK:
            self._count()

    def labels(self) -> dict[str, int]:
        self._count()
        return dict(zip(self._config.labels, self._labels.tolist(), strict=True))

    def confidence(self) -> tuple[list[tuple[str, int]], float]:
        """How many were at most as confident as each bound; and the sum of all."""
        self._count()
        bounds = [*map(str, CONFIDENCE), "+Inf"]
        return list(zip(bounds, np.cumsum(self._confidence).tolist(), strict=True)), self._confidence_sum

    def _count(self) -> None:
        if self._noted:
            rows = scores(np.array(self._noted), self._config)
            self._noted = []
            self._labels += np.bincount(rows.argmax(axis=1), minlength=rows.shape[1])
            highest = np.nan_to_num(rows.max(axis=1))  # one that is not a number would spoil the sum for ever
            self._confidence += np.bincount(np.searchsorted(CONFIDENCE, highest), minlength=len(self._confidence))
            self._confidence_sum += float(highest.sum())


class Judgements(Collector):
    """The counts of what serves, and for a while of what did; used on one event loop, without a lock."""

    def __init__(self, repository: Repository, clock: Callable[[], float] = time.monotonic) -> None:
        self._repository, self._clock = repository, clock
        self._tallies: dict[tuple[str, int], _Tally] = {}

    def read(self, model: Model, texts: Iterable[Encoded | TextError]) -> None:
        """Notes texts as the version has read them."""
        self._of(model).read(texts)

    def note(self, model: Model, logits: list[list[float]]) -> None:
        """Notes rows of logits that the version has answered."""
        self._of(model).note(logits)

    def collect(self) -> Iterator[Metric]:
        serving = GaugeMetricFamily(
            "lstmserve_model", "1 for each model version that serves.", labels=["model", "version", "precision"]
        )
        for model in self._repository:
            serving.add_metric([model.name, str(model.version), model.precision], 1)
            self._of(model)
        self._tidy()
        yield serving
        yield from _families(self._tallies.values())

    def _of(self, model: Model) -> _Tally:
        key = model.name, model.version
        tally = self._tallies.get(key)
        if tally is None or tally.digest != model.digest:
            if tally and all(
                model is not each for each in self._repository
            ):  # replaced under its own number: too late to count
                return _Tally(model, self._clock())
            tally = self._tallies[key] = _Tally(model, self._clock())
            self._tidy()
        return tally

    def _tidy(self) -> None:
        """Keeps those that have been seen lately, of each model the last few."""
        now = self._clock()
        for model in self._repository:
            if tally := self._tallies.get((model.name, model.version)):
                tally.seen = now
        tallies, of_model = self._tallies, Counter[str]()
        self._tallies = {}
        for key in sorted(tallies, key=lambda key: tallies[key].seen, reverse=True):
            of_model[key[0]] += 1
            if of_model[key[0]] <= VERSIONS and now - tallies[key].seen <= KEPT_SECONDS:
                self._tallies[key] = tallies[key]


def _families(tallies: Collection[_Tally]) -> Iterator[Metric]:
    version = ["model", "version"]
    texts = CounterMetricFamily("lstmserve_texts", "Texts by outcome.", labels=[*version, "outcome"])
    tokens = CounterMetricFamily("lstmserve_text_tokens", "Tokens that were read of texts.", labels=version)
    unknown = CounterMetricFamily(
        "lstmserve_unknown_tokens", "Tokens that were read of texts and are not in the vocabulary.", labels=version
    )
    truncated = CounterMetricFamily(
        "lstmserve_truncated_texts", "Texts of which a part was read (truncate).", labels=version
    )
    labels = CounterMetricFamily(
        "lstmserve_labels", "Answered sequences by their label of the highest score.", labels=[*version, "label"]
    )
    confidence = HistogramMetricFamily(
        "lstmserve_confidence", "Highest score of each answered sequence.", labels=version
    )
    for tally in tallies:
        names = [tally.model, tally.version]
        for outcome, count in tally.texts.items():
            texts.add_metric([*names, outcome], count)
        tokens.add_metric(names, tally.tokens)
        unknown.add_metric(names, tally.unknown)
        truncated.add_metric(names, tally.truncated)
        for label, count in tally.labels().items():
            labels.add_metric([*names, label], count)
        confidence.add_metric(names, *tally.confidence())
    yield from (texts, tokens, unknown, truncated, labels, confidence)
