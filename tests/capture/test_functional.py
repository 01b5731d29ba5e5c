"""In-place operators become functional ones, bit for bit; what cannot be followed is refused in words."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from autosp.capture import trace
from autosp.capture.inplace import is_mutable
from autosp.errors import CaptureError

aten = torch.ops.aten
needs_transformers = pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="needs transformers")


class Net(nn.Module):
    """A linear layer, then a function of its result (and of the buffer `kept`, where it takes one)."""

    def __init__(self, body):
        super().__init__()
        self.inner = nn.Linear(8, 8)
        self.register_buffer("kept", torch.zeros(8))
        self.body = body

    def forward(self, x):
        return self.body(self, x, self.inner(x))


def targets(graph: torch.fx.GraphModule) -> list:
    return [n.target for n in graph.graph.nodes if n.op == "call_function"]


def outcome(function, parameters, *args, **kwargs):
    """The first result's value, and the gradients of its sum."""
    out = function(*args, **kwargs)
    out = out[0] if isinstance(out, (tuple, list)) else out
    grads = torch.autograd.grad(out.double().sum(), parameters, allow_unused=True) if out.requires_grad else ()
    return out.detach(), [None if g is None else g.clone() for g in grads]


def concrete(x):
    """A graph input to run with: a size as a number."""
    return int(x) if isinstance(x, torch.SymInt) else x


def assert_same_bits(model: nn.Module, *, dynamic: bool = False, sizes=(3, 4)) -> torch.fx.GraphModule:
    """The captured graph has no in-place operator, and gives the bits that the model gives in eager mode."""
    x = torch.randn(*sizes, 8, generator=torch.Generator().manual_seed(0))
    captured, inputs = trace(model, {"x": x}, dynamic=dynamic)
    assert not any(is_mutable(t) for t in targets(captured.graph))
    want, want_grads = outcome(model, list(model.parameters()), x.clone())
    got, got_grads = outcome(captured.graph, list(model.parameters()), *map(concrete, inputs))
    assert torch.equal(got, want)
    for g, w in zip(got_grads, want_grads, strict=True):
        assert (g is None or not g.any()) if w is None else torch.equal(g, w)
    return captured.graph


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


CASES = [
    _chain, _view_after, _base_after, _siblings, _assign, _read_before, _narrow, _inplace_view, _no_op_views,
    _dropout_in_eval, _casts_back, _index_put, _nothing_written_flows, _detached, _copy,
    _split_is_read,
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


def test_a_graph_without_writes_is_left_alone():
    graph = assert_same_bits(Net(lambda self, x, a: a * 2))
    assert targets(graph) == [aten.linear.default, aten.mul.Tensor]


def test_unread_aliases_are_not_taken_again():
    graph = assert_same_bits(Net(lambda self, x, a: a.view(-1).sum() + a.add_(1).sum()))
    assert targets(graph).count(aten.view.default) == 1 and aten.reshape.default not in targets(graph)


@torch.library.custom_op("autosp_test::scale_", mutates_args=("x",))
def scale_(x: torch.Tensor) -> None:
    x.mul_(2)


def _norm(self, x, a):
    return self.norm(a.transpose(1, 2))


def _writes_input(self, x, a):
    x.add_(1)
    return a * x


def _writes_view_of_input(self, x, a):
    x[0].zero_()
    return a * x


def _writes_buffer(self, x, a):
    self.kept.add_(1)
    return a + self.kept


def _writes_parameter(self, x, a):
    with torch.no_grad():
        self.inner.weight.mul_(2)
    return a


def _custom(self, x, a):
    scale_(a)
    return a


def _expanded(self, x, a):
    y = torch.zeros(3, 1, 8).expand(3, 4, 8)[0, 0]
    y.add_(x[0, 0])
    return a * y


def _diagonal(self, x, a):
    y = torch.zeros(8, 8)
    y.diagonal().add_(a[0, 0])
    return y


def _split_is_written(self, x, a):
    left, _ = torch.zeros_like(x).split(4, dim=-1)
    left.add_(1)
    return a + left.sum()


def _hidden_from_autograd(self, x, a):
    with torch.no_grad():
        a.mul_(2)
    return a


def _through_detach(self, x, a):
    a.detach().mul_(2)
    return a


def _under_autocast(self, x, a):
    with torch.autocast("cpu", torch.bfloat16):
        y = torch.zeros(8, 8)
        y.addmm_(a[:, 0].t(), a[:, 0])
    return y


def _under_vmap(self, x, a):
    def row(v):
        y = torch.zeros_like(v)
        y[0] = v[1]
        return y

    return torch.vmap(row)(a[0])


# Long sentences of the errors below, by the word that stands for them there.
SENTENCES = {
    "KEPT": "a compiled forward leaves its inputs, parameters and buffers as they are: "
    "a rank that holds a part cannot update the whole",
    "FREEZE": "use a module that keeps no running statistics, or freeze it before compiling "
    "(.eval() on the module of 'kept')",
    "SPLITS": "autosp splits values, so an operator that writes in place is replaced by one that gives a new value",
    "RETURN": "return the new value instead: a function of the same name without '_', "
    "or a custom operator without mutates_args",
    "ITSELF": "write to the tensor itself, through an index or a slice, "
    "or build the new value with torch.where or torch.cat",
}

REFUSED = {
    _under_vmap: """\
error: 'aten.copy_.default' writes to a tensor inside torch.vmap
  --> PLACE y[0] = v[1]
   = rule: values inside torch.vmap are no values of the graph, and what is written to them is lost with it
   = fix: compute it before the compiled forward and pass it in (a BlockMask of flex_attention, say)""",
    _writes_input: """\
error: 'aten.add_.Tensor' writes to the input 'x'
  --> PLACE x.add_(1)
   = rule: KEPT
   = fix: write to a copy, 'x = x.clone()', or return the new value""",
    _writes_view_of_input: """\
error: 'aten.zero_.default' writes to the input 'x'
  --> PLACE x[0].zero_()
   = rule: KEPT
   = fix: write to a copy, 'x = x.clone()', or return the new value""",
    _writes_buffer: """\
error: 'aten.add_.Tensor' writes to the buffer 'kept'
  --> PLACE self.kept.add_(1)
   = rule: KEPT
   = fix: FREEZE""",
    _writes_parameter: """\
error: 'aten.mul_.Tensor' writes to the parameter 'inner.weight'
  --> PLACE self.inner.weight.mul_(2)
   = rule: KEPT
   = fix: update 'inner.weight' outside the compiled forward""",
    _custom: """\
error: 'autosp_test.scale_.default' writes in place and has no functional form
  --> PLACE scale_(a)
   = rule: SPLITS
   = fix: RETURN""",
    _expanded: """\
error: 'aten.add_.Tensor' writes to a tensor through 'aten.expand.default'
  --> PLACE y.add_(x[0, 0])
   = rule: SPLITS
   = fix: ITSELF""",
    _diagonal: """\
error: 'aten.add_.Tensor' writes to a tensor through 'aten.diagonal.default'
  --> PLACE y.diagonal().add_(a[0, 0])
   = rule: SPLITS
   = fix: ITSELF""",
    _split_is_written: """\
error: 'aten.add_.Tensor' writes to a tensor through 'aten.split.Tensor'
  --> PLACE left.add_(1)
   = rule: SPLITS
   = fix: ITSELF""",
    _hidden_from_autograd: """\
error: 'aten.mul_.Tensor' writes, without gradients, to a value that has one
  --> PLACE a.mul_(2)
   = rule: a new value has the gradient of what it was made from; one that autograd was not to see cannot be replaced
   = fix: move the write out of torch.no_grad(), or write to a detached copy, .detach().clone()""",
    _through_detach: """\
error: 'aten.mul_.Tensor' writes, without gradients, to a value that has one
  --> PLACE a.detach().mul_(2)
   = rule: a new value has the gradient of what it was made from; one that autograd was not to see cannot be replaced
   = fix: move the write out of torch.no_grad(), or write to a detached copy, .detach().clone()""",
    _under_autocast: """\
error: 'aten.addmm_.default' writes in place under autocast
  --> PLACE y.addmm_(a[:, 0].t(), a[:, 0])
   = rule: autocast leaves in-place operators alone and casts the operands of their functional forms
   = fix: write the result to a new name (x = torch.exp(x)), and let autocast choose its dtype""",
}


def refusal(model: nn.Module) -> str:
    """The error's text, with the place of the user's line (a test file's number) cut out."""
    import re

    with pytest.raises(Exception) as caught:
        trace(model, {"x": torch.randn(3, 4, 8)})
    error = caught.value
    while error is not None and not isinstance(error, CaptureError):
        error = error.__cause__ or getattr(error, "inner_exception", None)
    assert error is not None, caught.value
    return re.sub(r"--> \w+\.py:\d+ in \w+:", "--> PLACE", str(error))


@pytest.mark.parametrize("body", REFUSED, ids=lambda f: f.__name__.strip("_"))
def test_what_cannot_be_followed_is_refused_in_words(body):
    want = REFUSED[body]
    for word, sentence in SENTENCES.items():
        want = want.replace(word, sentence)
    assert refusal(Net(body)) == want


def test_running_statistics_are_buffers_too():
    model = Net(_norm)
    model.norm = nn.BatchNorm1d(8)
    text = refusal(model)
    assert "'aten.add_.Tensor' writes to the buffer 'norm.num_batches_tracked'" in text
    assert "'aten.batch_norm.default' writes to the buffer 'norm.running_mean'" in text
    assert "'aten.batch_norm.default' writes to the buffer 'norm.running_var'" in text
    assert "(.eval() on the module of 'norm.running_mean')" in text


def test_frozen_statistics_are_only_read():
    model = Net(_norm)
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
    captured, inputs = trace(model, batch)
    assert not any(is_mutable(t) for t in targets(captured.graph))
    logits = next(o.position for o in captured.outputs if o.name == "logits")
    want, got = model(**batch), captured.graph(*inputs)
    assert torch.equal(got[logits], want.logits)
    assert torch.equal(next(got[o.position] for o in captured.outputs if o.name == "loss"), want.loss)
    weights = list(model.parameters())
    gradients = [torch.autograd.grad(out.sum(), weights, allow_unused=True) for out in (got[logits], want.logits)]
    for a, b in zip(*gradients, strict=True):  # the order in which a value's gradients are summed is the graph's
        assert a is b is None or torch.allclose(a, b, rtol=0, atol=1e-6 * float(b.abs().max()))
