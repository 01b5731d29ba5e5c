"""DeepSpeed engines: a configuration that cannot run is refused with the exact text, others train right."""

from __future__ import annotations

import pytest

from autosp.parity.launch import Outcome
from tests.engine import golden
from tests.engine.test_misuse import said
from tests.engine.with_deepspeed import MISUSE, TRAINED

RANKS = {name: (2, "tests.engine.with_deepspeed:run") for name in [*MISUSE, *TRAINED]}


@pytest.mark.parametrize("name", MISUSE)
def test_a_wrong_configuration_stops_every_rank_with_this_text(name: str, ranks: tuple[Outcome, ...]):
    golden.expect("deepspeed", name, said(ranks))
    assert [outcome.value.collectives for outcome in ranks] == [0, 0]


@pytest.mark.parametrize("name", TRAINED)
def test_engines_train_as_the_unsharded_program(name: str, ranks: tuple[Outcome, ...]):
    for outcome in ranks:
        found = outcome.value
        assert found["loss"] <= 1 and found["parameter"] <= 1, found
        assert found["losses"] == ranks[0].value["losses"]
        assert found.get("second", 0) <= 1 and found.get("logits", 0) <= 1, found
        assert found.get("own_plans", True) and found.get("split", True)
        assert found.get("loss_in_eval") is None


def test_no_text_is_left_over():
    assert golden.names("deepspeed") == set(MISUSE)
