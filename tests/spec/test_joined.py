"""Axes that always split together are one axis."""

from __future__ import annotations

import pytest

from autosp.spec import parse
from autosp.spec.joined import join, joined
from autosp.syntax import parse_layout

TWO = """
mesh    [dp: local, sp, tp]
input   ids     [batch@dp, seq@(sp tp)]
output  loss    []
constrain mlp output [batch@dp, seq@(sp tp), hidden]
reduce  loss mean over [dp, sp, tp]
"""


def test_a_spec_over_both_axes_is_one_over_their_product():
    found = joined(parse(TWO))
    assert str(found) == (
        "mesh    [dp: local, sp_tp]\n\n"
        "input   ids   [batch@dp, seq@sp_tp]\n\n"
        "output  loss  []\n\n"
        "attention ulysses\n\n"
        "constrain mlp  output [batch@dp, seq@sp_tp, hidden]\n\n"
        "recompute none\n"
        "reduce    loss mean over [dp, sp_tp]\n"
    )
    assert parse(str(found)) == found


@pytest.mark.parametrize(
    "change",
    [("seq@(sp tp)]", "seq@sp]"), ("seq@(sp tp)]", "seq@(tp sp)]"), ("seq@(sp tp), hidden", "seq@sp, hidden@tp"),
     ("output  loss    []", "output  loss    []\ndim seq divides tp"), (", tp]\ninput", "]\ninput")],
)  # fmt: skip
def test_axes_that_also_stand_alone_are_left_alone(change):
    text = TWO.replace(*change)
    if change[0].startswith(", tp]"):
        text = text.replace("(sp tp)", "sp").replace(", sp, tp]", ", sp]")
    spec = parse(text)
    assert joined(spec) is spec


def test_a_layout_is_joined_where_the_axes_stand_together():
    layout = parse_layout("[batch@dp, (heads@(sp tp) group), seq]")
    assert str(join(layout, "sp_tp")) == "[batch@dp, (heads@sp_tp group), seq]"
