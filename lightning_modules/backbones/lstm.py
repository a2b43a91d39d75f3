"""A recurrent network for sequences of tokens: characters, words, codes (the models of LEAF, arXiv 1812.01097)."""

from __future__ import annotations

import torch
from jaxtyping import Float32, Int64
from torch import Tensor, nn


class LSTM(nn.Module):
    """Embedding, LSTM layers, and a head on the state after a sequence's last token."""

    def __init__(
        self, vocabulary: int, num_classes: int, *, embedding: int, hidden: int, layers: int, padding: int | None
    ) -> None:
        super().__init__()
        self.padding = padding
        self.embedding = nn.Embedding(vocabulary, embedding)
        self.lstm = nn.LSTM(embedding, hidden, layers, batch_first=True)
        self.head = nn.Linear(hidden, num_classes)

    def forward(self, tokens: Int64[Tensor, "batch time"]) -> Float32[Tensor, "batch classes"]:
        states, _ = self.lstm(self.embedding(tokens))
        if self.padding is None:
            last = states[:, -1]
        else:  # a state depends on nothing that follows: what the padding does to later states is not read
            ends = (tokens != self.padding).sum(1).clamp(min=1) - 1
            last = torch.take_along_dim(states, ends.view(-1, 1, 1), dim=1).squeeze(1)
        logits: Tensor = self.head(last)
        return logits


def lstm(
    num_classes: int,
    vocabulary: int | None = None,
    padding: int | None = None,
    embedding: int = 8,
    hidden: int = 128,
    layers: int = 1,
) -> nn.Module:
    """Tokens 0 to `vocabulary` − 1; `padding` is the one that fills sequences up at their end, None where none does.

    Raises:
        ValueError: the data are no sequences of tokens, so that there is no vocabulary.
    """
    if vocabulary is None:
        raise ValueError("lstm reads sequences of whole numbers x [n, time], which these data are not")
    return LSTM(vocabulary, num_classes, embedding=embedding, hidden=hidden, layers=layers, padding=padding)
