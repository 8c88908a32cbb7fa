"""Lengths of sequences, in tokens: as reviews have them, uniform, and short ones among long ones."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from models.config import ModelConfig

Lengths = npt.NDArray[np.int64]

LONGEST = 400
"""Tokens at which reviews are cut, as a service of them would."""

LONG = 1000
"""Tokens from which a sequence of the mix is a long one."""

# Quantiles, from 0 to 100 percent, of the token counts of the 25,000 training reviews of the Large Movie Review Dataset
# (Maas et al. 2011) under the shipped tokenizer.
REVIEW_QUANTILES = (
    *(11, 49, 56, 63, 69, 75, 81, 87, 93, 100, 105, 112, 116, 120, 124, 127, 130, 132, 134, 136),
    *(138, 140, 142, 143, 145, 146, 148, 150, 151, 153, 155, 157, 159, 161, 162, 164, 166, 168, 171, 173),
    *(175, 177, 180, 182, 185, 188, 190, 193, 196, 198, 201, 205, 208, 211, 215, 218, 222, 225, 229, 234),
    *(238, 242, 247, 252, 257, 262, 268, 274, 279, 285, 291, 298, 305, 312, 319, 327, 336, 346, 355, 364),
    *(374, 385, 396, 407, 421, 436, 451, 468, 486, 506, 528, 553, 579, 610, 648, 690, 742, 817, 910, 1042),
    2739,
)


def reviews(draw: np.random.Generator, count: int) -> Lengths:
    """`count` lengths as of IMDB reviews cut at `LONGEST`: 11 to 400, about 230 in the mean."""
    steps = np.linspace(0, 1, len(REVIEW_QUANTILES))
    return np.interp(draw.random(count), steps, REVIEW_QUANTILES).astype(np.int64).clip(max=LONGEST)


def uniform(draw: np.random.Generator, count: int) -> Lengths:
    """`count` lengths from 1 to `LONGEST`."""
    return draw.integers(1, LONGEST, count, endpoint=True)


def mixed(draw: np.random.Generator, count: int) -> Lengths:
    """Nine of ten from 10 to 20, every tenth from 1,000 to 2,000, in drawn order."""
    long = draw.permutation(count) < count // 10
    return np.where(long, draw.integers(LONG, 2000, count, endpoint=True), draw.integers(10, 20, count, endpoint=True))


def draw_sequences(
    config: ModelConfig, lengths: Callable[[np.random.Generator, int], Lengths], count: int
) -> list[list[int]]:
    """`count` sequences of token ids other than the pad, always the same ones."""
    draw = np.random.default_rng(0)
    ids = np.delete(np.arange(config.vocab_size), config.pad_id)
    return [draw.choice(ids, length).tolist() for length in lengths(draw, count)]
