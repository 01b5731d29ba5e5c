"""A decoder of one layer that compiles in a second, and the same training by plain eager PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

VOCAB, HIDDEN, HEADS = 64, 32, 4
RATE = 0.5


class Out(NamedTuple):
    loss: torch.Tensor | None
    logits: torch.Tensor | None


class Tiny(nn.Module):
    """Causal attention, a mask over keys where one is given, and a shifted mean cross-entropy."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(VOCAB, HIDDEN)
        self.norm = nn.LayerNorm(HIDDEN)
        self.qkv = nn.Linear(HIDDEN, 3 * HIDDEN)
        self.out = nn.Linear(HIDDEN, HIDDEN)
        self.head = nn.Linear(HIDDEN, VOCAB, bias=False)

    def forward(self, input_ids, labels=None, attention_mask=None):
        x = self.embed(input_ids)
        x = x + self.attend(self.norm(x), attention_mask)
        logits = self.head(x)
        return Out(self.loss(logits, labels) if labels is not None else None, logits)

    def attend(self, x, attention_mask):
        batch, length, _ = x.shape
        q, k, v = (t.view(batch, length, HEADS, -1).transpose(1, 2) for t in self.qkv(x).chunk(3, dim=-1))
        mask = torch.ones(length, length, dtype=torch.bool, device=x.device).tril()
        if attention_mask is not None:
            mask = mask & attention_mask[:, None, None, :].bool()
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.out(y.transpose(1, 2).reshape(batch, length, HIDDEN))

    def loss(self, logits, labels):
        shifted = F.pad(labels, (0, 1), value=-100)[:, 1:]
        return F.cross_entropy(logits.flatten(0, 1), shifted.flatten())


class Renamed(Tiny):
    """The same with inputs that no spec names."""

    def forward(self, tokens, targets):
        return super().forward(tokens, targets)


def batch(step: int = 0, length: int = 32, rows: int = 2, dp_rank: int = 0) -> dict[str, torch.Tensor]:
    """What the ranks of one sp group are all given."""
    generator = torch.Generator().manual_seed(1 + step + 100 * dp_rank)
    ids = torch.randint(VOCAB, (rows, length), generator=generator)
    return {"input_ids": ids, "labels": ids.clone()}


def train(model: nn.Module, batches: Sequence[dict], call: Callable | None = None, accumulate: int = 1) -> list[float]:
    """SGD over the batches, `accumulate` of them a step; the losses."""
    call = call or model
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    losses = []
    for i, each in enumerate(batches):
        loss = call(**each).loss
        (loss / accumulate).backward()
        losses.append(float(loss.detach()))
        if (i + 1) % accumulate == 0:
            optimizer.step()
            optimizer.zero_grad()
    return losses
