"""A program sharded over two axes by hand, tensor parallelism around Ulysses, through lowering, verification and the
simulation of all ranks: the solver does not choose it yet."""

from __future__ import annotations

import attrs
import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn

from autosp.errors import CheckError
from autosp.lower import Rank, check, convert, lower
from autosp.parity import Simulation
from autosp.rules import default_rules, factor_of
from autosp.sharding import INVARIANT, REPLICATE, MeshAxis, Sharding, Split
from autosp.sharding.sharding import assemble, local_shape, shard
from autosp.solve import Plan, assembled, load_device, sharded_by_hand
from autosp.solve.problem import Op, build
from tests.lower.models import captured, misses, named, reference
from tests.lower.test_faults import bypass, kinds, set_arg

aten = torch.ops.aten
MESH = (MeshAxis("tp", 2), MeshAxis("sp", 2))
COLUMNS, ROWS = ("q", "k", "v", "up"), ("o", "down")  # weights that tp splits by their output, and by their input


class Block(nn.Module):
    """A decoder's layer: attention on heads, and two linear layers, behind a norm each; the loss is a mean of squares."""

    def __init__(self, width: int = 24, heads: int = 4):
        super().__init__()
        self.heads = heads
        self.before, self.after = nn.LayerNorm(width), nn.LayerNorm(width)
        self.q, self.k, self.v, self.o = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x, y):
        z = self.before(x)
        q, k, v = (f(z).unflatten(-1, (self.heads, -1)).transpose(1, 2) for f in (self.q, self.k, self.v))
        x = x + self.o(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        return (x + self.down(F.silu(self.up(self.after(x)))) - y).square().mean()


@attrs.frozen
class Program:
    """A block and one batch."""

    length: int = 8

    def model(self) -> nn.Module:
        torch.manual_seed(0)
        return Block().train()

    def inputs(self) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(1)
        x, y = torch.randn(2, 2, self.length, 24, generator=generator)
        return {"x": x, "y": y}


def by_hand(program: Program) -> Plan:
    """tp splits heads and hidden features (Shoeybi et al. 2019, Megatron-LM, section 3), sp the sequence, and in
    attention the heads that tp leaves (Jacobs et al. 2023, DeepSpeed-Ulysses, section 3)."""
    graph, _ = captured(program)
    problem = build(graph, default_rules(), MESH[1])
    chosen, given = {}, {}
    for op in problem.ops:
        parts = {"sp": _sequence(op, program.length), "tp": _features(op, given)}
        chosen[op] = sharded_by_hand(op, MESH, parts, {"tp": INVARIANT})
        given |= dict(zip(op.results, chosen[op].gives))
    outputs = tuple(Sharding.alike(MESH, INVARIANT) for _ in graph.outputs)
    found = assembled(problem, MESH, chosen, outputs)
    return Plan(
        problem=problem, mesh=MESH, device=load_device("a100-80gb"), attention="ulysses", shardings=found.shardings,
        chosen=chosen, changes=found.changes, groups=found.groups, outputs=outputs, reshards=(), compute_seconds=0.0,
        communication_seconds=0.0,
    )  # fmt: skip


def _sequence(op: Op, length: int) -> int:
    """The factor that sp splits: heads in attention, else the sequence."""
    if op.node.target is aten.scaled_dot_product_attention.default:
        return op.projection.operands[0][1][0]
    (dim,) = [d for d, n in enumerate(op.operands[0].shape) if n == length]
    return op.projection.operands[0][dim][0]


def _features(op: Op, given: dict) -> int | None:
    """The factor that tp splits: of a weight, or of what an operand is split by."""
    if op.module in (*COLUMNS, *ROWS):
        return op.projection.operands[1][op.module in ROWS][0]
    splits = [(i, given[v].on("tp")) for i, v in enumerate(op.operands) if v in given]
    splits = [(i, at) for i, at in splits if isinstance(at, Split)]
    return factor_of(op.projection, *splits[0])[0] if splits else None


@pytest.mark.parametrize("length", [8, 7])
def test_loss_and_gradients_are_those_of_the_unsharded_program(length: int):
    program = Program(length)
    graph, inputs = captured(program)
    simulation = Simulation(by_hand(program), checked=True)
    for outputs, grads in simulation.run(inputs):
        assert not misses(named(graph, outputs, grads), reference(program))


def test_heads_are_split_over_both_axes():
    plan = by_hand(Program())
    attention = next(op for op in plan.chosen if op.node.target is aten.scaled_dot_product_attention.default)
    assert repr(plan.chosen[attention].needs[0]) == "{tp: split(1: <2>x2), sp: split(1: <2>)}"
    local = lower(plan, Rank((0, 1), ("t", "s")))
    axes = {
        kinds(n): [m.args[3].axis for m in changes(local, *kinds(n))] for n in local.graph.nodes if n.target is convert
    }
    assert axes["split", "split"] == ["sp", "sp"]  # q, k and v in one message, and what comes back
    assert axes["partial", "invariant"] == ["tp", "tp", "sp"]  # behind o and down; the loss


def changes(gm: fx.GraphModule, src: str, dst: str) -> list[fx.Node]:
    return [n for n in gm.graph.nodes if n.target is convert and kinds(n) == (src, dst)]


def a_sum_that_is_left_out(gm):
    bypass(changes(gm, "partial", "invariant")[0])


def a_sum_over_the_other_axis(gm):
    first, *_, last = changes(gm, "partial", "invariant")
    set_arg(first, 3, last.args[3])


def a_rank_of_another_place(gm):
    node = changes(gm, "split", "split")[0]
    set_arg(node, 3, node.args[3]._replace(rank=0))


def a_gradient_that_is_not_summed(gm):
    """What every rank of tp multiplies by its own columns: its gradients are parts."""
    bypass(
        next(
            n
            for n in changes(gm, "invariant", "replicate")
            if n.args[3].axis == "tp" and n.args[0][0].op != "placeholder"
        )
    )


def heads_of_the_whole(gm):
    """sp deals all heads, not those that tp leaves."""
    node = changes(gm, "split", "split")[0]
    set_arg(node, 2, tuple(Split(s.dim, 1, 2, 2) for s in node.args[2]))


FAULTS = [a_sum_that_is_left_out, a_sum_over_the_other_axis, a_rank_of_another_place, a_gradient_that_is_not_summed,
          heads_of_the_whole]  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f.__name__)
def test_a_planted_fault_is_caught_by_the_checker(fault):
    plan = by_hand(Program())
    local = lower(plan, Rank((0, 1), ("t", "s")))
    check(plan, local)
    fault(local)
    with pytest.raises(CheckError):
        check(plan, local)


def test_parts_of_a_nested_split_make_up_the_whole():
    x = torch.arange(2 * 12 * 3).reshape(2, 12, 3)
    at = Sharding((("tp", Split(1, 1, 2, 6)), ("sp", Split(1, 1, 2, 3))))
    ranks = [Rank((i, j), ("t", "s")).on(MESH) for i in range(2) for j in range(2)]
    parts = [shard(x, at, here) for here in ranks]
    assert [part[0, :, 0].tolist() for part in parts] == [[3 * i for i in range(a, a + 3)] for a in (0, 3, 6, 9)]
    assert all(tuple(p.shape) == local_shape((2, 12, 3), at, here) for p, here in zip(parts, ranks))
    assert torch.equal(assemble(parts, at, MESH), x) and at.fits((2, 12, 3), MESH)
    assert not Sharding((("tp", Split(1, 1, 2, 6)), ("sp", Split(1, 1, 4, 3)))).fits((2, 12, 3), MESH)


def test_what_is_gathered_leaves_innermost_first():
    whole = Sharding.alike(MESH, REPLICATE)
    split = Sharding((("tp", Split(1, 1, 2, 6)), ("sp", Split(1, 1, 2, 3))))
    assert [axis for axis, *_ in split.hops(whole)] == ["sp", "tp"]
    assert [axis for axis, *_ in whole.hops(split)] == ["tp", "sp"]
