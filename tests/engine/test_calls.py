"""Calls as trainers and users make them, on real ranks: the numbers of the unsharded program, or why not."""

from __future__ import annotations

import pytest

from autosp.parity.launch import Outcome
from tests.engine import golden
from tests.engine.calls import CALLS

RANKS = {name: (2, "tests.engine.calls:run") for name in CALLS}
EXACT = {
    "twelve_lengths_and_counts": {"plans": 2},
    "twelve_counts_of_one_length": {"plans": 2},
    "lengths_that_grow": {"plans": 4},  # of 16; of 20, up to 32; of 36, up to 64; of 70
    "generation": {"same tokens": True, "said": [1, 0]},
    "a_cache_in_training": {"said": [1, 0, 1, True]},
    "packed_rows": {"another loss": True, "said": [1, 0]},
    "logits_that_are_left_out": {"left": ["Absent", "Absent", "Absent", 2, False, "Absent"]},
}
WITHIN = {
    "generation": ("eval_loss", "step"),
    "packed_rows": ("together",),
    "logits_that_are_left_out": ("gradients", "logits"),
}


@pytest.mark.parametrize("name", RANKS)
def test_numbers_of_the_unsharded_program(name: str, ranks: tuple[Outcome, ...]):
    for outcome in ranks:
        found = outcome.value
        assert found["loss"] <= 1 and found["parameter"] <= 1, found
        assert {key: found[key] for key in EXACT.get(name, {})} == EXACT.get(name, {})
        assert all(found[key] <= 1 for key in WITHIN.get(name, ())), found
    if name == "logits_that_are_left_out":
        assert ranks[0].value["met"] == ranks[1].value["met"]
        golden.expect("calls", name, ranks[0].value["met"])
    if name == "a_cache_in_training":
        golden.expect("calls", name, ranks[0].value["refused"])


def test_no_text_is_left_over():
    assert golden.names("calls") == {"logits_that_are_left_out", "a_cache_in_training"}
