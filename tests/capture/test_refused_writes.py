"""In-place operators that cannot be followed are refused in words."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn

from autosp.errors import CaptureError
from autosp.passes import global_graph
from tests.capture.net import Net


@torch.library.custom_op("autosp_test::scale_", mutates_args=("x",))
def scale_(x: torch.Tensor) -> None:
    x.mul_(2)


def _writes_input(self, x, a):
    x.add_(1)
    return a * x


def _writes_view_of_input(self, x, a):
    x[0].zero_()
    return a * x


def _writes_buffer(self, x, a):
    self.kept.add_(a[0, 0])
    return a + self.kept


def _writes_parameter(self, x, a):
    with torch.no_grad():
        self.inner.weight.mul_(2)
    return a


def _writes_data(self, x, a):
    self.inner.weight.data.clamp_(-1, 1)
    return a


def _custom(self, x, a):
    scale_(a)
    return a


def _custom_then_more(self, x, a):
    scale_(a)
    a.mul_(2)
    a.view(-1)[0].add_(1)
    return a


def _fills_its_diagonal_then_more(self, x, a):
    y = torch.zeros(8, 8)
    z = y.fill_diagonal_(1)
    z %= 2
    return a @ z


def _two_outs(self, x, a):
    values, places = torch.empty(3, 4), torch.empty(3, 4, dtype=torch.long)
    torch.max(x, -1, out=(values, places))
    values.add_(1)
    return a * values[..., None]


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


# Long sentences of the errors below, by the word that stands for them there.
SENTENCES = {
    "KEPT": "a compiled forward leaves its inputs and parameters as they are, and the memory of its buffers; "
    "a buffer keeps what an operator's result gives it, which every rank has whole",
    "SPLITS": "autosp splits values, so an operator that writes in place is replaced by one that gives a new value",
    "RETURN": "return the new value instead: a function of the same name without '_', "
    "or a custom operator without mutates_args",
    "ITSELF": "write to the tensor itself, through an index or a slice, "
    "or build the new value with torch.where or torch.cat",
}

REFUSED = {
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
error: 'aten.add_.Tensor' writes a value with a gradient to the buffer 'kept'
  --> PLACE self.kept.add_(a[0, 0])
   = rule: what a buffer keeps for the next step has no gradient: the graph of this one is gone then
   = fix: write a detached value to 'kept', value.detach(), or write it under torch.no_grad()""",
    _writes_parameter: """\
error: 'aten.mul_.Tensor' writes to the parameter 'inner.weight'
  --> PLACE self.inner.weight.mul_(2)
   = rule: KEPT
   = fix: update 'inner.weight' outside the compiled forward, in the training loop say""",
    _writes_data: """\
error: 'aten.clamp_.default' writes to the parameter 'inner.weight'
  --> PLACE self.inner.weight.data.clamp_(-1, 1)
   = rule: KEPT
   = fix: update 'inner.weight' outside the compiled forward, in the training loop say""",
    _custom: """\
error: 'autosp_test.scale_.default' writes in place and has no functional form
  --> PLACE scale_(a)
   = rule: SPLITS
   = fix: RETURN""",
    _custom_then_more: """\
error: 'autosp_test.scale_.default' writes in place and has no functional form
  --> PLACE scale_(a)
   = rule: SPLITS
   = fix: RETURN""",
    _fills_its_diagonal_then_more: """\
error: 'aten.fill_diagonal_.default' writes in place and has no functional form
  --> PLACE z = y.fill_diagonal_(1)
   = rule: SPLITS
   = fix: RETURN""",
    _two_outs: """\
error: 'aten.max.dim_max' writes in place and has no functional form
  --> PLACE torch.max(x, -1, out=(values, places))
   = rule: SPLITS
   = fix: take the results that it returns, without 'out='""",
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
    with pytest.raises(Exception) as caught:
        global_graph(model, {"x": torch.randn(3, 4, 8)})
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
    model = Net(lambda self, x, a: self.norm(a.transpose(1, 2)))
    model.norm = nn.BatchNorm1d(8)
    text = refusal(model)
    assert "num_batches_tracked" not in text  # a counter is kept
    assert "'aten.batch_norm.default' updates the running statistics 'norm.running_mean' of positions" in text
    assert "'aten.batch_norm.default' updates the running statistics 'norm.running_var' of positions" in text
    assert "fix: freeze it before compiling, after model.train(): .eval() on the module 'norm'" in text
