"""The gradients of plain eager PyTorch, to 1e-6 of their largest value in fp32, under every setting."""

from __future__ import annotations

import pytest
import torch

from autosp.engine.inner import compile_inner
from autosp.engine.traced import planned
from autosp.lower import Rank, lower
from autosp.recompute import decide, tile
from autosp.solve import load_device
from autosp.spec import parse
from autosp.spec.policies import as_recompute
from tests.recompute.ranks import SPEC, llama

TILES = SPEC + "tile loss 5\ntile mlp 3\n"
WHOLE = ("sac", "sac budget 0.8", "full")
IN_TILES = ("none", "sac", "sac budget 0.5", "full")
CASES = [*((setting, False) for setting in WHOLE), *((setting, True) for setting in IN_TILES)]
BAR, FLOOR = 1e-6, 1e-7  # of a gradient's largest value, and of the largest of all


@pytest.fixture(scope="module")
def eager() -> tuple:
    """A model, its inputs, and its gradients by plain PyTorch."""
    model, inputs = llama(layers=2, length=96)
    model(**inputs).loss.backward()
    gradients = [p.grad.clone() for p in model.parameters()]
    return model, inputs, gradients


@pytest.fixture(scope="module")
def program(eager: tuple) -> tuple:
    """The local graph of one rank alone, and its inputs."""
    model, inputs, _ = eager
    plan, _, examples = planned(model, inputs, parse(SPEC), sp=1)
    return lower(plan, Rank(0, "none", complete=False)), examples


@pytest.mark.parametrize(("setting", "tiled"), CASES, ids=lambda x: {True: "tiles", False: "whole"}.get(x, x))
def test_gradients_are_those_of_eager(setting: str, tiled: bool, eager: tuple, program: tuple) -> None:
    model, _, expected = eager
    local, examples = program
    if tiled:
        local, made, _ = tile(local, parse(TILES).tile)
        assert {t.what for t in made} == {"loss", "mlp"}
    decision = decide(local, examples, as_recompute(setting, None, "test"), device=load_device("cpu"), p=1)
    run = compile_inner("aot_eager", local, examples, decision.choice)
    for p in model.parameters():
        p.grad = None
    (loss,) = (x for x in run(*examples) if isinstance(x, torch.Tensor))
    loss.backward()
    largest = max(g.abs().max().item() for g in expected)
    for (name, p), g in zip(model.named_parameters(), expected, strict=True):
        assert (p.grad - g).abs().max().item() <= BAR * g.abs().max().item() + FLOOR * largest, name
