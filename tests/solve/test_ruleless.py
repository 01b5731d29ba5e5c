"""Operators without a rule: refused on a split value, run whole on values that are whole anyway."""

import inspect

import pytest
import torch
from torch import nn

from autosp.errors import CaptureError, RuleError
from autosp.parity import simulate
from autosp.passes import global_graph
from autosp.sharding import MeshAxis
from autosp.solve import load_device, solve
from tests.lower.models import ends, layout_of


@torch.library.custom_op("autosp_tests::halved", mutates_args=())
def halved(x: torch.Tensor) -> torch.Tensor:
    return x / 2


halved.register_fake(torch.empty_like)
halved.register_autograd(lambda ctx, grad: grad / 2)


class Inner(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(6)

    def forward(self, x):
        return halved(self.norm(x))


class OnSplit(nn.Module):
    """The operator on a differentiable, split value."""

    def __init__(self):
        super().__init__()
        self.inner = Inner()

    def forward(self, x, y):
        return (self.inner(x) - y).square().mean()


class OnWhole(nn.Module):
    """The operator on an input, which is whole and has no gradient."""

    def __init__(self):
        super().__init__()
        self.up = nn.Linear(6, 6)

    def forward(self, x, y):
        return (self.up(x * halved(y)) - y).square().mean()


class Region(nn.Module):
    """A part of the forward that is compiled once, until its decorator is left out."""

    def __init__(self, decorate):
        super().__init__()
        self.up = nn.Linear(6, 6)
        self.part = decorate(lambda x: x + self.up(x).tanh())

    def forward(self, x, y):
        return (self.part(self.part(self.up(x))) - y).square().mean()


def plan_of(model: nn.Module, p: int = 2):
    torch.manual_seed(0)
    x, y = torch.randn(2, 2, 8, 6)
    graph, inputs = global_graph(model, {"x": x, "y": y}, layout_of=layout_of)
    return solve(graph, ends(graph), axis=MeshAxis("sp", p), device=load_device("cpu")), graph, inputs


def test_on_a_split_value_it_is_refused_with_its_place_and_a_draft():
    lines, first = inspect.getsourcelines(Inner.forward)
    with pytest.raises(RuleError) as error:
        plan_of(OnSplit())
    assert str(error.value) == (
        "error: operator autosp_tests.halved.default has no rule, and its operand layer_norm is split\n"
        f"  --> test_ruleless.py:{first + 1} in forward: {lines[1].strip()} (module inner)\n"
        "   = rule: an operator without a rule runs whole, only where that gathers no split value\n"
        "   = fix: start from this draft, in which nothing is split yet: say what may be, and prove and install it with "
        "'autosp rules add FILE.rule --import MODULE', MODULE being where the operator is made\n"
        "     rule autosp_tests.halved.default(x[a, b, c]) -> [a, b, c]\n"
        "          whole a, b, c"
    )


class OfParts(OnSplit):
    """The operator on parts of a split value: gathering that once is cheaper than gathering each part."""

    def forward(self, x, y):
        a, b, c = self.inner.norm(x).unflatten(-1, (3, 2)).unbind(2)
        return (torch.cat([halved(a), halved(b), c], -1) - y).square().mean()


class OfViews(OnSplit):
    """The same, with views and a slice in between."""

    def forward(self, x, y):
        a, b, c = self.inner.norm(x).unflatten(-1, (3, 2)).unbind(2)
        a, b = (part.transpose(0, 1)[:, :, :1].contiguous() for part in (a, b))
        return (halved(a) + halved(b) - c.transpose(0, 1) * y.sum(-1).t()[..., None]).square().mean()


@pytest.mark.parametrize("model", [OfParts, OfViews])
def test_a_value_that_is_made_whole_before_it_is_followed_to_there(model: type[nn.Module]):
    with pytest.raises(RuleError) as error:
        plan_of(model())
    assert len(error.value.problems) == 2
    for problem in error.value.problems:
        assert problem.what.startswith("operator autosp_tests.halved.default has no rule, and its operand ")
        assert problem.what.endswith(" is split") and "rule autosp_tests.halved.default(" in problem.fix


class AfterFlip(OnSplit):
    """Positions in reverse, which are whole by a rule, then the operator."""

    def forward(self, x, y):
        return (halved(self.inner.norm(x).unflatten(-1, (3, 2)).flip(1)).flatten(2) - y).square().mean()


def test_what_a_rule_has_made_whole_is_whole_anyway():
    plan, *_ = plan_of(AfterFlip())
    assert "aten.flip.default" in plan.explain()


def test_every_place_is_listed():
    class Twice(OnSplit):
        def forward(self, x, y):
            return super().forward(x, y) + super().forward(y, x)

    with pytest.raises(RuleError) as error:
        plan_of(Twice())
    assert len(error.value.problems) == 2


def test_on_a_whole_value_without_a_gradient_it_runs_whole():
    model = OnWhole()
    plan, graph, inputs = plan_of(model)
    assert [str(op.node.target) for op in plan.chosen if op.projection is None] == ["autosp_tests.halved.default"]
    loss = model(**{p.name: x for p, x in zip(graph.placeholders, inputs) if p.role == "input"})
    for outputs, _ in simulate(plan, inputs):
        torch.testing.assert_close(outputs[0], loss)


def test_one_rank_needs_no_rule():
    plan, *_ = plan_of(OnSplit(), 1)
    assert plan.reshards == ()


def test_a_nested_region_is_one_call_until_its_decorator_is_left_out():
    with pytest.raises((RuleError, CaptureError)) as caught:  # torch 2.11 does not trace one
        plan_of(Region(torch.compiler.nested_compile_region))
    fix = caught.value.problems[0].fix
    assert fix.startswith("leave the decorator torch.compiler.nested_compile_region out")
    plan, *_ = plan_of(Region(lambda part: part))
    assert plan.problem.ops
