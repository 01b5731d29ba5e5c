"""How far two runs are apart: by the worst step, and by the worst parameter."""

from __future__ import annotations

import pytest
import torch

from autosp.parity.gap import measure_gap


def test_the_gap_names_the_worst_step_and_parameter():
    expected = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([10.0])}
    gap = measure_gap([1.0, 2.0], [1.0, 2.002], expected, {"a": torch.tensor([1.0, 2.02]), "b": expected["b"]})
    assert (gap.step, gap.name, gap.within) == (2, "a", False)
    assert gap.loss == pytest.approx(1e-3) and gap.parameter == pytest.approx(1e-2, rel=1e-3)


def test_what_is_no_number_is_no_match():
    expected = {"a": torch.tensor([1.0])}
    assert not measure_gap([1.0], [float("nan")], expected, expected).within
    assert not measure_gap([1.0], [1.0], expected, {"a": torch.tensor([float("nan")])}).within
