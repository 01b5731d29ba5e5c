"""Every family trains exactly, with the spec that its class chooses and nothing else said."""

from __future__ import annotations

import pytest

from tests.execute.families import FAMILIES, unsharded
from autosp.cli._launch import errors, launch
from tests.execute.reference import LOSS_BAR, loss_error


@pytest.fixture(scope="module")
def answers(request: pytest.FixtureRequest) -> dict:
    """One launch for all the families that this run selected."""
    selected = [item.callspec.params["name"] for item in request.session.items if "answers" in item.fixturenames]
    expected = {name: unsharded(name) for name in selected}
    found = launch(2, "tests.execute.families:sharded", list(expected.items()), timeout=180, deepspeed=False)
    return {name: (expected[name], outcomes) for name, outcomes in zip(selected, found, strict=True)}


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_trains_as_if_it_were_not_sharded(name: str, answers: dict) -> None:
    expected, outcomes = answers[name]
    assert not errors(outcomes), errors(outcomes)
    for outcome in outcomes:
        assert loss_error(expected.losses, outcome.value.losses) <= LOSS_BAR
        assert outcome.value.difference.ratio <= 1, outcome.value.difference
    assert len({outcome.value.losses for outcome in outcomes}) == 1
