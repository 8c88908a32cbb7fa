"""Golden cases: inputs with the logits that every engine must reproduce before a version may serve."""

import numpy as np

from models.artifact import GoldenCase
from models.network import SequenceClassifier
from models.tokenizer import Tokenizer

SENTENCES = (
    "Wonderful!",
    "I want my two hours back.",
    "What is the capital of the smallest country in the world?",
    "It is not good, not even close to good, and the ending makes it worse.",
    "A quiet, patient story about two sisters and a lighthouse; I left smiling and called my own sister.",
    "The first half drags, the jokes fall flat and the songs are too long, yet somewhere after the storm it finds its "
    "feet, the actors start to trust each other, and by the last scene I had forgiven every minute of it.",
)
"""Our own, of lengths from two tokens to a few dozen."""

LENGTHS = (1, 2, 7, 33, 150)
"""Lengths of the cases of drawn token ids: the whole vocabulary is reached, whatever the sentences hold."""


def golden_cases(network: SequenceClassifier, tokenizer: Tokenizer | None) -> list[GoldenCase]:
    """Cases of `network`, run one by one in float32 on the CPU: the sentences, then drawn token ids."""
    config = network.config
    draw = np.random.default_rng(0)
    ids = np.delete(np.arange(config.vocab_size), config.pad_id)
    if not len(ids):
        raise ValueError("a vocabulary of the pad alone has no sequence to serve")
    drawn = [draw.choice(ids, min(length, config.max_length)).tolist() for length in LENGTHS]
    texts = list(SENTENCES) if tokenizer else []
    spoken = [tokens[: config.max_length] for tokens in tokenizer.encode(texts)] if tokenizer else []
    inputs: list[tuple[str | None, list[int]]]
    inputs = [(text, tokens) for text, tokens in zip(texts, spoken, strict=True) if tokens]
    inputs += [(None, tokens) for tokens in drawn]
    reference = SequenceClassifier.from_weights(config, network.weights())
    return [
        GoldenCase(text=text, token_ids=tokens, logits=reference.predict([tokens])[0].tolist())
        for text, tokens in inputs
    ]
