"""Rule text: values, canonical text, and every error with its place and its words."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autosp.errors import RuleError
from autosp.resources import listing
from autosp.resources import read as read_resource
from autosp.rules import default_rules, read
from autosp.rules.model import Clause, FactorDim, Operand, Pack, Selector, Signature, Test
from tests import expected

Test.__test__ = False

MALFORMED = [
    "rule aten.linear(input[*, i], weight[o, i]) -> [*, o] reduce i",
    "rule aten.linear.default(input[*, i], weight[o, i]) [*, o] reduce i",
    "rule aten.linear.default(input[*, i], weight[o, i]) -> [*, o]\n     reduced i",
    "rule aten.linear.default(input[*, i], weight[o, i]) -> [*, o]",
    "rule aten.linear.default(input[*, i], weight[o, i]) -> [*, o]\n     reduce j",
    "rule aten.linear.default(input[*, i], weight[o, i], bias?[o]) -> [*, o]\n     reduce i\n     once bais",
    "rule aten.relu.default(self[*])",
    "rule aten.relu.default(self[*]) ->",
    "rule aten.relu.default(self[*) -> [*]",
    "rule aten.relu.default(self *) -> [*]",
    "rule aten.relu.default(self[*]) -> [*]\n     whole at",
    "rule aten.relu.default by veiw",
    "rule aten.relu.default by",
    "rules aten.relu.default(self[*]) -> [*]",
    "rule aten.relu.default(self[*, ...]) -> [*]",
    "rule aten.add.Tensor(self[*], other[...]) -> [*]",
    "rule aten.add.Tensor(self[*], self[*]) -> [*]",
    "rule aten.sum.dim_IntList(self[*]) -> [* without dim]",
    "rule aten.add.Tensor(self[i], bias[i]) -> [i]\n     once bias",
    "rule aten.mm.default(self[m, k], mat2[k, n]) -> [m, k, n]\n     reduce k",
    "rule aten.relu.default(self[*]) -> [*]\n     whole * if",
    "rule aten.relu.default(self[*]) -> [*]\n     whole * if x = 3",
    "rule aten.relu.default(self[@]) -> [*]",
    "rule aten.relu.default(self[*]) -> [*]\nrule aten.mm(self[*]) -> [*]\nrule aten.t.default by flip",
    "rule aten.relu.default(self[(a)]) -> [()]",
    "rule",
    "hello world",
    "rule aten.relu.default | (self[*]) -> [*]",
    "rule aten.mm.default(self[m, k], mat2[k, n]) -> [m, n]\n     reduce k\n     kind matmull(self, mat2)",
    "rule aten.mm.default(self[m, k], mat2[k, n]) -> [m, n]\n     reduce k\n     kind matmul(self, other), view(self)",
    "operator aten.mm\n     kind plus(aten.addmm), workspace_cpu(cpu_atention)\nrule aten.t.default by permute\n     kind matmul",
    "operator aten.mm",
    "operator aten.mm\n     saves self",
]


def errors_of(text: str) -> str:
    with pytest.raises(RuleError) as caught:
        read(text, "x.rule")
    return str(caught.value)


def test_every_malformed_rule_gives_its_text():
    shown = "\n\n".join(f"# {text!r}\n{errors_of(text)}" for text in MALFORMED) + "\n"
    expected.expect("rule_errors/errors.txt", shown)


def test_a_rule_is_a_value():
    (rule,) = read(
        "rule aten.linear.default(input[*, i], weight[o, i], bias?[o]) -> [*, o]\n"
        "     reduce i\n     once bias if bias is tensor"
    )
    assert rule.targets == ("aten.linear.default",)
    assert rule.form == Signature(
        (
            Operand("input", (Pack(), FactorDim(("i",)))),
            Operand("weight", (FactorDim(("o",)), FactorDim(("i",)))),
            Operand("bias", (FactorDim(("o",)),), maybe=True),
        ),
        ((Pack(), FactorDim(("o",))),),
    )
    assert rule.clauses == (
        Clause("reduce", selectors=(Selector("name", "i"),)),
        Clause("once", names=(("bias",),), tests=(Test("bias", "is tensor"),)),
    )
    assert rule.where == "<rules>:1:1"


@pytest.mark.parametrize("name", listing("rules"))
def test_print_then_parse_is_identity_on_shipped_rules(name: str):
    rules = read(read_resource("rules", name), name)
    assert read("\n".join(map(str, rules))) == rules
    assert rules


def test_literals_and_tests_are_printed_as_they_are_read():
    text = (
        "rule aten.x.y(a[*], b?[*]) -> each [* without dim]\n"
        "     when mode == 'floor' and p != 0 and q == 0.5 and flag == none and on == true and not f and b is tensor\n"
        "     whole at dim, last 2, padded pad, resized, *\n"
        "     linear a, (a b) if on\n"
        "     movement\n"
        "     random if p"
    )
    assert str(read(text)[0]) == text


def test_names_may_be_words_of_the_language_where_no_word_is_expected():
    (rule,) = read("rule aten.x.y(whole[last, at], rules[at]) -> [last, at]")
    assert [o.name for o in rule.form.operands] == ["whole", "rules"]


def test_several_rules_of_one_operator_are_kept_in_order():
    book = default_rules()
    rules = book.by_name["aten.cross_entropy_loss.default"]
    assert [bool(r.guards) for r in rules] == [True] * 4 + [False]


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="rule aten.mm(self[*k]) -> by?|,#\n'@=0", max_size=120))
def test_no_text_gives_anything_but_rules_or_a_rule_error(text: str):
    try:
        read(text)
    except RuleError as error:
        assert all(p.what and p.rule and p.fix and p.where for p in error.problems)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_mutated_rule_file_gives_rules_or_a_rule_error(data: st.DataObject):
    text = read_resource("rules", "contract")
    at = data.draw(st.integers(0, len(text) - 1))
    cut = data.draw(st.integers(0, 6))
    text = (
        text[:at] + data.draw(st.sampled_from(["", "[", ")", " rule ", "*", "'", "if", ".", "\n"])) + text[at + cut :]
    )
    try:
        read(text)
    except RuleError as error:
        assert all(p.what and p.rule and p.fix and p.where for p in error.problems)
