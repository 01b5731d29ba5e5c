"""In-place operators become functional ones, bit for bit."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from autosp.passes import global_graph
from autosp.rules.inplace import is_mutable
from tests.capture.net import Net, assert_same_bits, targets

aten = torch.ops.aten
needs_transformers = pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="needs transformers")


def _chain(self, x, a):
    a.add_(1)
    a.mul_(2).div_(3)
    return a


def _view_after(self, x, a):
    b = a.view(-1)
    a.add_(1)
    return b * 2


def _base_after(self, x, a):
    a.view(-1)[3:9].mul_(5)
    a[0].add_(1)
    return a * x


def _siblings(self, x, a):
    head, flat, turned = a[0], a.flatten(), a.transpose(0, 2)
    turned.mul_(2)
    flat[5:20:3].add_(1)
    head.sub_(x[0])
    return torch.cat([head.flatten(), flat, turned.reshape(-1), a.reshape(-1)])


def _assign(self, x, a):
    y = torch.zeros_like(x)
    y[:, 1:] = a[:, :-1]
    y[..., 0] = 3.0
    y[0, 0] += a[0, 1]
    return y * 2


def _read_before(self, x, a):
    before = a * 2
    a.relu_()
    return before + a


def _narrow(self, x, a):
    a.narrow(1, 1, 2).zero_()
    a.unsqueeze(1).squeeze(1).permute(2, 0, 1)[1].fill_(0.5)
    return a


def _inplace_view(self, x, a):
    b = a + 1
    b.unsqueeze_(1)
    b.add_(2)
    c = b.squeeze(1)
    c.transpose_(0, 1)
    return c * 3, b


def _no_op_views(self, x, a):
    same = torch.ops.aten.alias(a.to(torch.float32).contiguous())
    same.mul_(2)
    return a + 1


def _dropout_in_eval(self, x, a):
    same = F.dropout(a, 0.5, training=False)
    same.mul_(2)
    return a + 1


def _casts_back(self, x, a):
    low = a.to(torch.bfloat16)
    low.add_(x)
    return low


def _index_put(self, x, a):
    places = torch.arange(3).flip(0)
    inverse = torch.empty_like(places)
    inverse[places] = torch.arange(3)
    a[inverse] = x * 2
    a.masked_fill_(x > 1, -1.0)
    return a.index_add_(0, places, x)


def _nothing_written_flows(self, x, a):
    mask = torch.ones(4, 4)
    with torch.no_grad():
        mask.tril_().mul_(2)
        mask[0].zero_()
    return mask @ a


def _detached(self, x, a):
    seen = a.detach()
    a.mul_(2)
    return seen * a


def _copy(self, x, a):
    y = torch.empty(4, 3, 8)
    y.transpose(0, 1).copy_(a)
    return y.view(-1) * 2


def _split_is_read(self, x, a):
    mask = torch.ones(3, 4, 8)
    left, right = mask.split(4, dim=-1)
    mask.mul_(2).add_(1)
    return a[..., :4] * left + a[..., 4:] * right


def _under_vmap(self, x, a):
    def row(v):
        y = torch.zeros_like(v)
        y[0] = v[1]
        return y

    return torch.vmap(row)(a[0])


def _complex_view(self, x, a):
    pairs = a.unflatten(-1, (4, 2))
    torch.view_as_complex(pairs).mul_(0.5 + 2j)
    return a * x


def _real_view(self, x, a):
    z = torch.complex(a, x)
    torch.view_as_real(z)[..., 1].mul_(3)
    return z.abs()


def _conjugate(self, x, a):
    z = torch.complex(a, x)
    seen = z * 1
    z.conj().mul_(1 + 2j)
    return torch.view_as_real(z * seen)


def _augmented(self, x, a):
    mask = x > 0
    mask &= x < 1
    mask |= x > 2
    mask ^= x > 3
    places = torch.arange(4)
    places <<= 3
    places >>= torch.ones_like(places)
    places //= 2
    places %= 3
    return a * mask * places[:, None]


def _out(self, x, a):
    y, low = torch.empty(4, 3, 8), torch.empty(3, 4, 8, dtype=torch.bfloat16)
    seen = low[0]
    torch.mul(x.transpose(0, 1), 2, out=y)
    torch.div(y[0], 3, out=y[1])
    torch.cat([x[:1], x[1:]], out=low)
    F.normalize(a.detach()[0, 0], dim=-1, out=self.kept)
    return a * y.transpose(0, 1) + seen * self.kept


def _into_a_result_without_gradient(self, x, a):
    found = torch.zeros_like(a)
    with torch.no_grad():
        found.add_(2)
        torch.add(found, x, out=found)
    found[:, 1:] = a[:, :-1]
    self.kept.copy_(torch.ones_like(a)[0, 0])
    return found * self.kept


def _dropout_in_place(self, x, a):
    return F.dropout(a, 1.0, inplace=True) + F.dropout(x * 1, 0.0, inplace=True)


CASES = [
    _chain, _view_after, _base_after, _siblings, _assign, _read_before, _narrow, _inplace_view, _no_op_views,
    _dropout_in_eval, _casts_back, _index_put, _nothing_written_flows, _detached, _copy,
    _split_is_read, _under_vmap, _complex_view, _real_view, _conjugate, _augmented, _out,
    _into_a_result_without_gradient, _dropout_in_place,
]  # fmt: skip


@pytest.mark.parametrize("body", CASES, ids=lambda f: f.__name__.strip("_"))
def test_the_same_bits_as_eager(body):
    assert_same_bits(Net(body))


@pytest.mark.parametrize("body", [_siblings, _assign, _chain, _copy], ids=lambda f: f.__name__.strip("_"))
def test_the_same_bits_with_symbolic_sizes(body):
    def free(self, x, a):
        y = torch.empty(x.shape[1], x.shape[0], 8)
        y.transpose(0, 1).copy_(a)
        y.view(-1)[3:9].mul_(5)
        return y * 2

    assert_same_bits(Net(free if body is _copy else body), dynamic=True, sizes=(5, 7))


def test_the_functional_form_is_of_the_same_overload():
    graph = assert_same_bits(Net(_chain))
    assert targets(graph) == [aten.linear.default, aten.add.Tensor, aten.mul.Tensor, aten.div.Tensor]


def test_random_values_in_place_have_their_own_operator():
    captured, _ = global_graph(Net(lambda self, x, a: torch.empty_like(a).normal_() * a), {"x": torch.ones(3, 4, 8)})
    assert aten.normal_functional.default in targets(captured.graph)


def test_a_graph_without_writes_is_left_alone():
    graph = assert_same_bits(Net(lambda self, x, a: a * 2))
    assert targets(graph) == [aten.linear.default, aten.mul.Tensor]


def test_unread_aliases_are_not_taken_again():
    graph = assert_same_bits(Net(lambda self, x, a: a.view(-1).sum() + a.add_(1).sum()))
    assert targets(graph).count(aten.view.default) == 1 and aten.reshape.default not in targets(graph)


def test_frozen_statistics_are_only_read():
    model = Net(lambda self, x, a: self.norm(a.transpose(1, 2)))
    model.norm = nn.BatchNorm1d(8).eval()
    assert_same_bits(model)


FAMILIES = {
    "falcon": ("FalconForCausalLM", {}),
    "mixtral": ("MixtralForCausalLM", {"num_local_experts": 4, "intermediate_size": 48, "num_key_value_heads": 2}),
    "qwen3_moe": (
        "Qwen3MoeForCausalLM",
        {
            "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "num_key_value_heads": 2,
            "head_dim": 8,
        },
    ),
}  # fmt: skip


@needs_transformers
@pytest.mark.parametrize("experts", ["batched_mm", "grouped_mm"])
@pytest.mark.parametrize("family", FAMILIES)
def test_families_that_write_in_place(family: str, experts: str):
    import transformers

    name, fields = FAMILIES[family]
    config = getattr(transformers, name).config_class(
        vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=64,
        use_cache=False, **fields,
    )  # fmt: skip
    if hasattr(config, "num_experts_per_tok"):
        config._experts_implementation = experts
    torch.manual_seed(0)
    model = getattr(transformers, name)(config)
    ids = torch.randint(3, 60, (2, 16))
    batch = {"input_ids": ids, "labels": ids.clone(), "attention_mask": torch.ones_like(ids)}
    captured, inputs = global_graph(model, batch)
    assert not any(is_mutable(t) for t in targets(captured.graph))
    logits = next(o.position for o in captured.outputs if o.name == "logits")
    want, got = model(**batch), captured.graph(*inputs)
    assert torch.equal(got[logits], want.logits)
    assert torch.equal(next(got[o.position] for o in captured.outputs if o.name == "loss"), want.loss)
    weights = list(model.parameters())
    gradients = [torch.autograd.grad(out.sum(), weights, allow_unused=True) for out in (got[logits], want.logits)]
    for a, b in zip(*gradients, strict=True):  # the order in which a value's gradients are summed is the graph's
        assert a is b is None or torch.allclose(a, b, rtol=0, atol=1e-6 * float(b.abs().max()))
