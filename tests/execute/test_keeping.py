"""What a forward keeps for the next step is kept, whole, on every rank; what cannot be is refused."""

from __future__ import annotations

import pytest

from autosp.parity.judging import judge
from autosp.parity.launch import errors, launch
from autosp.parity.messages import page
from autosp.parity.trial import Trial
from tests.execute import keeping


def verdict_of(name: str, sp: int = 3, lengths=(10, 13), spec: str | None = keeping.SPEC, **fields):
    trial = Trial(f"tests.execute.keeping:{name}", spec=spec, sp=sp, lengths=lengths, lr=0.1, **fields)
    return judge(trial, simulate=True)


def test_buffers_are_kept_from_step_to_step():
    verdict = verdict_of("Frozen")
    assert verdict.exact, page(verdict)


@pytest.mark.parametrize("kind", ["longrope", "yarn"])
def test_frequencies_that_follow_the_length(kind: str):
    """Lengths above and below the original one, in turn."""
    verdict = verdict_of(kind, spec=None, lengths=(33, 10))
    assert verdict.exact, page(verdict)


def test_frequencies_that_python_decides_are_refused_and_the_fix_is_exact():
    refusal = verdict_of("dynamic", spec=None, lengths=(33,)).refusal
    assert refusal.what.startswith("the model breaks the graph: Data-dependent branching")
    assert "decide outside the model" in refusal.text
    verdict = verdict_of("decided", spec=None, lengths=(33,))
    assert verdict.exact, page(verdict)


def test_running_statistics_are_refused_and_the_fix_is_exact():
    refusal = verdict_of("Normed").refusal
    assert (
        refusal.what
        == "'aten.batch_norm.default' updates the running statistics 'norm.running_mean' of positions that are split"
    )
    assert ".eval() on the module 'norm'" in refusal.text
    verdict = verdict_of("Frozen")
    assert verdict.exact, page(verdict)


def test_the_backward_is_of_the_value_that_the_forward_read():
    """Whatever is recomputed: the buffer itself is written by then."""
    names = [f"{name}:{mode}" for name in ("Annealed", "Balanced") for mode in ("none", "sac", "full")]
    for name, ranks in zip(names, launch(2, "tests.execute.keeping:kept", names, deepspeed=False), strict=True):
        assert not errors(ranks), errors(ranks)
        for outcome in ranks:
            assert "gradient of a.weight" in outcome.value or "gradient of gate.weight" in outcome.value
            assert all(worst <= 1e-5 for worst in outcome.value.values()), (name, outcome.value)


def test_real_ranks_keep_what_eager_keeps():
    found = launch(2, "tests.execute.keeping:kept", ["Keeping", "OnlyLoss"], deepspeed=False)
    for ranks, names in zip(
        found, ({"steps", "table", "mean", "seen", "range"}, {"scale", "hidden", "total"}), strict=True
    ):
        assert not errors(ranks), errors(ranks)
        for outcome in ranks:
            assert names <= set(outcome.value)
            assert all(worst <= 1e-4 for worst in outcome.value.values()), outcome.value
