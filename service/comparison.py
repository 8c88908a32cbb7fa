"""What changes for those who ask when one version takes another's place: the labels that flip."""

from collections.abc import Awaitable, Callable
from typing import NamedTuple

from service.repository import Model
from service.verdict import verdicts

Compute = Callable[[Model, list[list[int]]], Awaitable[list[list[float]]]]


class Flip(NamedTuple):
    """A golden text to which the two versions give different labels."""

    text: str
    before: str
    after: str


class Comparison(NamedTuple):
    """How many inputs both versions judged, and what became of them."""

    golden: int
    golden_flips: list[Flip]
    served: int
    served_flips: int


async def compare(before: Model, after: Model, served: list[list[int]], compute: Compute) -> Comparison:
    """Judges the golden texts of both versions, and `served` token sequences, by both.

    An input that one of them does not take (too long, no token, no tokenizer) is left out.
    """
    cases = [case.text for model in (after, before) for case in model.golden if case.text is not None]
    texts = list(dict.fromkeys(cases))
    pairs = zip(texts, _encode(before, texts), _encode(after, texts), strict=True)
    judged = [(text, old, new) for text, old, new in pairs if _takes(before, old) and _takes(after, new)]
    was = await _labels(before, [old for _, old, _ in judged], compute)
    now = await _labels(after, [new for _, _, new in judged], compute)
    flips = [Flip(text, old, new) for (text, _, _), old, new in zip(judged, was, now, strict=True) if old != new]
    common = [tokens for tokens in served if _takes(before, tokens) and _takes(after, tokens)]
    was, now = await _labels(before, common, compute), await _labels(after, common, compute)
    return Comparison(len(judged), flips, len(common), sum(old != new for old, new in zip(was, now, strict=True)))


def _encode(model: Model, texts: list[str]) -> list[list[int]]:
    return model.tokenizer.encode(texts) if model.tokenizer else [[] for _ in texts]


def _takes(model: Model, token_ids: list[int]) -> bool:
    return 0 < len(token_ids) <= model.config.max_length and max(token_ids) < model.config.vocab_size


async def _labels(model: Model, token_ids: list[list[int]], compute: Compute) -> list[str]:
    return [verdict.label for verdict in verdicts(await compute(model, token_ids), model.config)]
