"""The checker alone: what the lowering makes is accepted, and every planted fault is refused before anything runs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn

from autosp.capture import Captured, tensors_of
from autosp.capture.autograd import Autograd
from autosp.compat.torch import ENTER_AUTOCAST, EXIT_AUTOCAST
from autosp.errors import CheckError
from autosp.lower import Rank, check, convert, lower, scale_gradient
from autosp.parity import simulate
from autosp.passes import global_graph
from autosp.sharding import MeshAxis
from autosp.solve import Plan, solve
from autosp.solve.device import load_device
from tests.execute.families import RotaryLlama, freqs_cis
from tests.lower.models import Llama, Toy, ends, layout_of, misses, named, planned
from tests.lower.test_faults import FAULTS, UNEVEN, P, changes, kinds, set_arg

aten = torch.ops.aten


class Typed(nn.Module):
    """An attention whose queries and keys pass through another dtype, or other numbers, on their way."""

    def __init__(self, body: Callable):
        super().__init__()
        self.embed, self.qkv, self.head = nn.Embedding(32, 16), nn.Linear(16, 48, bias=False), nn.Linear(16, 32)
        self.register_buffer("freqs", freqs_cis(4, 16))
        self.register_buffer("turn", torch.linalg.qr(torch.randn(4, 4))[0])
        self.body = body

    def forward(self, input_ids, labels):
        q, k, v = self.qkv(self.embed(input_ids)).unflatten(-1, (3, 4, 4)).unbind(2)
        q, k = self.body(self, q), self.body(self, k)
        y = F.scaled_dot_product_attention(*(t.transpose(1, 2) for t in (q, k, v)), is_causal=True)
        return F.cross_entropy(self.head(y.transpose(1, 2).flatten(2)).flatten(0, 1), labels.flatten())


def _complex(self, x):
    z = torch.view_as_complex(x.reshape(*x.shape[:-1], 2, 2)) * self.freqs[: x.shape[1]].view(1, -1, 1, 2)
    return torch.view_as_real(z).flatten(3)


def _stopped(self, x):
    with torch.no_grad():
        scale = x.abs().amax(-1, keepdim=True)
    return x / scale


def _itself(self, x):
    """PyTorch gives each of them back as it is: their gradient is recorded although nothing is."""
    with torch.no_grad():
        x = torch.dropout(x.to(x.dtype).contiguous(), 0.5, train=False)
        scale = x.float().abs().amax(-1, keepdim=True)
    return x / scale


BODIES = {
    torch.complex64: _complex,
    torch.bfloat16: lambda self, x: (x.to(torch.bfloat16) * 1.5).to(torch.float32),
    torch.float16: lambda self, x: (x.to(torch.float16) * 1.5).to(torch.float32),
    torch.float8_e4m3fn: lambda self, x: x.to(torch.float8_e4m3fn).to(torch.float32),
}


def made(body: Callable) -> tuple[Captured, tuple, tuple]:
    """The captured graph, its example inputs, and eager PyTorch's loss and gradients."""
    torch.manual_seed(0)
    model, ids = Typed(body).train(), torch.randint(32, (2, 9))
    graph, inputs = global_graph(model, {"input_ids": ids, "labels": ids}, layout_of=layout_of)
    loss = model(ids, ids)
    loss.backward()
    return graph, inputs, (loss.detach(), {name: p.grad for name, p in model.named_parameters()})


def solved(graph: Captured, p: int = 2) -> Plan:
    return solve(graph, ends(graph), axis=MeshAxis("sp", p), device=load_device("a100-80gb"))


def refused(plan: Plan, edit: Callable[[fx.GraphModule, int], None] = lambda gm, rank: None, **more) -> str:
    """What the checker says of the first rank whose edited graph it refuses."""
    for rank in range(plan.p):
        gm = lower(plan, Rank(rank, "none", more.get("grad_scale", 1.0)))
        before = str(gm.graph)
        edit(gm, rank)
        gm.graph.lint()
        unedited = str(gm.graph) == before
        try:
            check(plan, gm, **more)
        except CheckError as error:
            return str(error)
        assert not unedited or edit.__name__ == "<lambda>", "the fault found nothing to edit"
    return ""


PROGRAMS = [
    *(Toy(kind, length=10) for kind in ("attention", "fused", "tokens")),
    Toy("mlp", length=3),
    Toy("pooled"),
    Llama(layers=1, length=13, mask="right", batch=2, kv_heads=2),
]


@pytest.mark.parametrize("program", PROGRAMS, ids=str)
def test_what_the_lowering_makes_is_accepted(program):
    assert not refused(planned(program, 3, "ulysses"))
    assert not refused(planned(program, 3, "gather"), grad_scale=3.0)
    assert not refused(planned(program, 1))


@pytest.mark.parametrize("body", [*BODIES.values(), _stopped, _itself], ids=[*map(str, BODIES), "stopped", "itself"])
def test_values_of_every_dtype_are_accepted_and_exact(body):
    graph, inputs, expected = made(body)
    plan = solved(graph)
    assert not refused(plan)
    assert all(gradient.any() for gradient in expected[1].values())
    for found in simulate(plan, inputs):
        assert not misses(named(graph, *found), expected)


@pytest.mark.parametrize(("fault", "program"), FAULTS, ids=lambda x: getattr(x, "__name__", ""))
def test_every_fault_of_lowering_is_refused(fault, program):
    """The edits that `test_faults` holds against parity: all ten are in reach."""
    assert refused(planned(program, P), fault)


def _in_regions(self, x):
    """A product in bf16, and inside of its region one that is not."""
    with torch.autocast("cpu", torch.bfloat16):
        x = x @ self.turn
        with torch.autocast("cpu", enabled=False):
            return (x.float() @ self.turn).to(torch.float32)


def _read(self, x):
    """The dtype that a region gives is read, and made a constant of the graph."""
    with torch.autocast("cpu", torch.bfloat16):
        y = x @ self.turn
        return (y + torch.ones(y.shape[1], 1, 1, dtype=y.dtype)).float()


@pytest.mark.parametrize("around", [False, True], ids=["alone", "under autocast"])
@pytest.mark.parametrize("body", [_in_regions, _read, _stopped, _complex])
def test_autocast_regions_are_the_programs(body, around):
    """The loss is that of bf16 to the last bits of fp32 sums: without its regions it would be off by a thousandth."""
    with torch.autocast("cpu", torch.bfloat16) if around else contextlib.nullcontext():
        graph, inputs, expected = made(body)
    plan = solved(graph)
    assert not refused(plan)
    for outputs, gradients in simulate(plan, inputs):
        loss, found = named(graph, outputs, gradients)
        bar = 2e-3 if around else 3e-6  # sums of bf16 values go by another order
        torch.testing.assert_close(loss, expected[0], rtol=bar, atol=0)
        for name, gradient in expected[1].items():
            gap = float((found[name] - gradient).abs().max() / gradient.abs().max())
            assert gap <= (5e-2 if around else 2e-2), (name, gap)


def test_a_call_outside_of_its_autocast_region_is_refused():
    graph, *_ = made(_in_regions)

    def left_early(gm, rank):
        leaves = [n for n in gm.graph.nodes if n.target is EXIT_AUTOCAST]
        enters = [n for n in gm.graph.nodes if n.target is ENTER_AUTOCAST]
        for node in (*leaves, *enters):
            gm.graph.erase_node(node)

    assert "runs in other autocast regions" in refused(solved(graph), left_early)


@pytest.mark.parametrize("dtype", BODIES, ids=str)
def test_a_dtype_that_the_solver_forgets_is_refused(dtype, monkeypatch):
    """The fault that lost the gradients of models which rotate by complex numbers: a dtype without a gradient."""
    graph, *_ = made(BODIES[dtype])
    right = Autograd.flows

    def forgetful(self, node, *args):
        return tuple(f and t.dtype is not dtype for f, t in zip(right(self, node, *args), tensors_of(node.meta["val"])))

    monkeypatch.setattr(Autograd, "flows", forgetful)
    assert "gradient" in refused(solved(graph))


def test_a_forgotten_region_without_gradients_is_refused():
    graph, *_ = made(_stopped)

    def gradient_that_flows(gm, rank):
        for node in gm.graph.find_nodes(op="call_function", target=aten.detach.default):
            node.replace_all_uses_with(node.args[0])
            gm.graph.erase_node(node)

    assert "in the program none does" in refused(solved(graph), gradient_that_flows)


def flag(src: str, dst: str) -> Callable:
    def flipped_flag(gm, rank):
        set_arg(changes(gm, src, dst)[0], 4, False)

    return flipped_flag


@pytest.mark.parametrize(
    ("program", "attention", "src", "dst"),
    [
        (Toy("fused", length=10), "ulysses", "split", "split"),
        (Toy("fused", length=10), "gather", "split", "replicate"),
        (UNEVEN, "ulysses", "partial", "invariant"),
        (UNEVEN, "ulysses", "invariant", "replicate"),
        (Toy("pooled"), "ulysses", "partial", "replicate"),
    ],
)
def test_a_conversion_without_a_backward_is_refused(program, attention, src, dst):
    plan = planned(program, P, attention)
    if not changes(lower(plan, Rank(0, "none")), src, dst):
        src, dst = next(kinds(n) for n in lower(plan, Rank(0, "none")).graph.nodes if n.target is convert and n.args[4])
    assert "changed as if it had none" in refused(plan, flag(src, dst))


def before(node: fx.Node, i: int, target, *more) -> None:
    """A call put in between a call and its i-th argument."""
    with node.graph.inserting_before(node):
        between = node.graph.call_function(target, (node.args[i], *more))
    set_arg(node, i, between)


def first(gm: fx.GraphModule, target) -> fx.Node:
    return next(n for n in gm.graph.nodes if n.target is target)


def detached_operand(gm, rank):
    """Of a product of two values with gradients, one loses its own."""
    before(first(gm, aten.scaled_dot_product_attention.default), 1, aten.detach.default)


def detached_message(gm, rank):
    node = changes(gm, "split", "split")[0]
    with gm.graph.inserting_before(node):
        cut = gm.graph.call_function(aten.detach.default, (node.args[0][0],))
    set_arg(node, 0, (cut, *node.args[0][1:]))


def detached_result(gm, rank):
    item = next(iter(changes(gm, "split", "split")[0].users))
    with gm.graph.inserting_after(item):
        cut = gm.graph.call_function(aten.detach.default, (item,))
    item.replace_all_uses_with(cut, delete_user_cb=lambda user: user is not cut)


def detached_output(gm, rank):
    output = gm.graph.output_node()
    with gm.graph.inserting_before(output):
        loss = gm.graph.call_function(aten.detach.default, (output.args[0][0],))
    output.args = ((loss, *output.args[0][1:]),)


def parameter_cut_off(gm, rank):
    """The last linear layer on a weight that is a copy without a gradient."""
    node = [n for n in gm.graph.nodes if n.target is aten.linear.default][-1]
    before(node, 1, aten.detach.default)


def parameter_replaced(gm, rank):
    node = [n for n in gm.graph.nodes if n.target is aten.linear.default][-1]
    before(node, 1, aten.zeros_like.default)


def another_operator(gm, rank):
    first(gm, aten.linear.default).target = aten.matmul.default
    node = first(gm, aten.matmul.default)
    before(node, 1, aten.t.default)


def another_number(gm, rank):
    node = first(gm, aten.layer_norm.default)
    set_arg(node, 4, 0.25)


def one_more_call(gm, rank):
    before(first(gm, aten.scaled_dot_product_attention.default), 0, aten.mul.Tensor, 2.0)


def operands_swapped(gm, rank):
    node = first(gm, aten.scaled_dot_product_attention.default)
    q, k, *rest = node.args
    node.args = (k, q, *rest)


def gradient_scaled_inside(gm, rank):
    before(first(gm, aten.scaled_dot_product_attention.default), 0, scale_gradient, 2.0)


def cast_on_the_way(gm, rank):
    """Results are as before but for their dtype."""
    node = first(gm, aten.scaled_dot_product_attention.default)
    with gm.graph.inserting_after(node):
        low = gm.graph.call_function(aten.to.dtype, (node, torch.bfloat16))
    node.replace_all_uses_with(low, delete_user_cb=lambda user: user is not low)


EDITS = [
    detached_operand, detached_message, detached_result, detached_output, parameter_cut_off, parameter_replaced,
    another_operator, another_number, one_more_call, operands_swapped, gradient_scaled_inside, cast_on_the_way,
]  # fmt: skip


@pytest.mark.parametrize("edit", EDITS, ids=lambda f: f.__name__)
def test_an_edit_is_refused(edit):
    assert refused(planned(Toy("fused", length=10), P), edit)


def test_a_parameter_that_gets_no_gradient_is_named():
    assert "o.weight gets no gradient" in refused(planned(Toy("fused", length=10), P), parameter_cut_off)


def test_bits_taken_for_another_dtype_are_refused():
    graph, *_ = made(lambda self, x: x + x.detach().to(torch.bfloat16).view(torch.int16).view(torch.bfloat16))

    def other_dtype(gm, rank):
        node = [n for n in gm.graph.nodes if n.target is aten.view.dtype][-1]
        set_arg(node, 1, torch.float16)

    assert not refused(solved(graph))
    assert "torch.float16" in refused(solved(graph), other_dtype)


def test_an_unscaled_gradient_is_refused():
    def unscaled(gm, rank):
        node = first(gm, scale_gradient)
        node.replace_all_uses_with(node.args[0])
        gm.graph.erase_node(node)

    plan = planned(UNEVEN, P)
    assert "is not scaled" in refused(plan, unscaled, grad_scale=4.0)


def test_a_rotation_by_complex_numbers_sends_what_one_by_real_ones_does():
    from tests.execute.families import RealRotaryLlama

    def sent(model: nn.Module) -> list:
        ids = torch.randint(128, (2, 13))
        graph, _ = global_graph(model.train(), {"idx": ids, "targets": ids}, layout_of=lambda name, x: layout_of(
            "input_ids" if name in ("idx", "targets") else name, x))  # fmt: skip
        plan = solved(graph)
        assert not refused(plan)
        return [(r.kind, r.backward, r.bytes, len(r.values)) for r in plan.reshards]

    numbers = sent(RotaryLlama(layers=1))
    assert numbers == sent(RealRotaryLlama(layers=1))
    assert [kind for kind, *_ in numbers].count("all_to_all") == 2


def test_symbolic_lengths_are_accepted():
    assert not refused(planned(Toy("attention", length=10), 3, dynamic=True))
