"""What is run twice: counted in the backward's graph; and the minimum cut against all choices there are."""

from __future__ import annotations

import itertools

import attrs
import pytest
import torch
from torch import nn

from autosp.recompute import Choice, Partitioner, kinds
from autosp.recompute.choose import Chooser
from autosp.recompute.joint import crosses_layers
from autosp.recompute.partition import choice_of, named, protected, saved_by
from autosp.recompute.schedule import schedule
from autosp.recompute.trace import default_saved, trace_joint
from autosp.solve import load_device
from tests.recompute.ranks import One, llama, one_rank, silent_group


@pytest.fixture(scope="module")
def rank() -> One:
    with silent_group() as group:
        yield one_rank(*llama(layers=3, length=256), group)


def counts(rank: One, choice: Choice | None) -> dict[str, int]:
    """Forward attentions, collectives and matmuls in the backward graph that the partitioner makes."""
    from torch._functorch.aot_autograd import aot_module_simplified
    from torch._functorch.partitioners import min_cut_rematerialization_partition

    found = {}

    def partition(gm, inputs, **kw):
        modules = (Partitioner(choice) if choice else min_cut_rematerialization_partition)(gm, inputs, **kw)
        nodes = list(modules[1].graph.nodes)
        found.update(
            attention=sum(map(kinds.is_attention, nodes)),
            collectives=sum(map(kinds.is_collective, nodes)),
            matmuls=sum(map(kinds.is_matmul, nodes)),
        )
        return modules

    aot_module_simplified(
        rank.local, rank.examples, fw_compiler=lambda g, i: g, bw_compiler=lambda g, i: g, partition_fn=partition
    )
    return found


def test_sac_runs_no_attention_and_no_collective_twice(rank: One) -> None:
    plain, sac = counts(rank, None), counts(rank, rank.decide("sac").choice)
    assert plain["attention"] == sac["attention"] == 0
    assert plain["collectives"] == sac["collectives"] > 0
    assert sac["matmuls"] > plain["matmuls"]


def test_full_runs_them_twice(rank: One) -> None:
    plain, full = counts(rank, None), counts(rank, rank.decide("full").choice)
    layers = 3
    assert full["attention"] == layers
    assert full["collectives"] > plain["collectives"]


def test_a_planted_attention_or_collective_is_counted(rank: One) -> None:
    """The choice of sac, with the attention and the collectives of one layer allowed to run twice."""
    choice, names = rank.decide("sac").choice, named(rank.joint())
    of_layer = {k for k in names if k[0] == "model.layers.1"}
    allowed = {k for k in of_layer if protected(names[k].maker)}
    planted = attrs.evolve(choice, saved=choice.saved - of_layer, twice=choice.twice | allowed)
    before, after = counts(rank, choice), counts(rank, planted)
    assert after["attention"] == before["attention"] + 1
    assert after["collectives"] > before["collectives"]


def test_what_leaves_a_layer_is_always_saved(rank: One) -> None:
    chooser = Chooser(rank.joint(), rank.plan.device, rank.plan.p)
    for candidate in (chooser.least(protect=False), *chooser.corners()):
        kept = [s for s in candidate.schedule.saved if s.layer and kinds.name_of(s.maker) == "add"]
        assert {"model.layers.0", "model.layers.1"} <= {s.layer for s in kept}


def test_never_worse_than_layers_checkpointed_whole(rank: One) -> None:
    """What leaves a layer is saved, and outside of layers what PyTorch saves."""
    joint, gm = trace_joint(rank.local, rank.examples)
    chooser = Chooser(joint, rank.plan.device, rank.plan.p)
    none = default_saved(joint, gm, len(gm.graph.output_node().args[0]) - joint.inputs)
    layers = {s.id for s in joint.saveable if crosses_layers(s) or (s.layer is None and s.id in none)}
    layerwise = chooser.candidate(layers)
    ours = chooser.fitting(layerwise.peak.bytes)
    assert ours.seconds <= layerwise.seconds and ours.peak.bytes <= layerwise.peak.bytes


def test_a_choice_is_the_same_on_another_trace(rank: One) -> None:
    first, second = rank.joint(), trace_joint(rank.local, rank.examples)[0]
    candidate = Chooser(first, rank.plan.device, rank.plan.p).least(protect=True)
    choice = choice_of(first, candidate.saved, candidate.schedule.again)
    crossing = {s.head.name for s in schedule(second, saved_by(second, choice)).saved}
    assert crossing == {s.head.name for s in candidate.schedule.saved}


def test_the_uuid_tells_plans_and_choices_apart(rank: One) -> None:
    sac, full = rank.decide("sac").choice, rank.decide("full").choice
    others = [full, attrs.evolve(sac, plan="another"), attrs.evolve(sac, saved=frozenset())]
    assert len({Partitioner(c).uuid() for c in (sac, *others)}) == 4
    assert Partitioner(sac).uuid() == Partitioner(attrs.evolve(sac)).uuid()


class Small(nn.Module):
    """Few enough values that every choice can be tried."""

    def __init__(self, p: float = 0.0):
        super().__init__()
        self.a, self.b, self.p = nn.Linear(8, 16), nn.Linear(16, 4), p

    def forward(self, x):
        h = torch.tanh(self.a(x))
        return self.b(torch.dropout(h, self.p, True).exp() * h.sigmoid()).square().mean()


def _small(p: float = 0.0):
    model = Small(p)
    names = dict(model.named_parameters())
    graph = torch.fx.experimental.proxy_tensor.make_fx(
        lambda x, *ps: (torch.func.functional_call(model, dict(zip(names, ps)), (x,)),),
        pre_dispatch=True,
    )(torch.randn(32, 8), *model.parameters())
    inputs = [torch.randn(32, 8), *(p.detach().requires_grad_() for p in model.parameters())]
    return trace_joint(graph, inputs)[0]


@pytest.mark.parametrize("price", [0.0, 1e-12, 1e-10, 3e-10, 1e-9, 1e-7])
def test_the_cut_is_the_best_of_all_choices(price: float) -> None:
    joint = _small()
    chooser = Chooser(joint, load_device("cpu"), 1)
    candidates = [s for s in joint.saveable if s.bytes > 8]
    assert len(candidates) < 12

    def cost(saved) -> float:
        c = chooser.candidate(saved)
        return c.seconds + price * c.bytes

    every = (set(x) for n in range(len(candidates) + 1) for x in itertools.combinations([s.id for s in candidates], n))
    best = min(cost(x) for x in every)
    assert cost(chooser._cut(price, protect=False)) == pytest.approx(best, rel=1e-6, abs=price * 64)


def test_a_draw_is_never_made_twice() -> None:
    joint = _small(p=0.5)
    chooser = Chooser(joint, load_device("cpu"), 1)
    for candidate in (chooser.least(protect=False), *chooser.corners()):
        assert not any(kinds.is_random(n) for n in candidate.schedule.again)
    draws = [n for n in joint.forward if kinds.is_random(n)]
    assert draws and all(k not in choice_of(joint, (), draws).saved for k in named(joint))
