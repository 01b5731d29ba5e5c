"""Mixtures of experts as people write them, for specs that map nothing."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn
from torch.nn import functional as F

SPEC = """
mesh    [dp: local, sp]
input   idx      [batch@dp, seq@sp]
input   targets  [batch@dp, seq@sp]
"""
EXPERTS, CHOSEN, WIDTH = 4, 2, 16


@torch.library.custom_op("autosp_tests::grouped", mutates_args=())
def grouped(x: torch.Tensor, weight: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    """Rows in order of their group, each group times its own matrix; `ends` are where groups end."""
    starts = [0, *ends.tolist()[:-1]]
    return torch.cat([x[a:b] @ w for a, b, w in zip(starts, ends.tolist(), weight, strict=True)])


@torch.library.custom_op("autosp_tests::grouped_backward", mutates_args=())
def grouped_backward(
    grad: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, ends: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    cuts = list(zip([0, *ends.tolist()[:-1]], ends.tolist(), strict=True))
    to_x = torch.cat([grad[a:b] @ w.T for (a, b), w in zip(cuts, weight, strict=True)])
    return to_x, torch.stack([x[a:b].T @ grad[a:b] for a, b in cuts])


grouped.register_fake(lambda x, weight, ends: x.new_empty(x.shape[0], weight.shape[2]))
grouped_backward.register_fake(lambda grad, x, weight, ends: (torch.empty_like(x), torch.empty_like(weight)))
grouped.register_autograd(
    lambda ctx, grad: (*torch.ops.autosp_tests.grouped_backward(grad.contiguous(), *ctx.saved_tensors), None),
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs),
)


@torch.library.custom_op("autosp_tests::checked", mutates_args=())
def checked(x: torch.Tensor) -> torch.Tensor:
    """Fails on what no model of this file gives it: random numbers are larger."""
    if x.abs().max() > 1:
        raise ValueError("values from -1 to 1 are wanted")
    return x.clone()


checked.register_fake(torch.empty_like)
checked.register_autograd(lambda ctx, grad: grad)


class Experts(nn.Module):
    """Each token's experts: rows sorted by expert, multiplied, put back, weighted and summed."""

    def __init__(self, width: int = WIDTH):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(EXPERTS, width, width) * 0.3)

    def kept(self, chosen: torch.Tensor) -> torch.Tensor | None:
        """Which of the rows, sorted by expert, an expert takes; all of them where it is None."""
        return None

    def forward(self, x, index, weights):
        chosen, order = index.flatten().sort()
        ends = torch.histc(chosen.float(), EXPERTS, 0, EXPERTS - 1).cumsum(0).int()
        y = grouped(x[order // CHOSEN], self.weight, ends)
        if (kept := self.kept(chosen)) is not None:
            y = y * kept[:, None]
        return (y[order.argsort()].unflatten(0, (-1, CHOSEN)) * weights[..., None]).sum(1)


class Limited(Experts):
    """An expert takes so many tokens; which ones a token competes with, it depends on."""

    limit = 20

    def kept(self, chosen):
        before = F.one_hot(chosen, EXPERTS).cumsum(0)
        return (before.gather(1, chosen[:, None])[:, 0] <= self.limit).to(self.weight.dtype)


class Checked(Experts):
    """Experts with an operator that does not run on random values."""

    def forward(self, x, index, weights):
        return super().forward(checked(x.tanh()), index, checked(weights))


class Sharpened(torch.autograd.Function):
    """Weights as they are, with a gradient of their own, as sparse mixers estimate the router's."""

    @staticmethod
    def forward(ctx, weights, scores):
        ctx.save_for_backward(scores)
        return weights * 1.0

    @staticmethod
    def backward(ctx, grad):
        (scores,) = ctx.saved_tensors
        return grad * scores.amax(-1, keepdim=True), None


class AddLoss(torch.autograd.Function):
    """A value, to whose gradient a loss is added that nobody else sees."""

    @staticmethod
    def forward(ctx, x, loss):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad):
        return grad, grad.new_ones(())


class AddsItsLoss(Experts):
    """Experts with their router, and a balance that is small beside the model's loss: it is over all tokens."""

    def __init__(self, width: int = 128):
        super().__init__(width)
        self.router = nn.Linear(width, EXPERTS)

    def forward(self, x):
        scores = self.router(x).softmax(-1)
        weights, index = scores.topk(CHOSEN)
        share = F.one_hot(index, EXPERTS).float().sum(1).mean(0)
        return AddLoss.apply(super().forward(x, index, weights), 1e-4 * (share * scores.mean(0)).sum())


class CountsATokenInside(Experts):
    """Experts that weigh all positions by how many of them are one token."""

    def forward(self, x, index, weights, ids):
        return super().forward(x, index, weights) * (1 + (ids == 7).float().mean())


class Inside(nn.Module):
    """Experts and what they do with the whole batch, in one module."""

    def __init__(self, counts: bool, width: int = 128):
        super().__init__()
        self.embed, self.head, self.counts = nn.Embedding(64, width), nn.Linear(width, 64), counts
        if counts:
            self.router, self.mixture = nn.Linear(width, EXPERTS), CountsATokenInside(width)
        else:
            self.mixture = AddsItsLoss(width)

    def forward(self, idx, targets):
        x = self.embed(idx)
        rows, more = x.flatten(0, 1), ()
        if self.counts:
            weights, index = self.router(rows).softmax(-1).topk(CHOSEN)
            more = index, weights, idx.flatten()
        y = self.mixture(rows, *more).view_as(x)
        return F.cross_entropy(self.head(x + y).flatten(0, 1), targets.flatten())


class Mixture(nn.Module):
    """A router, and experts. `balance` is the loss that keeps them equally busy, over all tokens."""

    def __init__(self, experts: nn.Module, width: int = WIDTH):
        super().__init__()
        self.router, self.experts = nn.Linear(width, EXPERTS), experts

    def forward(self, x):
        scores = self.router(x.flatten(0, 1)).softmax(-1)
        weights, index = scores.topk(CHOSEN)
        share = F.one_hot(index, EXPERTS).float().sum(1).mean(0)
        return self.experts(x.flatten(0, 1), index, weights).view_as(x), (share * scores.mean(0)).sum()


class Net(nn.Module):
    """Embedding, causal attention, a mixture, head, loss."""

    def __init__(self, experts: type[nn.Module] = Experts, width: int = WIDTH):
        super().__init__()
        self.embed, self.head = nn.Embedding(64, width), nn.Linear(width, 64)
        self.qkv, self.mixture = nn.Linear(width, 3 * width), Mixture(experts(width), width)

    def forward(self, idx, targets):
        x = self.embed(idx)
        q, k, v = (y.unflatten(-1, (4, -1)).transpose(1, 2) for y in self.qkv(x).chunk(3, -1))
        x = x + F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
        y, balance = self.mixture(x)
        return F.cross_entropy(self.head(x + y).flatten(0, 1), targets.flatten()) + 0.1 * balance


class CalledTwice(Mixture):
    """Experts that are called on their own result: their operators do not stand together."""

    def forward(self, x):
        first, balance = super().forward(x)
        second, _ = super().forward(first)
        return second, balance


class OwnBackward(Mixture):
    """A router whose weights have a backward of their own: the batch and the length are one dim in it."""

    def forward(self, x):
        scores = self.router(x.flatten(0, 1)).softmax(-1)
        weights, index = scores.topk(CHOSEN)
        return self.experts(x.flatten(0, 1), index, Sharpened.apply(weights, scores)).view_as(x), scores.mean()


class Unlimited(Limited):
    """A limit that none of the tests' sequences reaches."""

    limit = 1000


OWN = {"Dropless": Experts, "DropsSome": Limited, "Unproved": Checked}


def twice() -> nn.Module:
    """A net whose experts are called on their own result."""
    model = Net()
    model.mixture = CalledTwice(Experts())
    return model


def sparse() -> nn.Module:
    """A net whose router has a backward of its own."""
    model = Net()
    model.mixture = OwnBackward(Experts())
    return model


OTHERS = {"Twice": twice, "Sparse": sparse}


def __getattr__(name: str):
    """`tests.execute.experts:Dropless` is a factory, as `--model` takes one."""
    if name in OWN:
        return partial(Net, OWN[name])
    if name in OTHERS:
        return OTHERS[name]
    raise AttributeError(name)
