"""A text classifier: token embedding, LSTM, linear output."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn


class EmbeddingLstm(nn.Module):
    """Embeds tokens, runs an LSTM over them and classifies its last hidden state.

    Token ids (int64) [N, length] in, logits [N, num_classes] out.
    """

    first_layers: ClassVar[tuple[str, ...]] = ("embedding.weight",)

    def __init__(
        self,
        *,
        vocabulary: int = 10_000,
        dim: int = 64,
        hidden: int = 128,
        levels: int = 1,
        num_classes: int = 2,
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, dim)
        self.lstm = nn.LSTM(dim, hidden, num_layers=levels, batch_first=True)
        self.fc = nn.Linear(hidden, num_classes)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Logits [N, num_classes] of token ids [N, length]."""
        outputs, _ = self.lstm(self.embedding(tokens))
        logits: torch.Tensor = self.fc(outputs[:, -1])
        return logits
