"""What users say beyond inputs and outputs: constraints, mapped modules, and random operators."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import autosp
from autosp.errors import CaptureError, PlanError
from autosp.lower import Rank, check, lower
from autosp.parity import simulate
from autosp.passes import global_graph
from autosp.sharding import MeshAxis
from autosp.solve import Ends, load_device, solve
from autosp.spec import parse

HEAD = "mesh [dp: local, sp]\ninput input_ids [batch@dp, seq@sp]\ninput labels [batch@dp, seq@sp]\noutput loss []\n"


class Mlp(nn.Module):
    def __init__(self, layout: str | None = None, dropout: float = 0.0):
        super().__init__()
        self.layout, self.dropout = layout, dropout
        self.up, self.down = nn.Linear(16, 32), nn.Linear(32, 16)

    def forward(self, x):
        h = F.gelu(self.up(x))
        if self.layout:
            h = autosp.constrain(h, self.layout)
        return self.down(F.dropout(h, self.dropout, self.training))


class Net(nn.Module):
    def __init__(self, **kw):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.mlp, self.head = nn.Embedding(40, 16), Mlp(**kw), nn.Linear(16, 40)

    def forward(self, input_ids, labels):
        x = self.embed(input_ids)
        return F.cross_entropy(self.head(x + self.mlp(x)).flatten(0, 1), labels.flatten())


def batch(length: int = 13) -> dict[str, torch.Tensor]:
    ids = torch.randint(40, (2, length), generator=torch.Generator().manual_seed(1))
    return {"input_ids": ids, "labels": ids.roll(1, 1)}


def planned(model: nn.Module, lines: str = "", p: int = 3):
    spec = parse(HEAD + lines)
    captured, inputs = global_graph(
        model, batch(), layout_of=lambda n, x: spec.input(n) and spec.input(n).layout,
        constraints=spec.constraints, maps=spec.maps, dynamic=bool(spec.maps),
    )  # fmt: skip
    plan = solve(captured, Ends(("whole",)), axis=MeshAxis("sp", p), device=load_device("cpu"))
    for rank in range(p):
        check(plan, lower(plan, Rank(rank, "g")))
    return plan, inputs


def assert_exact(model: nn.Module, plan, inputs) -> None:
    loss = model(**batch())
    model.zero_grad()
    loss.backward()
    wanted = dict(model.named_parameters())
    for outputs, gradients in simulate(plan, inputs):
        torch.testing.assert_close(outputs[0], loss, rtol=1e-6, atol=0)
        for p, gradient in zip(plan.problem.captured.placeholders, gradients, strict=True):
            if p.role == "param":
                torch.testing.assert_close(gradient, wanted[p.name].grad, rtol=1e-5, atol=1e-7)


def collectives(plan) -> list[tuple[str, str]]:
    return [(r.kind, r.module) for r in plan.reshards if r.kind != "slice"]


@pytest.mark.parametrize(
    "line", ["[batch@dp, seq, hidden]", "[batch@dp, seq, hidden@sp]", "[batch@dp, seq@sp, hidden]"]
)
def test_a_constraint_in_a_spec_is_met_exactly(line: str) -> None:
    model = Net()
    plan, inputs = planned(model, f"constrain mlp output {line}\n")
    fixed = next(op for op in plan.problem.ops if op.node.target is torch.ops.autosp.constrain.default)
    whole_or_split = repr(plan.shardings[fixed.results[0].id])
    assert ("split(1" in whole_or_split) == ("seq@sp" in line)
    assert ("split(2" in whole_or_split) == ("hidden@sp" in line)
    assert_exact(model, plan, inputs)


def test_a_constraint_in_code_is_met_exactly_and_says_so() -> None:
    model = Net(layout="[batch@dp, seq, hidden@sp]")
    plan, inputs = planned(model)
    reasons = [r.reason for r in plan.reshards]
    assert any("the layout [batch@dp, seq, hidden@sp] is fixed here" in r for r in reasons), reasons
    assert_exact(model, plan, inputs)


def test_a_constraint_that_splits_a_dim_of_another_axis_is_refused() -> None:
    with pytest.raises(PlanError) as e:
        planned(Net(), "constrain mlp output [batch@sp, seq, hidden]\n")
    assert "the layout [batch@sp, seq, hidden] cannot be had: dim 0 of size 2 is not split over sp=3 here" in str(
        e.value
    )


def test_a_constraint_on_a_module_that_does_not_run_is_refused() -> None:
    with pytest.raises(CaptureError) as e:
        planned(Net(), "constrain mpl output [batch@dp, seq, hidden]\n")
    (problem,) = e.value.problems
    assert problem.what == "no module of Net is 'mpl': no 'mpl' at the top"
    assert problem.fix == "did you mean 'mlp'?"


class Sorting(Mlp):
    """Mixes no positions, by operators whose rules cannot know it."""

    def forward(self, x):
        flat = x.reshape(-1, x.shape[-1])
        order = flat.sum(-1).argsort()
        back = order.argsort()
        return self.down(F.gelu(self.up(flat[order])))[back].reshape(x.shape)


def test_a_mapped_module_runs_per_shard_as_it_stands() -> None:
    model = Net()
    model.mlp = Sorting()
    plan, inputs = planned(model, "map mlp over seq\n")
    assert collectives(plan) == [("all_reduce", "")]
    assert_exact(model, plan, inputs)


def test_without_a_map_the_same_module_communicates_for_what_it_sorts() -> None:
    model = Net()
    model.mlp = Sorting()
    plan, inputs = planned(model)
    assert [module for _, module in collectives(plan)].count("mlp") > 1
    assert_exact(model, plan, inputs)


def test_shards_draw_different_masks_and_agree_on_the_loss() -> None:
    model = Net(dropout=0.5)
    plan, inputs = planned(model, p=2)
    chosen = {str(op.node.target): s for op, s in plan.chosen.items()}
    assert chosen["aten.dropout.default"].split
    losses = [float(outputs[0].detach()) for outputs, _ in simulate(plan, inputs)]
    assert losses[0] == losses[1]
