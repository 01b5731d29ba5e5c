"""The residual stream in the host's memory: what the graphs become, the same gradients, what is predicted of it."""

from __future__ import annotations

import attrs
import pytest
import torch

from autosp.engine.inner import compile_inner
from autosp.engine.traced import planned
from autosp.lower import Rank, lower
from autosp.recompute import Partitioner, decide, tile
from autosp.recompute.choose import Chooser
from autosp.recompute.notes import offload_notes
from autosp.recompute.trace import trace_joint
from autosp.solve import load_device
from autosp.spec import Recompute, parse
from tests.recompute.ranks import SPEC, llama

LAYERS = 3


@pytest.fixture(scope="module")
def program():
    """A model that one rank runs alone: its local graph and inputs."""
    model, inputs = llama(layers=LAYERS, length=128)
    plan, _, examples = planned(model, inputs, parse(SPEC), sp=1)
    return model, lower(plan, Rank(0, "none", complete=False)), examples


def test_copies_stand_in_both_graphs_and_gradients_are_the_same_bits(program) -> None:
    model, local, examples = program
    choice = decide(local, examples, Recompute("sac"), device=load_device("cpu"), p=1).choice
    gradients, copies = [], []

    class Counting(Partitioner):
        def __call__(self, *args, **kwargs):
            modules = super().__call__(*args, **kwargs)
            copies.append([sum("device_put" in str(n.target) for n in m.graph.nodes) for m in modules])
            return modules

    for offload in (False, True):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("autosp.engine.inner.Partitioner", Counting)
            run = compile_inner("aot_eager", local, examples, attrs.evolve(choice, offload=offload))
            for p in model.parameters():
                p.grad = None
            (loss,) = (x for x in run(*examples) if isinstance(x, torch.Tensor))
            loss.backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
    assert copies == [[0, 0], [LAYERS, LAYERS]]
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_a_caches_key_tells_it(program) -> None:
    _, local, examples = program
    choice = decide(local, examples, Recompute("sac"), device=load_device("cpu"), p=1).choice
    assert Partitioner(choice).uuid() != Partitioner(attrs.evolve(choice, offload=True)).uuid()


def test_the_peak_holds_the_residual_of_few_layers(program) -> None:
    _, local, examples = program
    joint, _ = trace_joint(local, examples)
    chooser = Chooser(joint, load_device("a100-80gb"), 1, offload=True)
    least = chooser.least(protect=False)
    away = chooser.candidate(least.saved, offload=True)
    residual = max(s.bytes for s in least.schedule.saved)
    assert least.peak.held == LAYERS * residual or least.peak.gradients  # where the backward begins, or has gone on
    assert away.peak.held <= 2 * residual and away.peak.bytes <= least.peak.bytes
    assert away.seconds >= least.seconds


@pytest.mark.slow
def test_it_is_used_where_a_budget_needs_it() -> None:
    model, inputs = llama(layers=8, length=1024)
    spec = parse(SPEC + "tile loss 8\ntile mlp 4\n")
    plan, _, examples = planned(model, inputs, spec, sp=1)
    local, _, _ = tile(lower(plan, Rank(0, "none", complete=False)), spec.tile)
    device = attrs.evolve(load_device("a100-80gb"), host=1e15)

    def decided(limit: int, offload: bool):
        return decide(local, examples, Recompute("sac", "auto"), device=device, p=1, limit=limit, offload=offload)

    assert decided(2**40, offload=True).choice is None  # all fits
    least = decided(0, offload=False)
    away = decided(least.peak - 1, offload=True)
    assert not least.fits and away.fits and away.choice.offload
    assert "the residual stream crosses in the host's memory" in away.text


def test_without_a_host_nothing_is_moved_and_that_is_said() -> None:
    (note,) = offload_notes(True, 0.0)
    assert note == "offload residual: the memory is the host's own; nothing is moved"
    assert offload_notes(True, 25e9) == offload_notes(False, 0.0) == ()
