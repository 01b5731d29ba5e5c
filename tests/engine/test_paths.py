"""Every way to call a compiled model gives the unsharded program's numbers, on real ranks."""

from __future__ import annotations

import pytest

from tests.engine import paths
from tests.execute.launch import Outcome, errors, launch

WORLD = {"ddp_with_dp": 4}


@pytest.fixture(scope="module")
def walked(request: pytest.FixtureRequest) -> dict[str, tuple[Outcome, ...]]:
    names = [i.callspec.params["name"] for i in request.session.items if i.path == request.path and hasattr(i, "callspec")]
    found = {}
    for world in (2, 4):
        here = [name for name in names if WORLD.get(name, 2) == world]
        found |= dict(zip(here, launch(world, "tests.engine.paths:walk", here), strict=True))
    return found


@pytest.mark.parametrize("name", list(paths.PATHS))
def test_numbers_of_the_unsharded_program(name: str, walked: dict[str, tuple[Outcome, ...]]):
    outcomes = walked[name]
    assert not errors(outcomes), errors(outcomes)
    for outcome in outcomes:
        found = outcome.value
        assert found["loss"] <= 1 and found["parameter"] <= 1, found
        assert found["losses"] == outcomes[0].value["losses"], "the loss is the same bits on every rank"
        assert {key: found[key] for key in EXACT.get(name, {})} == EXACT.get(name, {})
        assert all(found[key] <= 1 for key in WITHIN.get(name, ())), found


EXACT = {
    "lengths_static": {"plans": [1, 2, 2, 3, 3]},
    "lengths_dynamic": {"plans": [1, 1, 1]},
    "lengths_dynamic_and_uneven": {"plans": [1, 1, 1, 1]},
    "marked_inputs_of_a_compiled_model": {},
    "evaluation_after_training": {"plan": True, "bare_loss": None, "training_logits": None},
}
WITHIN = {
    "evaluation_after_training": ("eval_loss", "eval_logits", "bare_logits", "back_in_training"),
    "two_models_in_turn": ("first",),
}
