"""What each token contributes to a label: occlusion (Zeiler and Fergus 2014; Li et al. 2016).

The contribution of a token is the change of the winning label's logit when it is left out: positive speaks for the
label.
"""

import math
from collections.abc import Awaitable, Callable

from models.config import ModelConfig
from service.texts import Encoded
from service.verdict import winning_logits

SETTING = "LSTMSERVE_EXPLAIN_TOKENS"

Compute = Callable[[list[list[int]]], Awaitable[list[list[float]]]]


def variants(token_ids: list[int]) -> list[list[int]]:
    """The sequence without each of its tokens in turn."""
    return [token_ids[:left_out] + token_ids[left_out + 1 :] for left_out in range(len(token_ids))]


async def contributions(
    encoded: Encoded, logits: list[float], winner: int, config: ModelConfig, compute: Compute
) -> list[float]:
    """Of each kept token of a text of at least two, given its logits and the index of its label."""
    without = await compute(variants(encoded.token_ids))
    (whole,) = winning_logits([logits], winner, config)
    return [whole - left for left in winning_logits(without, winner, config)]


class Budget:
    """The tokens that the explanations of one request may yet compute: each text's tokens, squared."""

    def __init__(self, tokens: int) -> None:
        self._most = self._left = tokens

    def refuses(self, encoded: Encoded) -> str:
        """Why a text is not explained; empty, and what it costs is taken, where it is."""
        kept = len(encoded.token_ids)
        if kept == 1:
            return "the text has one token: nothing is left without it"
        if kept**2 > self._most:
            most = math.isqrt(self._most)
            return f"the text has {kept} tokens; up to {most} are explained ({SETTING} is the square of that)"
        if kept**2 > self._left:
            return (
                f"with this text the request's explanations pass the limit of {self._most} ({SETTING}: the tokens of "
                "each text squared, summed): ask for it in another request"
            )
        self._left -= kept**2
        return ""
