"""Never silently wrong: a model that mixes positions is exact, or refused by name with four parts."""

from __future__ import annotations

import pytest

from autosp.parity.judging import judge
from autosp.parity.messages import page
from autosp.parity.trial import Trial
from tests.execute import odd

RIGHT = (
    "LinearAttention Recurrence Convolution Rolled SquaredError GroupedQueries PerHeadBias PerQueryMask Attention Rotated "
    "AssociativeScan FillsLike SpectralNorm"
).split()
REFUSED = {
    "BatchNorm": "'aten.batch_norm.default' updates the running statistics '",
    "BatchStatistics": "operator aten.batch_norm.default has no rule, and its operand transpose is split",
    "Recurrent": "the model breaks the graph: … Dynamo does not support RNN",  # in other words from torch 2.15 on
    "Fourier": "operator aten.fft_fft.default has no rule, and its operand embedding is split",
    "Scan": "operator scan has no rule, and its operand movedim is split",
    "Branch": "operator cond has no rule, and its operand embedding is split",
    "OwnOperator": "operator autosp_tests.backwards.default has no rule, and its operand embedding is split",
    "WritesItsInput": "'aten.clamp_.default' writes to the input 'targets'",
}


def verdict_of(name: str, sp: int):
    return judge(Trial(f"tests.execute.odd:{name}", spec=odd.SPEC, sp=sp, lengths=(10,), lr=0.1), simulate=True)


@pytest.mark.parametrize("name", RIGHT)
def test_what_mixes_positions_is_exact_all_the_same(name: str):
    verdict = verdict_of(name, sp=3)
    assert verdict.exact, page(verdict)


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_proven_right_is_refused(name: str):
    verdict = verdict_of(name, sp=2)
    begins, _, holds = REFUSED[name].partition("… ")
    assert verdict.refusal and verdict.refusal.what.startswith(begins) and holds in verdict.refusal.what, page(verdict)
    for part in ("error: ", "\n  --> ", "\n   = rule: ", "\n   = fix: "):
        assert part in verdict.refusal.text
