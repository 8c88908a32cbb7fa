"""A language model in both directions around a classifier's embedding and recurrent layers, which it trains.

The direction that reads forward foretells the next token, the other one the one before (Peters et al. 2018); the
softmax's weights are the embedding's (Press & Wolf 2017).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.network import SequenceClassifier


class LanguageModel(nn.Module):
    """Shares `network`'s embedding and recurrent layers.

    `counts` ``[vocab_size]`` are the tokens' occurrences in the texts: wrong tokens are drawn by their power of 0.75
    (Mikolov et al. 2013), and each counts by one over how often it is expected to be drawn (importance sampling of the
    softmax's sum, Bengio & Senecal 2003).
    """

    log_expected: Tensor

    def __init__(self, network: SequenceClassifier, counts: Tensor, negatives: int, weight_drop: float) -> None:
        super().__init__()
        config = network.config
        self.embedding, self.rnn = network.embedding, network.rnn
        self.rate, self.weight_drop, self.negatives = config.dropout, weight_drop, negatives
        self.size = config.state_size
        self.project = nn.ModuleList(
            nn.Linear(config.state_size, config.embedding_dim) for _ in range(config.num_directions)
        )
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))
        drawn = counts.double().clamp(min=1) ** 0.75
        self.register_buffer("log_expected", (drawn / drawn.sum() * negatives).log().float(), persistent=False)

    def forward(self, tokens: Tensor) -> list[tuple[Tensor, Tensor]]:
        """For each direction what it expects ``[batch * (length - 1), embedding_dim]``, and what came, int64.

        `tokens` ``[batch, length]``: windows of texts, all of them full.
        """
        embedded = self._locked(self.embedding(tokens))
        weights = {
            name: functional.dropout(weight, self.weight_drop, self.training) if "weight_hh" in name else weight
            for name, weight in self.rnn.named_parameters()
        }
        output = self._locked(torch.func.functional_call(self.rnn, weights, (embedded,))[0])
        sides = [(output[:, :-1, : self.size], tokens[:, 1:]), (output[:, 1:, self.size :], tokens[:, :-1])]
        return [
            (project(seen).flatten(0, 1), came.flatten())
            for project, (seen, came) in zip(self.project, sides, strict=False)
        ]

    def sampled_loss(self, tokens: Tensor, generator: torch.Generator) -> Tensor:
        """Mean over directions and tokens, in nats, against `negatives` wrong tokens that all share.

        `generator` draws them: one that is seeded alike draws the same, whatever else has been drawn.
        """
        drawn = torch.multinomial(self.log_expected.exp(), self.negatives, replacement=True, generator=generator)
        others, counts = drawn.unique(return_counts=True)  # type: ignore[no-untyped-call]
        weight = self.embedding.weight
        offset = self.bias[others] + counts.log() - self.log_expected[others]
        column = torch.full_like(self.log_expected, -1, dtype=torch.int64)
        column[others] = torch.arange(len(others), device=others.device)
        losses = []
        for expected, came in self(tokens):
            right = (expected.float() * weight[came]).sum(dim=1) + self.bias[came]
            wrong = functional.linear(expected, weight[others], offset)
            among = column[came]
            (rows,) = torch.nonzero(among >= 0, as_tuple=True)
            wrong[rows, among[rows]] = -torch.inf  # it is no wrong answer to itself
            logits = torch.cat([right[:, None].to(wrong.dtype), wrong], dim=1)
            losses.append(functional.cross_entropy(logits.float(), torch.zeros_like(came)))
        return torch.stack(losses).mean()

    def loss(self, tokens: Tensor) -> Tensor:
        """The same against the whole vocabulary: the logarithm of the perplexity."""
        losses = [
            functional.cross_entropy((expected @ self.embedding.weight.t() + self.bias).float(), came)
            for expected, came in self(tokens)
        ]
        return torch.stack(losses).mean()

    def _locked(self, values: Tensor) -> Tensor:
        """Variational dropout: what is dropped of a sequence is dropped at all its tokens (Gal & Ghahramani 2016)."""
        if not self.training or not self.rate:
            return values
        kept = torch.rand(values.shape[0], 1, values.shape[2], device=values.device) >= self.rate
        return values * (kept / (1 - self.rate)).to(values.dtype)
