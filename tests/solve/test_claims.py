"""`map` statements held against random data: a claim that is true, and each way in which it is not."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from autosp.engine.claims import check_maps
from autosp.engine.planning import planned
from autosp.errors import PlanError
from autosp.spec import parse

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


class Limited(nn.Linear):
    """What comes after so many positions is dropped: on as few as that, nothing is."""

    def forward(self, x, index):
        before = torch.ones_like(index).cumsum(1)
        return super().forward(torch.where((before > 512)[..., None], 0.0, x))


class Cut(nn.Linear):
    """The limit is a constant of the module."""

    def __init__(self):
        super().__init__(8, 8)
        self.register_buffer("stored", torch.full((), 512))

    def limit(self):
        return torch.tensor(512)

    def forward(self, x, index):
        before = torch.ones_like(index).cumsum(1)
        return super().forward(torch.where((before > self.limit())[..., None], 0.0, x))


class Stored(Cut):
    """The limit is in a buffer."""

    def limit(self):
        return self.stored


class Room(nn.Linear):
    """The limit is a size."""

    def forward(self, x, index):
        room = torch.zeros(513, 8)
        before = torch.ones_like(index).cumsum(1).clamp(max=512)
        return super().forward(x) * (1 + room.index_add(0, before[0], x[0].detach())[before])


class Noise(nn.Linear):
    def forward(self, x, index):
        return super().forward(x) * torch.rand_like(x)


class Attention(nn.Linear):
    def forward(self, x, index):
        return nn.functional.scaled_dot_product_attention(super().forward(x), x, x, is_causal=True, dropout_p=0.1)


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


def claims_of(make, spec: str = SPEC, fed: bool = True):
    with torch.device("meta"):
        net = Net(make(), fed)
    return check_maps(parse(spec), net)


def test_a_true_claim():
    assert claims_of(Experts) == ([], [])


DIFFERS = "positions along 'seq' mix in module 'inner': run in 2 shards on random data, its result differs by "
FALSE = {
    "mean": (lambda: Mean(8, 8), DIFFERS),
    "attention with dropout": (lambda: Attention(8, 8), DIFFERS),
    "limit": (lambda: Limited(8, 8), DIFFERS),
    "constant": (Cut, DIFFERS),
    "buffer": (Stored, DIFFERS),
    "room": (lambda: Room(8, 8), DIFFERS),
    "pooled": (lambda: Pooled(8, 8), "module inner gives a value of shape [2, 8], which has no place for 'seq'"),
    "square": (lambda: Square(8, 8), "whose length the traced graph holds as a number"),
}


@pytest.mark.parametrize(("make", "what"), FALSE.values(), ids=FALSE)
def test_a_claim_that_is_not_true(make, what: str):
    (problem,), notes = claims_of(make)
    assert what in problem.what and not notes
    assert problem.where == "<spec>:3:5"
    assert problem.excerpt and problem.rule and problem.fix


def test_what_no_plan_would_take_is_said_with_the_claim():
    problems, _ = claims_of(lambda: Batch(8))
    assert "updates the running statistics 'inner.running_mean'" in problems[0].what


def test_what_random_data_tell_is_a_rule_with_a_fix():
    (problem,), _ = claims_of(lambda: Mean(8, 8))
    assert problem.rule == "a mapped module gives a position the same whatever other positions are with it"
    assert problem.fix == "drop the line, or map a module inside it that treats each position by itself"


def test_a_module_that_never_sees_the_dim():
    (problem,), _ = claims_of(lambda: Weights(8, 8), fed=False)
    assert problem.what == "module inner is mapped over 'seq', and none of its inputs has that dim"


def test_a_module_that_is_never_called():
    with torch.device("meta"):
        net = Net(Experts())
    net.forward = lambda ids: ids.float()
    (problem,), _ = check_maps(parse(SPEC), net)
    assert problem.what == "'map inner over seq' names a module that runs no operator of the traced forward"


def test_what_could_not_be_told_is_said():
    assert claims_of(lambda: Noise(8, 8)) == (
        [],
        ["'map inner over seq' was not run at inner: it draws random numbers"],
    )


def test_a_model_that_cannot_be_traced_is_said():
    with torch.device("meta"):
        net = Net(Experts())
    net.forward = lambda ids: torch._dynamo.graph_break()
    problems, (note,) = check_maps(parse(SPEC), net)
    assert not problems and note.startswith("'map inner over seq' was not run: ")


def plan_of(inner: nn.Module, length: int):
    return planned(Net(inner), {"ids": torch.zeros(2, length, dtype=torch.long)}, parse(SPEC), sp=2)[0]


@pytest.mark.parametrize("make", [lambda: Limited(8, 8), Cut, lambda: Room(8, 8)], ids=["number", "constant", "size"])
def test_a_plan_believes_no_statement_that_its_length_shows_to_be_wrong(make):
    """Up to its limit the module keeps positions apart: a static plan for a short length is right."""
    plan_of(make(), 512)
    with pytest.raises(PlanError) as error:
        plan_of(make(), 600)
    (problem,) = error.value.problems
    assert problem.what.startswith(DIFFERS) and problem.where == "<spec>:3:5"


def test_a_plan_says_which_statement_it_had_to_believe():
    notes = plan_of(Noise(8, 8), 16).notes
    assert "map inner over seq: taken as stated at inner: it draws random numbers" in notes
