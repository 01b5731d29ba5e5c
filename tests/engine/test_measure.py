"""Predicted against measured, of a model that was trained a few steps."""

from __future__ import annotations

import re

import pytest
import torch
import torch.distributed as dist

import autosp
from autosp.engine.measuring import predicted
from autosp.errors import EngineError
from tests.engine.tiny import Tiny, batch


@pytest.fixture(scope="module")
def trained(world_of_one):
    """A model on one rank, and its optimizer, after a number of steps."""
    mesh = dist.init_device_mesh("cpu", (1, 1), mesh_dim_names=("dp", "sp"))

    def train(steps: int):
        torch.manual_seed(0)
        model = autosp.compile(Tiny(), "causal_lm", mesh=mesh, backend="aot_eager")
        optimizer = torch.optim.AdamW(model.parameters())
        for _ in range(steps):
            optimizer.zero_grad()
            model(**batch()).loss.backward()
            optimizer.step()
        return model

    return train


def test_a_step_and_a_peak(trained) -> None:
    model = trained(3)
    found = autosp.measure(model)
    states = sum(p.numel() * p.element_size() * 3 for p in model.parameters())  # AdamW keeps two moments
    assert found.calls == 3 and found.measured_seconds > 0
    assert found.predicted_peak > states and found.measured_peak is None
    plan, _, decision = predicted(model)
    assert plan is model.autosp_plan
    assert found.predicted_seconds == pytest.approx(plan.step_seconds + decision.seconds)
    lines = str(found).splitlines()
    assert lines[0].startswith("step   predicted ") and "on cpu (forward and backward), measured" in lines[0]
    assert re.fullmatch(r"compile  planned in \d+\.\d s \(solved\), compiled in \d+\.\d s", lines[2])
    assert lines[1].startswith("peak   predicted ") and lines[1].endswith("this device does not count its allocations")


def test_before_a_whole_step(trained) -> None:
    with pytest.raises(EngineError, match="was called 1 times, and no whole step was seen yet") as e:
        autosp.measure(trained(1))
    assert "train three steps, then measure" in str(e.value)


def test_what_was_not_compiled() -> None:
    with pytest.raises(EngineError, match="this Tiny was not compiled by autosp"):
        autosp.measure(Tiny())
