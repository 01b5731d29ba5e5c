"""Custom operators and models that use them, for the tests of rules of one's own."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F


@torch.library.custom_op("own_ops::soft_cap", mutates_args=())
def soft_cap(x: torch.Tensor, cap: float) -> torch.Tensor:
    return cap * torch.tanh(x / cap)


@soft_cap.register_fake
def _(x, cap):
    return torch.empty_like(x)


def _keep(ctx, inputs, output):
    ctx.save_for_backward(inputs[0])
    ctx.cap = inputs[1]


def _gradient(ctx, grad):
    (x,) = ctx.saved_tensors
    return grad * (1 - torch.tanh(x / ctx.cap) ** 2), None


soft_cap.register_autograd(_gradient, setup_context=_keep)


@torch.library.custom_op("own_ops::bump", mutates_args=())
def bump(x: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
    """One added to the rows `at`, which are numbers of rows."""
    return x.index_add(0, at, torch.ones(len(at), *x.shape[1:], dtype=x.dtype))


@bump.register_fake
def _(x, at):
    return torch.empty_like(x)


bump.register_autograd(lambda ctx, grad: (grad, None))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(100, 32)
        self.head = nn.Linear(32, 100)

    def forward(self, input_ids, labels):
        logits = soft_cap(self.head(self.embed(input_ids)), 30.0)
        return F.cross_entropy(logits.flatten(0, 1), labels.flatten())


class Distances(nn.Module):
    def __init__(self):
        super().__init__()
        self.points = nn.Linear(4, 4)

    def forward(self, x):
        return torch.ops.aten._cdist_forward(self.points(x), x, 2.0, None).sum()


def distances():
    return Distances(), {"x": torch.zeros(2, 3, 4)}


class Branching(nn.Module):
    def forward(self, input_ids, labels):
        if input_ids.sum() > 0:
            return labels.float().sum()
        return input_ids.float().sum()
