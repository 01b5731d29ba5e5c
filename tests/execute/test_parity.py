"""The sharded program against the unsharded one, in real processes: loss on every rank, and every parameter."""

from __future__ import annotations

import re

import pytest

from autosp.parity.launch import Outcome, errors, launch
from tests.execute.case import Case
from tests.execute.cases import CASES, QUICK
from tests.execute.programs import Result
from tests.execute.reference import LOSS_BAR, Reference, loss_error, reference

Parity = dict[Case, tuple[Reference, tuple[Outcome, ...]]]


def _parameters(cases: list[Case]) -> list:
    return [pytest.param(case, id=case.name, marks=_marks(case)) for case in cases]


def _marks(case: Case) -> list:
    return [pytest.mark.inductor] * (case.backend == "inductor") + [pytest.mark.slow] * (case not in QUICK)


@pytest.fixture(scope="module")
def parity(request: pytest.FixtureRequest) -> Parity:
    """Every selected case, run in as few launches as there are meshes."""
    selected = [item.callspec.params["case"] for item in request.session.items if _is_parity_case(item)]
    table: Parity = {}
    for mesh in sorted({(case.dp, case.sp) for case in selected}):
        cases = [case for case in selected if (case.dp, case.sp) == mesh]
        items = [(case, reference(case)) for case in cases]
        outcomes = launch(cases[0].world, "tests.execute.programs:sharded", items)
        table.update((case, (expected, got)) for (case, expected), got in zip(items, outcomes, strict=True))
    return table


def _is_parity_case(item: pytest.Item) -> bool:
    return getattr(item, "originalname", "") == "test_sharded_training_equals_unsharded"


@pytest.mark.parametrize("case", _parameters(CASES))
def test_sharded_training_equals_unsharded(case: Case, parity: Parity) -> None:
    expected, outcomes = parity[case]
    assert not errors(outcomes), errors(outcomes)
    results = [outcome.value for outcome in outcomes]
    _loss_is_global(case, results)
    assert loss_error(expected.losses, _mean_over_dp(case, results)) <= LOSS_BAR
    for rank, result in enumerate(results):
        assert result.difference.ratio <= 1, f"rank {rank}: {result.difference}"


def _loss_is_global(case: Case, results: list[Result]) -> None:
    """To the bit the same on every rank of an sp group."""
    for rank, result in enumerate(results):
        assert result.losses == results[rank - rank % case.sp].losses, f"rank {rank}"


def _mean_over_dp(case: Case, results: list[Result]) -> tuple[float, ...]:
    own = [results[rank].losses for rank in range(0, case.world, case.sp)]
    return tuple(sum(step) / case.dp for step in zip(*own, strict=True))


REFERENCE_CASES = [
    Case(path="zero1", backend="inductor", mask="ones"),
    Case(path="zero1", backend="inductor", mask="ones", labels="prompt"),
]


@pytest.mark.slow
@pytest.mark.parametrize("case", _parameters(REFERENCE_CASES))
def test_deepspeeds_own_pass_is_measured(case: Case, capsys: pytest.CaptureFixture) -> None:
    """The pass this project replaces, under the same bar. Its figures are printed, not asserted."""
    expected = reference(case)
    (outcomes,) = launch(case.world, "tests.execute.programs:deepspeeds_own_pass", [(case, expected)])
    with capsys.disabled():
        print(f"\nDeepSpeed's own pass, {case.name}:")
        for outcome in outcomes:
            print(f"  rank {outcome.rank}: {_figures(expected, outcome)}")


def _figures(expected: Reference, outcome: Outcome) -> str:
    if outcome.error:
        return [line for line in outcome.error.splitlines() if re.match(r"[\w.]*Error: ", line)][-1]
    result = outcome.value
    loss, worst = loss_error(expected.losses, result.losses), result.difference
    return (
        f"loss {loss:.1e} relative (bar {LOSS_BAR:.0e}), "
        f"{worst.parameter} {worst.relative:.1e} of its largest, {worst.ratio:.1e} times the bar"
    )
