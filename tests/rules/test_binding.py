"""Calls in factors: broadcasting, optional dims, composite dims, arguments that change the rule."""

from __future__ import annotations

import pytest
import torch
from torch import empty

from autosp.compat.tested import dropped
from autosp.errors import RuleError
from autosp.rules import Projection, default_rules, read
from autosp.rules.book import RuleBook

aten = torch.ops.aten


def bind(target, *args, **kwargs) -> Projection:
    return default_rules().bind(target, args, kwargs, target(*args, **kwargs))


def kinds(p: Projection) -> dict[str, str]:
    return dict(zip(p.names, p.kinds, strict=True))


def test_linear_in_factors():
    p = bind(aten.linear.default, empty(2, 3, 4), empty(5, 4), empty(5))
    assert p.operands == (((0,), (1,), (2,)), ((3,), (2,)), ((3,),))
    assert p.results == (((0,), (1,), (3,)),)
    assert p.sizes == (2, 3, 4, 5)
    assert p.kinds == ("pass", "pass", "reduce", "pass")
    assert p.once == {2}
    assert p.linear == ({0, 2}, {1, 2})
    assert p.saves == (0, 1)
    assert p.rule.startswith("specs/rules/contract.rule:")


def test_without_a_bias_linear_is_linear_in_its_input_alone():
    assert bind(aten.linear.default, empty(3, 4), empty(5, 4)).linear == ({0}, {1})


def test_dims_of_size_one_have_no_factor_and_broadcast():
    p = bind(aten.add.Tensor, empty(2, 1, 4), empty(3, 1))
    assert p.operands == (((0,), (), (1,)), ((2,), ()))
    assert p.results == (((0,), (2,), (1,)),)


def test_a_number_voids_a_joint_linear_claim_unless_it_is_zero():
    assert bind(aten.add.Tensor, empty(2), 1).linear == ()
    assert bind(aten.add.Tensor, empty(2), 0).linear == ({0},)
    assert bind(aten.mul.Tensor, empty(2), 3).linear == ({0},)


def test_integers_are_in_no_linear_claim():
    assert bind(aten.add.Tensor, torch.ones(2, dtype=torch.int64), torch.ones(2, dtype=torch.int64)).linear == ()
    assert bind(aten.to.dtype, empty(2), torch.int64).linear == ()


def test_query_heads_follow_their_kv_heads():
    p = bind(
        aten.scaled_dot_product_attention.default,
        empty(2, 8, 5, 4),
        empty(2, 2, 6, 4),
        empty(2, 2, 6, 3),
        enable_gqa=True,
    )
    names = dict(enumerate(p.names))
    assert [[names[f] for f in dim] for dim in p.operands[0]] == [["*0"], ["k", "g"], ["s"], ["d"]]
    assert [[names[f] for f in dim] for dim in p.results[0]] == [["*0"], ["k", "g"], ["s"], ["e"]]
    assert kinds(p) == {"*0": "pass", "k": "pass", "g": "pass", "s": "pass", "d": "whole", "t": "whole", "e": "whole"}


def test_one_kv_head_leaves_only_the_group():
    p = bind(
        aten.scaled_dot_product_attention.default,
        empty(2, 8, 5, 4),
        empty(2, 1, 5, 4),
        empty(2, 1, 5, 4),
        enable_gqa=True,
    )
    assert p.operands[1][1] == ()
    assert [p.names[f] for f in p.operands[0][1]] == ["g"]


@pytest.mark.parametrize("shape", [(2, 4, 5, 6), (2, 1, 5, 6), (5, 6), (4, 1, 6), (1, 1, 1, 6)])
def test_masks_of_any_broadcastable_rank(shape):
    p = bind(
        aten.scaled_dot_product_attention.default, empty(2, 4, 5, 3), empty(2, 4, 6, 3), empty(2, 4, 6, 3), empty(shape)
    )
    assert len(p.operands[3]) == len(shape)
    assert kinds(p)["s"] == "pass"


def test_a_causal_query_length_is_whole():
    q = empty(2, 4, 5, 3)
    p = bind(aten.scaled_dot_product_attention.default, q, q, q, None, 0.0, True)
    assert kinds(p)["s"] == "whole"


def test_attention_dropout_draws_and_makes_no_partial_sums():
    q = empty(2, 4, 5, 3)
    attend = aten.scaled_dot_product_attention.default
    assert bind(attend, q, q, q).linear == ({2},) and not bind(attend, q, q, q).random
    dropped = bind(attend, q, q, q, None, 0.1)
    assert dropped.random and dropped.linear == () and kinds(dropped) == kinds(bind(attend, q, q, q))


def test_what_draws_is_linear_in_nothing():
    assert bind(aten.dropout.default, empty(2), 0.5, True).linear == ()
    assert bind(aten.dropout.default, empty(2), 0.5, False).linear == ({0},)
    book = RuleBook(read("rule aten.dropout.default(input[*]) -> [*]\n linear input\n random if train"))
    x = empty(2)
    assert book.bind(aten.dropout.default, (x, 0.5, True), {}, x).linear == ()
    assert book.bind(aten.dropout.default, (x, 0.5, False), {}, x).linear == ({0},)


@pytest.mark.parametrize(
    "a, b, sums",
    [((3, 4), (4, 5), 1), ((2, 3, 4), (4,), 1), ((4,), (2, 4, 5), 1), ((4,), (4,), 1), ((2, 1, 3, 4), (6, 4, 5), 1)],
)
def test_matmul_of_any_ranks(a, b, sums):
    p = bind(aten.matmul.default, empty(a), empty(b))
    assert p.kinds.count("reduce") == sums
    assert "whole" not in p.kinds


def test_a_slice_that_keeps_a_dim_lets_it_be_split():
    assert kinds(bind(aten.slice.Tensor, empty(4, 6), 1, 0, 2**63 - 1)) == {"*0": "pass", "*1": "pass"}
    cut = bind(aten.slice.Tensor, empty(4, 6), 1, 1, 6)
    assert cut.kinds == ("pass", "whole", "whole")
    assert cut.sizes == (4, 6, 5)


def test_expand_makes_a_factor_that_only_the_result_has():
    p = bind(aten.expand.default, empty(2, 1, 3), [2, 5, 3])
    assert p.operands == (((0,), (), (1,)),)
    assert p.results == (((0,), (2,), (1,)),)
    assert p.kinds == ("pass",) * 3


def test_reduced_dims_by_argument():
    assert bind(aten.sum.dim_IntList, empty(2, 3, 4), [-1, 0], True).results == (((), (1,), ()),)
    assert bind(aten.sum.dim_IntList, empty(2, 3, 4), [-1]).results == (((0,), (1,)),)
    assert bind(aten.sum.dim_IntList, empty(2, 3), None).kinds == ("reduce", "reduce")


def test_gather_needs_equal_sizes_where_it_passes():
    index = torch.zeros(2, 5, dtype=torch.int64)
    looked_up = bind(aten.gather.default, empty(2, 3), 1, index)
    assert looked_up.operands == (((0,), (1,)), ((0,), (2,))) and looked_up.results == (((0,), (2,)),)
    assert kinds(looked_up) == {"*0": "pass", "*1": "whole", "*1'": "pass"}
    assert kinds(bind(aten.gather.default, empty(4, 3), 1, index)) == {
        "*0": "whole", "*1": "whole", "*0'": "whole", "*1'": "pass"
    }  # fmt: skip


def test_index_select_splits_the_index_or_the_other_dims():
    p = bind(aten.index_select.default, empty(2, 3, 4), 1, torch.zeros(5, dtype=torch.int64))
    assert p.operands == (((0,), (1,), (2,)), ((3,),)) and p.results == (((0,), (3,), (2,)),)
    assert p.kinds == ("pass", "whole", "pass", "pass")


def test_index_keeps_the_dims_of_the_indices():
    p = bind(
        aten.index.Tensor, empty(4, 6), [torch.zeros(3, 1, dtype=torch.int64), torch.zeros(1, 5, dtype=torch.int64)]
    )
    assert p.kinds == ("whole", "whole", "pass", "pass")
    assert p.results == (((2,), (3,)),)


def test_several_results_and_lists():
    assert len(bind(aten.split.Tensor, empty(7, 3), 3).results) == 3
    assert bind(aten.unbind.int, empty(3, 4), 0).results == (((1,),),) * 3
    assert bind(aten.cat.default, [empty(2, 3), empty(2, 4)], 1).kinds == ("pass", "whole", "whole", "whole")
    assert bind(aten.topk.default, empty(2, 5), 2).results == (((0,), (2,)), ((0,), (2,)))


def test_symbolic_sizes():
    from torch._subclasses import FakeTensorMode
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    mode = FakeTensorMode(shape_env=ShapeEnv())
    with mode:
        size = mode.shape_env.create_unbacked_symint()
        torch._check(size >= 2)
        x = torch.empty(2, size, 24)
        p = bind(aten.view.default, x, [2, size, 3, 8])
    assert p.kinds == ("pass",) * 4
    assert p.operands == (((0,), (1,), (2, 3)),)


def test_an_operator_without_a_rule_gets_a_draft_that_is_a_rule():
    with pytest.raises(RuleError) as caught:
        bind(aten._cdist_forward.default, empty(2, 3, 5), empty(2, 4, 5), 2.0, None)
    text = str(caught.value)
    assert "operator 'aten._cdist_forward.default' has no rule" in text
    draft = text[text.index("rule aten._cdist") :]
    assert draft.split("\n")[0] == "rule aten._cdist_forward.default(x1[a, b, c], x2[a, d, c]) -> [a, b, d]"
    book = RuleBook(read(draft))
    p = book.bind(aten._cdist_forward.default, (empty(2, 3, 5), empty(2, 4, 5), 2.0, None), {}, empty(2, 3, 4))
    assert set(p.kinds) == {"whole"}


def test_an_operator_that_takes_functions_has_no_rule():
    with pytest.raises(RuleError) as caught:
        default_rules().bind(torch.ops.higher_order.cond, (), {}, empty(2))
    assert str(caught.value) == (
        "error: 'cond' is a higher-order operator: no rule can speak of it\n"
        "   = rule: a rule names the arguments of an operator's schema; an operator that takes functions has none\n"
        "   = fix: write the model in operators that have rules: "
        "torch.nn.functional.scaled_dot_product_attention for attention"
    )


def test_a_rule_that_does_not_fit_says_why():
    book = RuleBook(read("rule aten.relu.default(self[a, b]) -> [a, b]"))
    with pytest.raises(RuleError, match="a tensor has 3 dims, the rule names 2"):
        book.bind(aten.relu.default, (empty(2, 3, 4),), {}, empty(2, 3, 4))


def test_sizes_that_disagree_are_refused():
    book = RuleBook(read("rule aten.relu.default(self[...]) -> [...]"))
    with pytest.raises(RuleError, match=r"dim '\*0' has sizes 2 and 3"):
        book.bind(aten.relu.default, (empty(2),), {}, empty(3))


@pytest.mark.parametrize("name", [n for n in default_rules().names() if not dropped(n)])
def test_every_rule_names_the_operands_and_arguments_of_its_operator(name: str):
    from autosp.rules.verify import resolve

    target = resolve(name)
    assert target is not None, "this torch has no such operator"
    schema = {a.name: str(a.type) for a in target._schema.arguments}
    for rule in default_rules().by_name[name]:
        asked = {t.arg for c in rule.clauses for t in c.tests}
        asked |= {str(s.arg) for c in rule.clauses for s in c.selectors if s.kind == "padded"}
        asked |= {
            s.arg for c in rule.clauses for s in c.selectors if s.kind in ("at", "last") and isinstance(s.arg, str)
        }
        if not isinstance(rule.form, str):
            operands = {o.name for o in rule.form.operands}
            asked |= operands
            assert {n for n, kind in schema.items() if "Tensor" in kind} <= operands
        assert asked <= set(schema)
