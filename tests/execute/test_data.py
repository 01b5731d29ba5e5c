"""What a forward reads of its data: assertions, numbers, and sizes that only the data tell."""

from __future__ import annotations

import re

import pytest
import torch

from autosp.engine.dynamo_backend import ends
from autosp.engine.failures import asserting
from autosp.lower import Rank, check, lower
from autosp.parity import run_ranks, simulate
from autosp.parity.judging import judge
from autosp.parity.launch import errors, launch
from autosp.parity.messages import page
from autosp.parity.trial import Trial
from autosp.passes import global_graph
from autosp.sharding import MeshAxis
from autosp.solve import load_device, solve
from autosp.spec import parse
from tests.execute import data

FAILS = """\
error: an assertion of the model fails on these inputs: activations are finite
  --> data.py in mix: torch._check_tensor_all_with(ValueError, x.isfinite(), lambda: "activations are finite")
   = rule: what the model asserts of its values holds in every call; it is asserted on all ranks
   = fix: look at that line: the batch of this step is not one that the model takes"""
MAPPED = data.SPEC + "map     expert over seq\n"


def verdict_of(name: str, sp: int, spec: str = data.SPEC, **fields):
    return judge(
        Trial(f"tests.execute.data:{name}", spec=spec, sp=sp, lengths=(10, 13), lr=0.1, **fields), simulate=True
    )


@pytest.mark.parametrize("name", ["Checked", "Numbers", "Features"])
@pytest.mark.parametrize("dynamic", [False, True])
def test_what_reads_data_is_exact(name: str, dynamic: bool):
    verdict = verdict_of(name, sp=3, dynamic=dynamic)
    assert verdict.exact, page(verdict)


def test_a_size_that_the_data_tell_of_a_split_value_is_refused_and_the_fix_is_exact():
    refused = verdict_of("Picked", sp=2).refusal
    assert refused.what == (
        "operator aten.index.Tensor gives as many elements as the data tell, and its operand embedding is split over sp"
    )
    assert "'map expert over seq' runs it on shards" in refused.text
    verdict = verdict_of("Picked", sp=2, spec=MAPPED)
    assert verdict.exact, page(verdict)


def solved(model, idx, p: int):
    spec = parse(data.SPEC)
    graph, inputs = global_graph(
        model,
        {"idx": idx, "targets": idx},
        layout_of=lambda name, x: spec.input(name).layout if spec.input(name) else None,
    )
    return solve(graph, ends(spec, graph), axis=MeshAxis("sp", p), device=load_device("cpu")), inputs


def test_every_rank_raises_where_one_shard_alone_holds_what_is_wrong():
    """The count of it is summed over the ranks."""
    plan, inputs = solved(data.Checked(), torch.arange(20).view(2, 10), 3)
    simulate(plan, inputs)
    with torch.no_grad():
        next(x for x in inputs if isinstance(x, torch.nn.Parameter) and x.shape == (64, 16))[19, 0] = torch.nan

    def body(rank, group):
        local = lower(plan, Rank(rank, group.name))
        with pytest.raises(RuntimeError) as caught:
            asserting(local, plan.problem.captured)(*inputs)
        return str(caught.value)

    said = set(run_ranks(3, body))
    assert len(said) == 1
    assert re.sub(r"data.py:\d+", "data.py", said.pop()) == FAILS


def test_no_shard_is_gathered_for_an_assertion_and_none_is_lost():
    plan, _ = solved(data.Checked(), torch.zeros(2, 4096, dtype=torch.long), 2)
    assert {r.kind for r in plan.reshards} == {"slice", "all_reduce"}
    for rank in range(2):
        local = lower(plan, Rank(rank, "none"))
        check(plan, local)
        names = [str(n.target) for n in local.graph.nodes if "_assert" in str(n.target)]
        assert sorted(names) == ["aten._assert_async.msg"] * 2 + ["aten._assert_scalar.default"] * 3


@pytest.mark.parametrize(
    "backend", ["aot_eager", pytest.param("inductor", marks=[pytest.mark.slow, pytest.mark.inductor])]
)
def test_real_ranks_raise_together(backend: str):
    (ranks,) = launch(2, "tests.execute.data:fails_on_both_ranks", [backend], 400.0, deepspeed=False)
    assert not errors(ranks), errors(ranks)
    for outcome in ranks:
        assert "error: an assertion of the model fails on these inputs" in outcome.value
        assert "torch._check_tensor_all((idx == IMAGE).sum() < 4)" in outcome.value
        assert "\n   = fix: " in outcome.value
