"""Virtual adversarial training: a network should say the same of a text that is moved a little, however it is moved."""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

from models.network import SequenceClassifier

PROBE = 0.02
"""Size of the move by which the worst direction is found."""


def virtual_adversarial_loss(network: SequenceClassifier, token_ids: Tensor, size: float) -> Tensor:
    """How far a network's scores go, in nats, when a text is moved where that changes them most (Miyato et al. 2017).

    `token_ids` ``[batch, length]``, all of them full. The move of a text, over all its embedded tokens, has the norm of
    `size` tokens: measured by the embedding's own norms, since a network that made those larger would feel it less. One
    step of the power method finds its direction. Dropout is off; what the network says of the text is no part of the
    gradient.
    """
    lengths = torch.full((len(token_ids),), token_ids.shape[1])
    with _without_dropout(network):
        with torch.no_grad():
            said = functional.log_softmax(network(token_ids, lengths).float(), dim=1)
            embedded = network.embedding(token_ids).float()
            norm = embedded.norm(dim=2).mean()
        probe = (PROBE * norm * _unit(torch.randn_like(embedded))).requires_grad_()
        (steepest,) = torch.autograd.grad(_divergence(network, token_ids, lengths, probe, said), probe)
        return _divergence(network, token_ids, lengths, size * norm * _unit(steepest.float()), said)


def _divergence(network: SequenceClassifier, token_ids: Tensor, lengths: Tensor, moved: Tensor, said: Tensor) -> Tensor:
    now = functional.log_softmax(network(token_ids, lengths, moved).float(), dim=1)
    return functional.kl_div(now, said, log_target=True, reduction="batchmean")


def _unit(move: Tensor) -> Tensor:
    """Of norm 1 over each text."""
    norm: Tensor = move.flatten(1).norm(dim=1).clamp(min=1e-20)
    return move / norm[:, None, None]


@contextlib.contextmanager
def _without_dropout(network: SequenceClassifier) -> Iterator[None]:
    """In training mode otherwise: the fused kernel is for that alone."""
    rates = network.dropout.p, network.rnn.dropout
    network.dropout.p, network.rnn.dropout = 0.0, 0.0
    try:
        yield
    finally:
        network.dropout.p, network.rnn.dropout = rates
