"""A user's own product, added by one rule, is priced, tiled, recomputed and fused as `linear` is."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn

from autosp.compat.tested import dropped
from autosp.errors import CaptureError
from autosp.recompute import Compiler, kinds
from autosp.recompute.choose import Chooser
from autosp.recompute.fuse import fused
from autosp.recompute.joint import Joint
from autosp.recompute.schedule import schedule
from autosp.recompute.seconds import flops as joint_flops
from autosp.recompute.tile_order import waiting
from autosp.recompute.tiling import tile
from autosp.recompute.trace import trace_joint
from autosp.rules import default_rules, drawless, is_call, read, rule, traits, user
from autosp.rules.book import shipped_rules
from autosp.rules.call import resolve
from autosp.rules.verify import verify
from autosp.solve import load_device
from autosp.solve.cost import flops
from autosp.spec import Tile
from tests.recompute.held import graphs
from tests.recompute.programs import local, misses, planned, rows, run


@torch.library.custom_op("own_kinds::project", mutates_args=())
def project(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return F.linear(x, w)


@project.register_fake
def _(x, w):
    return x.new_empty((*x.shape[:-1], w.shape[0]))


def _gradients(ctx, grad):
    x, w = ctx.saved_tensors
    return torch.matmul(grad, w), torch.mm(grad.flatten(0, -2).t(), x.flatten(0, -2))


project.register_autograd(_gradients, setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs))


@torch.library.custom_op("own_kinds::twice_", mutates_args=("x",))
def twice_(x: torch.Tensor) -> None:
    x.mul_(2)


@torch.library.custom_op("own_kinds::twice", mutates_args=())
def twice(x: torch.Tensor) -> torch.Tensor:
    return x * 2


twice.register_fake(torch.empty_like)
twice.register_autograd(lambda ctx, grad: grad * 2)

FACTORS = "rule own_kinds.project.default(x[*, i], w[o, i]) -> [*, o]  reduce i  linear x, w  saves x, w"
PROJECT = torch.ops.own_kinds.project.default
WIDE = 40
NOTHING = "tile mlp: no product with a weight widens what another one narrows again, token by token"


@pytest.fixture
def factors() -> Iterator[None]:
    """A rule that says what may be split, and nothing of what the operator is."""
    rule(FACTORS)
    yield
    user.REGISTERED.clear()


@pytest.fixture
def known(factors: None) -> None:
    """The one rule."""
    rule(f"{FACTORS}  kind matmul(x, w)")


class Gated(nn.Module):
    """Llama's MLP in a residual block, by one product or another."""

    def __init__(self, product=F.linear):
        super().__init__()
        self.norm, self.product = nn.LayerNorm(8), product
        self.gate, self.up, self.down = (
            nn.Parameter(torch.randn(*shape) / 4) for shape in ((WIDE, 8), (WIDE, 8), (8, WIDE))
        )

    def forward(self, x, y):
        z = self.norm(x)
        inner = F.silu(self.product(z, self.gate)) * self.product(z, self.up)
        return (x + self.product(inner, self.down) - y).square().mean()


def own() -> nn.Module:
    return Gated(project)


def joint_of(make) -> Joint:
    """The joint graph of a rank's program."""
    plan, inputs = planned(make, rows(2, 16))
    joint, _ = trace_joint(local(plan), inputs)
    return joint


def test_the_rule_says_what_it_is(factors: None):
    assert "matmul" not in traits(PROJECT)
    rule(f"{FACTORS}  kind matmul(x, w)")
    assert "matmul" in traits(PROJECT) and traits(PROJECT).names("matmul") == ("x", "w")
    with pytest.raises(KeyError, match="matmull"):
        assert "matmull" in traits(PROJECT)


def test_the_rule_is_proved(known: None):
    (report,) = verify(default_rules(), ["own_kinds.project.default"])
    assert report.ok and report.called


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (lambda x, w: F.linear(x, w).relu(), "matmul: not the sum of its products"),
        (lambda x, w: F.linear(x, w) + x.sum(), "matmul: not the sum of its products"),
    ],
    ids=["behind a relu", "a sum beside it"],
)
def test_what_is_no_product_is_not_proved_one(body, why: str, monkeypatch: pytest.MonkeyPatch):
    with torch.library._scoped_library("own_kinds_wrong", "FRAGMENT") as library:
        library.define("almost(Tensor x, Tensor w) -> Tensor")
        library.impl("almost", body, "CompositeImplicitAutograd")
        text = "rule own_kinds_wrong.almost.default(x[n, i], w[o, i]) -> [n, o]  whole i, o  kind matmul(x, w)"
        (report,) = verify(default_rules().with_rules(read(text)), ["own_kinds_wrong.almost.default"])
    assert any(failure.startswith(why) for failure in report.failures)


def test_it_costs_what_linear_costs(known: None):
    mine, theirs = (planned(make, rows(2, 16))[0] for make in (own, Gated))
    assert mine.compute_seconds == theirs.compute_seconds > 0

    def work(plan, target):
        return [flops(op, plan.problem) for op in plan.problem.ops if op.node.target is target]

    assert work(mine, PROJECT) == work(theirs, torch.ops.aten.linear.default) == [2.0 * 2 * 16 * 8 * WIDE] * 3


def test_it_is_tiled(known: None):
    plan, inputs = planned(own, rows(2, 16))
    gm = local(plan)
    new, tiled, notes = tile(gm, [Tile("mlp", 4)])
    assert [t.tiles for t in tiled] == [4] and not notes
    assert len(new.graph.find_nodes(op="call_function", target=PROJECT)) == 3 * 4
    assert not misses(run(new, inputs), run(gm, inputs))


def test_without_its_kind_it_is_not(factors: None):
    plan, _ = planned(own, rows(2, 16))
    _, tiled, notes = tile(local(plan), [Tile("mlp", 4)])
    assert not tiled and notes == (NOTHING,)


def test_tiles_of_it_wait_for_each_other(known: None):
    plan, inputs = planned(own, rows(2, 16))
    new, _, _ = tile(local(plan), [Tile("mlp", 4)])
    forward, _ = graphs(new, inputs)
    waits = {product.target for product, _ in waiting(list(forward.graph.nodes))}
    assert waits == {PROJECT}


def test_it_is_recomputed_at_the_same_price(known: None):
    """A joint graph holds `linear` as views and `mm`; the seconds and the bytes that are saved are the same."""
    mine, theirs = joint_of(own), joint_of(Gated)
    products = [n for n in mine.forward if n.target is PROJECT]
    assert [kinds.kind(n) for n in products] == ["matmul"] * 3
    mm = [n for n in theirs.forward if kinds.is_matmul(n)]
    assert list(map(joint_flops, products)) == list(map(joint_flops, mm)) == [2.0 * 2 * 16 * 8 * WIDE] * 3
    device = load_device("a100-80gb")
    ours, there = (Chooser(joint, device, 1).least(protect=True) for joint in (mine, theirs))
    assert ours.bytes == there.bytes
    again = sum(n.target is PROJECT for n in ours.schedule.again)
    assert again == sum(map(kinds.is_matmul, there.schedule.again)) > 0


def test_no_fused_kernel_holds_it(known: None):
    """What it reads is in memory, and what reads it is a kernel of its own, as around `mm`."""
    w = torch.ones(16, 16)

    def kernels(product) -> list[tuple[int, bool]]:
        given = [x.clone().requires_grad_() for x in (w, w)]
        graph = fx.symbolic_trace(lambda x, y: ((product(x.sin() + 1, y) * 2).cos(),))
        joint, _ = trace_joint(graph, given, Compiler(True).decompositions())
        keep = {x.id for n in joint.outputs for x in joint.of.get(n, ())}
        return [(len(r.makes), r.kernel) for r in fused(joint, schedule(joint, ()).forward, keep, "cpu")]

    assert kernels(PROJECT) == kernels(torch.mm) == [(1, True), (1, False), (1, True)]


class Weighed(nn.Module):
    """Weights of positions, doubled in place."""

    def __init__(self):
        super().__init__()
        self.product = nn.Linear(8, 8)

    def forward(self, x, y):
        weights = y.detach().square().add(1)
        twice_(weights)
        return (self.product(x) * weights).square().mean()


def test_an_in_place_operator_of_ones_own_has_the_form_that_its_rule_names(factors: None):
    with pytest.raises(CaptureError, match=r"own_kinds\.twice_\.default' writes in place and has no functional form"):
        planned(Weighed, rows(2, 16))
    rule("rule own_kinds.twice.default(x[*]) -> [*]  linear x  kind inplace(own_kinds.twice_.default)")
    (report,) = verify(default_rules(), ["own_kinds.twice.default"])
    assert report.ok
    plan, inputs = planned(Weighed, rows(2, 16))
    targets = [op.node.target for op in plan.problem.ops]
    assert torch.ops.own_kinds.twice.default in targets and torch.ops.own_kinds.twice_.default not in targets
    torch.manual_seed(0)
    assert torch.allclose(run(local(plan), inputs)[0], Weighed()(**rows(2, 16)))


def test_every_operator_that_the_shipped_rules_name_is_one_of_pytorchs():
    said = [(t, c) for r in shipped_rules().rules for t in r.targets for c in r.clauses_of("kind")]
    named = {t for t, _ in said} | {n for _, c in said for _, *names in c.names for n in names if n.count(".") == 2}
    unknown = {n for n in named if n.startswith("aten.") and resolve(n) is None and not dropped(n)}
    assert not unknown
    assert not list(user.against_schemas(shipped_rules().rules))


def test_an_overload_without_a_rule_is_of_its_defaults_kind():
    aten = torch.ops.aten
    assert "matmul" in traits(aten.mm.dtype) and "matmul" in traits(aten.mm.out)
    assert "reduction" in traits(aten.max.dim) and "reduction" not in traits(aten.max.other)


@pytest.mark.parametrize(("p", "train", "draws"), [(0.5, True, True), (0.5, False, False), (0.0, True, False)])
def test_a_call_is_of_the_kind_that_its_arguments_say(p: float, train: bool, draws: bool):
    graph = fx.Graph()
    node = graph.call_function(torch.ops.aten.dropout.default, (graph.placeholder("x"), p, train))
    assert is_call(node, "random") == draws and is_call(node, "itself") != draws
    assert (drawless(node) if draws else ((*node.args[:2], False), {})) == ((*node.args[:2], False), {})
