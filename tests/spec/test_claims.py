"""`map` statements held against random data: a claim that is true, and each way in which it is not."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from autosp.spec import parse
from autosp.spec.claims import check_maps

SPEC = "mesh [sp]\ninput ids [batch, seq@sp]\nmap inner over seq\n"


class Experts(nn.Module):
    """Sorts tokens by expert, as a mixture does: no dim survives, and yet tokens do not mix."""

    def __init__(self):
        super().__init__()
        self.weights = nn.Parameter(torch.randn(2, 8, 8))
        self.dropout = nn.Dropout(0.5)

    def forward(self, x, index):
        out = torch.zeros_like(x)
        for expert in range(2):
            at = torch.where(index == expert)
            out[at] = x[at] @ self.weights[expert]
        return self.dropout(out)


class Mean(nn.Linear):
    def forward(self, x, index):
        return super().forward(x - x.mean(1, keepdim=True))


class Pooled(nn.Linear):
    def forward(self, x, index):
        return super().forward(x).sum(1)


class Square(nn.Linear):
    def forward(self, x, index):
        return super().forward(x) @ torch.ones(8, 16).to(x) @ x


class Batch(nn.BatchNorm1d):
    def forward(self, x, index):
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


class Weights(nn.Linear):
    def forward(self, x, index):
        return super().forward(self.weight)


class Net(nn.Module):
    def __init__(self, inner: nn.Module, fed: bool = True):
        super().__init__()
        self.embed, self.inner, self.fed = nn.Embedding(32, 8), inner, fed

    def forward(self, ids):
        x = self.embed(ids)
        return self.inner(x, ids % 2) if self.fed else self.inner(self.embed.weight, None)


def claim_of(make, spec: str = SPEC, fed: bool = True):
    with torch.device("meta"):
        net = Net(make(), fed)
    (claim,) = check_maps(parse(spec), net)
    return claim


def test_a_true_claim():
    claim = claim_of(Experts)
    assert (claim.path, claim.problem, claim.skipped) == ("inner", None, "")


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: Mean(8, 8), "positions along 'seq' mix in module 'inner': run in 2 shards on random data"),
        (lambda: Batch(8), "positions along 'seq' mix in module 'inner': run in 2 shards on random data"),
        (lambda: Pooled(8, 8), "module 'inner' gives a value of shape [1, 8], which does not grow with 'seq'"),
        (lambda: Square(8, 8), "module 'inner', cut in 2 shards along 'seq', does not run: RuntimeError: "),
    ],
    ids=["mean", "batch-norm", "pooled", "square"],
)
def test_a_claim_that_is_not_true(make, what: str):
    problem = claim_of(make).problem
    assert what in problem.what
    assert problem.where == "<spec>:3:5"
    assert problem.rule == "a mapped module gives a position the same whatever other positions are with it"
    assert "map a" in problem.fix


def test_a_module_that_never_sees_the_dim():
    problem = claim_of(lambda: Weights(8, 8), fed=False).problem
    assert problem.what == "no argument of module 'inner' has a dim that grows with 'seq'"


def test_what_could_not_be_told_is_said():
    assert claim_of(lambda: Mean(8, 1 << 27)).skipped == "its parameters are 4.5 GiB; name a smaller configuration"
    with torch.device("meta"):
        net = Net(Experts())
    net.forward = lambda ids: ids.float()
    (claim,) = check_maps(parse(SPEC), net)
    assert claim.skipped == "the model's forward does not call it"
