"""docs/operators.md: every operator without a rule has a reason."""

from __future__ import annotations

import re

import torch

from tests.operators import NEW, PAGE, operators, page, why


def test_every_operator_without_a_rule_is_on_the_page_with_a_reason():
    written = PAGE.read_text(encoding="utf-8")
    assert NEW not in written
    if f"in torch {torch.__version__.split('+')[0]} " in written:  # another release has other operators
        known, now = re.findall(r"`([\w.]+)`", written), re.findall(r"`([\w.]+)`", page())
        assert set(now) <= set(known) and NEW not in page()


def test_reasons():
    assert why("aten.silu_backward.default") == "Backwards"
    assert why("aten.fft_fft.default") == "Transforms and complex numbers"
    assert why("aten.something_new.default") == NEW
    assert "aten.linear.default" in operators() and "aten.add_.Tensor" not in operators()
