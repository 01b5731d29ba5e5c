"""Every shipped rule is proved; every wrong one is caught."""

from __future__ import annotations

import pytest
import torch

from autosp.resources import listing
from autosp.resources import read as read_resource
from autosp.rules import default_rules, localise, read
from autosp.rules.book import RuleBook
from autosp.rules.verify import difference, verify

FP32 = (torch.float32,)

ATTENTION = (
    "rule aten.scaled_dot_product_attention.default("
    "query[*, HEADS?, s, d], key[*, k?, t, d], value[*, k?, t, e], attn_mask?[*, HEADS?, s, t]) -> [*, HEADS?, s, e]\n"
)

WRONG = {
    "a softmax split along its dim": "rule aten.softmax.int(self[*]) -> [*]",
    "a bias added on every rank": (
        "rule aten.linear.default(input[*, i], weight[o, i], bias?[o]) -> [*, o]\n reduce i\n linear (input bias)"
    ),
    "linear in the input though there is a bias": (
        "rule aten.linear.default(input[*, i], weight[o, i], bias?[o]) -> [*, o]\n reduce i\n once bias\n linear input"
    ),
    "a causal query length that is split": (ATTENTION.replace("HEADS", "(k g)") + " whole t, d, e"),
    "a key length that is summed": (ATTENTION.replace("HEADS", "(k g)") + " reduce t\n whole s, d, e"),
    "kv heads inside their group": (ATTENTION.replace("HEADS", "(g k)") + " whole t, d, e\n whole s if is_causal"),
    "a scan that is split": "rule aten.cumsum.default(self[*]) -> [*]",
    "relu as a linear operator": "rule aten.relu.default(self[*]) -> [*]\n linear self",
    "a maximum that is summed": "rule aten.amax.default(self[*]) -> [* without dim]\n reduce at dim",
    "a vocabulary that is summed": "rule aten.embedding.default(weight[v, d], indices[...]) -> [..., d]\n reduce v",
    "classes that are summed": (
        "rule aten.cross_entropy_loss.default(self[n?, c, ...], target[n?, ...], weight?[c]) -> []\n"
        " when reduction == 2\n reduce n, ..., c"
    ),
    "a mean of means": (
        "rule aten.cross_entropy_loss.default(self[n, c, ...], target[n, ...], weight?[c]) -> []\n"
        " when reduction == 1\n whole c\n reduce n, ..."
    ),
    "a norm split along its dim": "rule aten.layer_norm.default(input[*], weight?[*], bias?[*]) -> [*]",
    "a sort that is split": "rule aten.sort.default(self[*]) -> [*], [*]",
    "a product that is jointly linear": "rule aten.mul.Tensor(self[*], other[*]) -> [*]\n linear (self other)",
    "a triangle that is split": "rule aten.tril.default(self[*]) -> [*]",
    "a pad that is split": "rule aten.constant_pad_nd.default(self[*]) -> [*]\n whole resized",
    "a flip that is split": "rule aten.flip.default(self[*]) -> [*]",
    "a roll that is split": "rule aten.roll.default(self[*]) -> [*]",
    "a fill that is linear": "rule aten.masked_fill.Scalar(self[*], mask[*]) -> [*]\n linear self",
    "a variance of parts": "rule aten.var.correction(self[*]) -> [* without dim]\n reduce at dim",
    "channels inside their groups": (
        "rule aten.group_norm.default(input[n, c, ...], weight?[c], bias?[c]) -> [n, c, ...]"
    ),
}

# What a rule says of its operator's kind, or of what it saves, that is not so.
UNTRUE = {
    "a copy as a view": ("rule aten.clone.default(self[*]) -> [*]\n kind view", "view"),
    "a mirror as a reshape": ("rule aten.flip.default(self[*]) -> [*]\n whole at dims\n kind reshape", "reshape"),
    "a conjugate as a permutation": ("rule aten.adjoint.default by permute\n kind permute", "permute"),
    "a softmax as pointwise": ("rule aten.softmax.int(self[*]) -> [*]\n whole at dim\n kind pointwise", "pointwise"),
    "a sum as a product": (
        "rule aten.add.Tensor(self[*], other[*]) -> [*]\n kind matmul(self, other)",
        "matmul",
    ),
    "a product of elements as one of matrices": (
        "rule aten.mul.Tensor(self[*], other[*]) -> [*]\n kind matmul(self, other)",
        "matmul",
    ),
    "a difference as a sum": ("rule aten.sub.Tensor(self[*], other[*]) -> [*]\n kind add", "add"),
    "greater as less": ("rule aten.gt.Tensor(self[*], other[*]) -> [*]\n kind lt", "lt"),
    "what does not undo it": (
        "rule aten.view_as_real.default(self[*]) -> [*, c]\n whole c\n kind undone(aten.view_as_real.default)",
        "undone",
    ),
    "what does not put it back": (
        "rule aten.select.int(self[*]) -> [* without dim]\n whole at dim\n kind scattered(aten.slice_scatter.default)",
        "scattered",
    ),
    "a scan as a reduction": ("rule aten.cumsum.default(self[*]) -> [*]\n whole at dim\n kind reduction", "reduction"),
    "a cast as a clone": ("rule aten.to.dtype(self[*]) -> [*]\n kind clone", "clone"),
    "another operator's in-place form": (
        "rule aten.exp.default(self[*]) -> [*]\n saves result\n kind inplace(aten.sin_.default)",
        "inplace form",
    ),
    "an addend that goes elsewhere": (
        "rule aten.mm.default(self[m, k], mat2[k, n]) -> [m, n]\n reduce k\n kind plus(aten.baddbmm.default)",
        "plus",
    ),
    "a causal flag that is none": (
        ATTENTION.replace("HEADS", "(k g)") + " whole t, d, e, s\n kind masked(attn_mask, enable_gqa)",
        "masked",
    ),
    "dropout that does not draw": ("rule aten.dropout.default(input[*]) -> [*]\n saves result", "random"),
    "one factor of two saved": (
        "rule aten.mul.Tensor(self[*], other[*]) -> [*]\n saves other",
        "autograd keeps 'self'",
    ),
    "a result that is not said to be saved": ("rule aten.exp.default(self[*]) -> [*]", "autograd keeps 'result'"),
}


def failures(rule_text: str) -> list[str]:
    book = default_rules().with_rules(read(rule_text))
    (name,) = read(rule_text)[0].targets
    return [f for r in verify(book, [name], dtypes=FP32) for f in r.failures if not f.startswith("no case reached")]


@pytest.mark.parametrize("text", WRONG.values(), ids=WRONG.keys())
def test_a_wrong_rule_is_caught(text: str):
    assert failures(text)


@pytest.mark.parametrize(("text", "what"), UNTRUE.values(), ids=UNTRUE.keys())
def test_what_is_untrue_of_an_operator_is_caught(text: str, what: str):
    assert any(f.startswith(what) for f in failures(text))


@pytest.mark.parametrize(
    "name",
    [
        "mean.dim",
        "view.default",
        "expand.default",
        "narrow.default",
        "repeat.default",
        "mse_loss.default",
        "squeeze.dim",
    ],
)
def test_a_missing_local_version_is_caught(name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delitem(localise.__globals__["TABLE"], f"aten.{name}")
    assert any(not r.ok for r in verify(default_rules(), [f"aten.{name}"], dtypes=FP32))


@pytest.mark.parametrize("file", listing("rules"))
def test_every_shipped_rule_is_proved(file: str):
    names = {t for rule in read(read_resource("rules", file), file) if rule.form is not None for t in rule.targets}
    assert names or file == "graph"  # whose operators have kinds alone: no split value meets them
    wrong = {r.name: r.failures for r in verify(default_rules(), sorted(names)) if not r.ok}
    assert not wrong


def test_at_least_150_operators_split_something():
    forms = {n: [r.form for r in rules] for n, rules in default_rules().by_name.items()}
    assert sum(any(f != "whole" for f in found) for found in forms.values()) >= 300


def test_a_rule_that_no_case_reaches_is_said():
    book = RuleBook(
        read("rule aten.relu.default(self[a, b, c, d, e]) -> [a, b, c, d, e]\nrule aten.relu.default by whole")
    )
    (report,) = verify(book, ["aten.relu.default"], dtypes=FP32)
    assert not report.ok


def test_the_same_numbers_every_time():
    a, b = (next(verify(default_rules(), ["aten.linear.default"], dtypes=FP32)) for _ in range(2))
    assert (a.error, a.checks, a.splits) == (b.error, b.checks, b.splits)


def test_differences():
    nan, inf = float("nan"), float("inf")
    assert difference(torch.tensor([1.0, nan, inf]), torch.tensor([1.0, nan, inf])) == 0
    assert difference(torch.tensor([1.0, 0.0]), torch.tensor([1.0, nan])) == inf
    assert difference(torch.tensor([nan]), torch.tensor([1.0])) == inf
    assert difference(torch.tensor([3.0, 0.0]), torch.tensor([4.0, 0.0])) == 0.25
    assert difference(torch.tensor([1, 2]), torch.tensor([1, 3])) == inf
