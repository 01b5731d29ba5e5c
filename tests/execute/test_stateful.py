"""Checkpoints continue to the bit, and on another number of ranks; dropout is dropout."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from autosp.parity.gap import measure_gap
from autosp.parity.launch import environment, errors, launch
from autosp.parity.trial import unsharded
from autosp.spec import load
from tests.execute import stateful

HERE = "tests.execute.stateful"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("checkpoint")
    (outcomes,) = launch(2, f"{HERE}:save_and_go_on", [str(folder)], 240.0)
    assert not errors(outcomes), errors(outcomes)
    return folder, [outcome.value for outcome in outcomes]


def test_a_checkpoint_continues_to_the_bit(saved):
    expected = unsharded(stateful.trial_of(2), load("llama"))
    for through, resumed in saved[1]:
        assert resumed.losses == through.losses
        assert all(torch.equal(resumed.parameters[name], value) for name, value in through.parameters.items())
        gap = measure_gap(expected.losses[stateful.BEFORE :], through.losses, expected.parameters, through.parameters)
        assert gap.within, gap


@pytest.mark.slow
def test_a_universal_checkpoint_continues_on_another_number_of_ranks(saved, tmp_path: Path):
    convert = [sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal", "--inject_missing_state"]
    convert += ["--input_folder", str(saved[0] / "half"), "--output_folder", str(tmp_path / "universal")]
    done = subprocess.run(convert, env={**os.environ, **environment()}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (tmp_path / "latest_universal").write_text("universal")
    (outcomes,) = launch(4, f"{HERE}:resume_universal", [str(tmp_path)], 300.0)
    assert not errors(outcomes), errors(outcomes)
    expected = unsharded(stateful.trial_of(2), load("llama"))
    for outcome in outcomes:
        found = outcome.value
        gap = measure_gap(expected.losses[stateful.BEFORE :], found.losses, expected.parameters, found.parameters)
        assert gap.within, gap


def test_dropout_differs_on_shards_agrees_on_replicas_and_has_the_unsharded_mean():
    (outcomes,) = launch(2, f"{HERE}:dropout", [None], 240.0, deepspeed=False)
    assert not errors(outcomes), errors(outcomes)
    first, second = (outcome.value for outcome in outcomes)
    for name, value in first.items():
        assert torch.equal(value, second[name]), f"{name} differs between the ranks"
    kept, half = first["kept"], first["kept"].shape[2] // 2
    assert not torch.equal(kept[:, :, :half], kept[:, :, half:])
    assert abs(agreement(kept[:, :, :half], kept[:, :, half:]) - 0.5) < 0.02  # as of independent draws
    assert abs(kept.float().mean() - 0.5) < 0.01
    assert abs(agreement(first["biases"][1:], first["biases"][:-1]) - 0.5) < 0.1  # a new draw each time
    model = stateful.Dropped()
    expected = stateful.over_seeds(model, model)
    for name in ("losses", "gradients"):
        assert float(scores(expected[name], first[name]).abs().max()) < 4.5, name


def agreement(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a == b).float().mean())


def scores(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """How many standard errors the means over seeds are apart."""
    return (a.mean(0) - b.mean(0)) / torch.sqrt((a.var(0) + b.var(0)) / len(a))
