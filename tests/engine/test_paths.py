"""Every way to call a compiled model gives the unsharded program's numbers, on real ranks."""

from __future__ import annotations

import pytest

from autosp.parity.launch import Outcome
from tests.engine import paths

RANKS = {name: (4 if "dp_and_sp" in name else 2, "tests.engine.paths:walk") for name in paths.PATHS}


@pytest.mark.parametrize("name", RANKS)
def test_numbers_of_the_unsharded_program(name: str, ranks: tuple[Outcome, ...]):
    for outcome in ranks:
        found = outcome.value
        assert found["loss"] <= 1 and found["parameter"] <= 1, found
        assert found["losses"] == ranks[0].value["losses"], "the loss is the same bits on every rank"
        assert {key: found[key] for key in EXACT.get(name, {})} == EXACT.get(name, {})
        assert all(found[key] <= 1 for key in WITHIN.get(name, ())), found


BY_ITSELF = (
    "autosp: the model could not be compiled for all lengths at once, so each length is compiled by itself: "
    "NotImplementedError: not with symbols. autosp.compile(..., dynamic=False) does not try"
)
EXACT = {
    "lengths_each_by_itself": {"plans": [1, 2, 3, 3], "said": [BY_ITSELF]},
    "lengths_each_by_itself_where_the_first_decides": {"plans": [1, 2, 3, 3]},
    "lengths_static": {"plans": [1, 2, 2, 2]},
    "lengths_dynamic": {"plans": [1, 1, 1, 1]},
    "marked_inputs_of_a_compiled_model": {"split": True},
    "copies_after_a_step": {"plans": [True, None]},
    "plan_of_an_earlier_run": {"same": True},
    "plan_made_before_there_was_a_process_group": {"equal": True, "said": "the whole was in PyTorch's cache"},
    "evaluation_after_training": {"plan": True, "bare_loss": None, "training_logits": "Absent"},
}
WITHIN = {
    "evaluation_after_training": ("eval_loss", "eval_logits", "bare_logits", "back_in_training"),
    "two_models_in_turn": ("first",),
    "copies_after_a_step": ("copied", "averaged", "loaded"),
}
