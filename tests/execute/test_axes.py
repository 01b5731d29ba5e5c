"""A dim over two axes of the mesh is split over all their ranks."""

from __future__ import annotations

from autosp.parity.gap import measure_gap
from autosp.parity.launch import errors, launch
from tests.execute import axes


def test_a_dim_over_two_axes_trains_as_if_it_were_not_split() -> None:
    (outcomes,) = launch(4, "tests.execute.axes:sharded", [None], 240.0, deepspeed=False)
    assert not errors(outcomes), errors(outcomes)
    reference = axes.expected()
    for found, plan in (outcome.value for outcome in outcomes):
        gap = measure_gap(reference.losses, found.losses, reference.parameters, found.parameters)
        assert gap.within, gap
        assert "8@sp_tp" in plan and "seq@sp_tp" in plan
