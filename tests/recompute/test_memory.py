"""The predicted peak against the one that a rank really has, storage by storage."""

from __future__ import annotations

import pytest

from tests.recompute.ranks import One, llama, one_rank, silent_group

SETTINGS = ("none", "sac", "sac budget 0.7", "full")


@pytest.fixture(scope="module")
def rank() -> One:
    with silent_group() as group:
        yield one_rank(*llama(layers=3), group)


@pytest.mark.parametrize("setting", SETTINGS)
def test_the_peak_is_the_measured_one(rank: One, setting: str) -> None:
    decision = rank.decide(setting)
    peak, between = rank.measure(decision)
    assert decision.peak == pytest.approx(peak, rel=0.02)
    assert sum(decision.saved.values()) == pytest.approx(between, rel=0.02)


def test_a_smaller_budget_holds_less_and_takes_longer(rank: One) -> None:
    found = [rank.decide(f"sac budget {x}") for x in ("1.0", "0.85", "0.7")]
    assert all(d.fits for d in found)
    assert [d.peak for d in found] == sorted((d.peak for d in found), reverse=True)
    assert [d.seconds for d in found] == sorted(d.seconds for d in found)


def test_what_cannot_fit_has_the_least_peak_and_says_so(rank: One) -> None:
    decision = rank.decide("sac budget 1MiB", limit=2**20)
    assert not decision.fits and decision.text == "the least peak: nothing fits"
    assert decision.peak <= rank.decide("full").peak


def test_where_all_fits_nothing_is_recomputed(rank: One) -> None:
    assert rank.decide("sac budget auto", limit=2**40).choice is None


def test_the_place_of_the_peak_is_in_the_users_code(rank: One) -> None:
    assert "modeling_llama.py" in rank.decide("sac").at or "loss_utils.py" in rank.decide("sac").at
