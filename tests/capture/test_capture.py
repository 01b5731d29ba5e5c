"""The global-view graph: the same loss and gradients as eager, to the bit; sizes by name."""

import pytest
import torch
from torch import nn

from autosp.errors import InputError
from autosp.passes import global_graph
from autosp.syntax import parse_layout
from tests.lower.models import Llama, Toy, captured, layout_of, reference

PROGRAMS = [
    Llama(kv_heads=2, mask="right", batch=2),
    Llama(attn="eager", labels="prompt", positions=False),
    Toy("mlp"),
    Toy("attention"),
    Toy("fused"),
    Toy("tokens"),
]


def run(graph, inputs):
    """Loss and gradients of the captured graph on the real inputs."""
    own = [_own(x) for x in inputs]
    loss = graph.graph(*own)[0]
    loss.backward()
    return loss.detach(), {p.name: x.grad for p, x in zip(graph.placeholders, own) if p.role == "param"}


def _own(x):
    if isinstance(x, torch.SymInt):
        return x.node.hint
    return x.detach().clone().requires_grad_(x.requires_grad)


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@pytest.mark.parametrize("program", PROGRAMS, ids=str)
def test_loss_and_gradients_are_those_of_eager_to_the_bit(program, dynamic):
    loss, grads = run(*captured(program, dynamic))
    loss_ref, grads_ref = reference(program)
    assert torch.equal(loss, loss_ref)
    assert sorted(grads) == sorted(grads_ref)
    assert [name for name in grads if not torch.equal(grads[name], grads_ref[name])] == []


def test_placeholders_are_known_by_role_and_name():
    graph, inputs = captured(Toy("tokens"))
    found = {p.name: (p.role, p.requires_grad) for p in graph.placeholders}
    assert found == {
        "embed.weight": ("param", True),
        "mix": ("param", True),
        "head.weight": ("param", True),
        "head.bias": ("param", True),
        "input_ids": ("input", False),
        "labels": ("input", False),
    }
    assert set(graph.layouts) == {p.node for p in graph.placeholders if p.role == "input"}
    assert len(inputs) == len(graph.placeholders)


def test_loss_and_logits_are_known_by_shape():
    graph, _ = captured(PROGRAMS[0])
    assert [o.name for o in graph.outputs] == ["loss", "logits"]


def test_a_static_graph_has_numbers_and_a_dynamic_one_symbols():
    static, dynamic = (captured(Toy("tokens"), d)[0] for d in (False, True))
    assert static.hints == {}
    assert not any(isinstance(s, torch.SymInt) for s in sizes(static))
    assert sorted(dynamic.hints.values()).count(12) >= 1
    assert any(isinstance(s, torch.SymInt) for s in sizes(dynamic))


def sizes(graph) -> list:
    values = [n.meta.get("val") for n in graph.graph.graph.nodes]
    return [s for v in values if isinstance(v, torch.Tensor) for s in v.shape]


def test_dims_of_one_name_become_one_symbol():
    graph, _ = captured(Toy("tokens"), True)
    batch, seq = zip(*(n.meta["val"].shape for n in graph.graph.graph.nodes if n.name in graph.layouts))
    assert len({str(s) for s in seq}) == 1 and len({str(s) for s in batch}) == 1
    assert str(seq[0]) != str(batch[0])


class Sums(nn.Module):
    """Takes inputs of any sizes."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x, y):
        return self.scale * (x.sum() + y.sum())


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_dims_of_other_names_keep_their_own_symbols(dynamic):
    layouts = {"x": parse_layout("[batch, seq@sp]"), "y": parse_layout("[batch, kv@sp]")}
    x = torch.ones(2, 6)
    graph, _ = global_graph(Sums(), {"x": x, "y": x.clone()}, layout_of=lambda name, _: layouts[name], dynamic=dynamic)
    a, b = (n.meta["val"].shape[1] for n in graph.graph.graph.nodes if n.name in graph.layouts)
    assert (str(a) != str(b)) == dynamic


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_one_name_for_two_sizes_is_an_input_error(dynamic):
    batch = {"x": torch.ones(2, 6), "y": torch.ones(2, 8)}
    with pytest.raises(InputError) as error:
        global_graph(Sums(), batch, layout_of=layout_of, dynamic=dynamic)
    assert [p.what for p in error.value.problems] == ["dim 'seq' is 6 in l_x_, dim 1 and 8 in l_y_, dim 1"]
    assert str(error.value) == (
        "error: dim 'seq' is 6 in l_x_, dim 1 and 8 in l_y_, dim 1\n"
        "  --> l_y_, dim 1\n"
        "   = rule: a dim name means one size wherever it stands in a spec\n"
        "   = fix: give inputs of one size, or the dims different names in the spec"
    )


def again(function, x):
    return torch.utils.checkpoint.checkpoint(function, x, use_reentrant=False)


CHECKPOINTED = {
    "once": lambda f, x: again(f, x),
    "a part of a part": lambda f, x: again(lambda y: again(f, y) + y, x),
    "two parts of a part": lambda f, x: again(lambda y: again(f, again(f, y)), x),
}


@pytest.mark.parametrize("how", CHECKPOINTED)
def test_gradient_checkpointing_is_inlined(how: str):
    class Checkpointed(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(6, 6)

        def forward(self, x, y):
            z = CHECKPOINTED[how](lambda v: torch.tanh(self.layer(v)), x)
            return (z - y).square().mean()

    torch.manual_seed(0)
    model = Checkpointed()
    x, y = torch.randn(2, 2, 5, 6)
    graph, inputs = global_graph(model, {"x": x, "y": y}, layout_of=layout_of)
    loss, grads = run(graph, inputs)
    expected = model(x, y)
    expected.backward()
    assert torch.equal(loss, expected.detach())
    assert all(torch.equal(grads[name], p.grad) for name, p in model.named_parameters())
    assert torch.ops.aten.tanh.default in {n.target for n in graph.graph.graph.nodes}
