"""The bar itself: it lets the order of sums pass, and nothing else."""

from __future__ import annotations

import pytest
import torch

from tests.execute.case import Case
from tests.execute.reference import compare, loss_error, reference


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_another_order_of_sums_passes(optimizer: str):
    """Attention by another kernel is the same program in another order."""
    one = reference(Case(optimizer=optimizer, batch=2, attn="sdpa"))
    two = reference(Case(optimizer=optimizer, batch=2, attn="eager"))
    assert loss_error(one.losses, two.losses) < 1e-5
    assert 0 < compare(one.parameters, two.parameters).ratio < 1


@pytest.mark.parametrize("other", [{"labels": "unequal"}, {"mask": "right"}, {"accumulate": 2}, {"dp": 2}])
def test_another_program_does_not(other: dict):
    one, two = reference(Case()), reference(Case(**other))
    assert compare(one.parameters, two.parameters).ratio > 1000


def test_dp_is_the_mean_of_what_each_rank_would_lose():
    assert reference(Case(dp=2)).losses[0] == pytest.approx(
        (reference(Case()).losses[0] + _first_loss_of_dp_rank_one()) / 2, rel=1e-6
    )


def _first_loss_of_dp_rank_one() -> float:
    from tests.execute.case import build_batch, build_model

    return float(build_model(Case())(**build_batch(Case(), 0, 0, 1)).loss.detach())


def test_a_zero_parameter_has_the_floor_of_the_largest_one():
    expected = {"large": torch.tensor([100.0]), "zero": torch.tensor([0.0])}
    assert compare(expected, {"large": expected["large"], "zero": torch.tensor([0.9e-5])}).ratio < 1
    assert compare(expected, {"large": expected["large"], "zero": torch.tensor([1.1e-5])}).ratio > 1


@pytest.mark.parametrize("wrong", [{}, {"a": torch.tensor([float("nan")])}, {"a": torch.zeros(2)}])
def test_a_missing_or_broken_parameter_is_infinitely_far(wrong: dict):
    assert compare({"a": torch.tensor([1.0])}, wrong).ratio == float("inf")


def test_a_loss_that_is_no_number_is_infinitely_far():
    assert loss_error((1.0,), (float("nan"),)) == float("inf")
