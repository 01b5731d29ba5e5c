"""Training under every setting of recompute, in real processes, against plain eager PyTorch."""

from __future__ import annotations

import attrs
import pytest

from autosp import resources
from autosp.engine.resolve import spec_for
from autosp.parity.launch import launch
from autosp.parity.messages import page
from autosp.parity.trial import Trial
from autosp.parity.verdict import of_outcomes, references
from tests.execute.families import build

LLAMA = Trial("tests.execute.families:LlamaForCausalLM", labels="unequal")
TILES = resources.read("models", "llama") + "tile mlp 2\ntile loss 3\ntile mask 3\n"
FIRST = [
    attrs.evolve(LLAMA, recompute="sac"),
    attrs.evolve(LLAMA, recompute="full", spec=TILES, dynamic=True, lengths=(32, 27)),
    attrs.evolve(LLAMA, recompute="sac budget 0.6", spec=TILES, zero=1, optimizer="adam", labels="empty", mask="left"),
]
REST = [
    *(attrs.evolve(LLAMA, recompute=s) for s in ("none", "sac budget 0.6", "sac budget 1GiB", "sac budget auto")),
    *(attrs.evolve(LLAMA, recompute=s, spec=TILES, mask="right") for s in ("none", "sac", "full")),
    attrs.evolve(LLAMA, recompute="sac", lengths=(31,), mask="right"),
    attrs.evolve(LLAMA, model="tests.execute.families:MixtralForCausalLM", recompute="full"),
    attrs.evolve(LLAMA, model="tests.execute.families:GPT2LMHeadModel", recompute="sac"),
]
INDUCTOR = attrs.evolve(LLAMA, recompute="sac budget 0.6", spec=TILES, backend="inductor")
TRIALS = [
    *FIRST,
    *(pytest.param(trial, marks=pytest.mark.slow) for trial in REST),
    pytest.param(INDUCTOR, marks=[pytest.mark.slow, pytest.mark.inductor]),
]


def _name(trial: Trial) -> str:
    words = [trial.model.rsplit(":", 1)[1], trial.recompute]
    words += ["tiles"] * (trial.spec == TILES) + ["dynamic"] * trial.dynamic + ["zero"] * (trial.zero is not None)
    return "-".join([*words, *([trial.backend] if trial.backend != "aot_eager" else [])])


@pytest.fixture(scope="module")
def verdicts(request: pytest.FixtureRequest) -> dict:
    """All selected trials, in one launch of two ranks."""
    items = [i for i in request.session.items if i.path == request.path and "verdicts" in i.fixturenames]
    trials = [i.callspec.params["trial"] for i in items]
    specs = [spec_for(trial.spec, build(trial.model.rsplit(":", 1)[1])) for trial in trials]
    outcomes = launch(2, "autosp.parity.sharded:on_rank", list(zip(trials, specs, strict=True)), 900.0)
    return {
        trial: of_outcomes(trial, references(trial, spec), found)
        for trial, spec, found in zip(trials, specs, outcomes, strict=True)
    }


@pytest.mark.parametrize("trial", TRIALS, ids=_name)
def test_training_is_that_of_the_unsharded_program(trial: Trial, verdicts: dict) -> None:
    assert verdicts[trial].exact, page(verdicts[trial])
