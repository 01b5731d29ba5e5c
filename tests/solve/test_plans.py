"""What the solver chooses: where collectives stand, what falls back, and that the answer is unique."""

import os
import subprocess
import sys
from pathlib import Path

import attrs
import pytest

from autosp.sharding import MeshAxis
from autosp.solve import Device, load_device, solve
from tests.lower.models import Llama, Toy, assert_parity, captured, ends, planned

ROOT = Path(__file__).parents[2]


def kinds(plan, module: str = "") -> list[str]:
    """The collectives of the forward at a module, in order."""
    return [r.kind for r in plan.reshards if r.kind != "slice" and r.module.startswith(module)]


@pytest.mark.parametrize("attn", ["sdpa", "eager"])
@pytest.mark.parametrize("p", [2, 4, 8])
def test_a_llama_sends_q_k_v_in_one_all_to_all_and_the_output_in_one(attn, p):
    plan = planned(Llama(attn=attn), p)
    for layer in (0, 1):
        sent, back = [r for r in plan.reshards if r.kind != "slice" and r.module.startswith(f"model.layers.{layer}.")]
        assert (sent.kind, len(sent.values), sent.module) == ("all_to_all", 3, f"model.layers.{layer}.self_attn")
        assert (back.kind, len(back.values), back.module) == ("all_to_all", 1, f"model.layers.{layer}.self_attn.o_proj")
    assert kinds(plan) == ["all_to_all"] * 4 + ["all_reduce"]
    assert plan.notes == ()


@pytest.mark.parametrize("attn", ["sdpa", "eager"])
def test_gather_keeps_queries_split_and_gathers_keys_and_values(attn):
    plan = planned(Llama(attn=attn), 4, "gather")
    assert kinds(plan) == ["all_gather"] * 2 + ["all_reduce"]
    assert all(len(r.values) == 2 for r in plan.reshards if r.kind == "all_gather")


@pytest.mark.parametrize("attn", ["sdpa", "eager"])
@pytest.mark.parametrize(("heads", "kv_heads"), [(8, 1), (6, 6), (6, 2)])
def test_heads_that_ranks_do_not_divide_are_split_all_the_same(heads, kv_heads, attn):
    plan = assert_parity(Llama(heads=heads, kv_heads=kv_heads, attn=attn), 4)
    assert "all_to_all" in kinds(plan) and plan.notes == ()


@pytest.mark.parametrize("program", [Llama(heads=2, kv_heads=2), Llama(heads=2, kv_heads=2, attn="eager")], ids=str)
def test_more_ranks_than_heads_fall_back_to_the_query_length_with_a_note(program):
    plan = assert_parity(program, 4)
    assert kinds(plan) == ["all_gather"] * 2 + ["all_reduce"]
    assert plan.notes == tuple(
        f"model.layers.{layer}.self_attn: attention ulysses has no valid split over sp=4 here; "
        "the query length is split and keys and values are gathered"
        for layer in (0, 1)
    )


@pytest.mark.parametrize("program", [Llama(), Llama(attn="eager", kv_heads=2), Toy("mlp"), Toy("tokens")], ids=str)
@pytest.mark.parametrize("attention", ["ulysses", "gather", "auto"])
def test_no_work_is_replicated(program, attention):
    plan = planned(program, 4, attention)
    for op, chosen in plan.chosen.items():
        if op.diff and op.tagged and not op.projection.movement and not chosen.split:
            assert all(v.numel == 1 for v in op.results), op.node.format_node()


@pytest.mark.parametrize("program", [Llama(), Llama(kv_heads=1), Toy("attention")], ids=str)
@pytest.mark.parametrize("p", [2, 3, 4])
def test_hidden_states_are_never_gathered(program, p):
    """Gathering a projection's input to split its features would send fewer bytes at two ranks."""
    plan = planned(program, p)
    for change in plan.changes:
        value = plan.problem.values[change.value]
        if change.src.dims and not change.dst.dims and value.diff:
            assert len(value.shape) > 3, value.name  # keys or values by head


@pytest.mark.parametrize("attention", ["ulysses", "gather"])
def test_masks_and_positions_are_never_sent(attention):
    program = Llama(mask="right", batch=2, length=96)
    slow = attrs.evolve(load_device("a100-80gb"), name="slow memory", bandwidth=1e3)
    graph, _ = captured(program)
    plan = solve(graph, ends(graph, attention), axis=MeshAxis("sp", 2), device=slow)
    for change in plan.changes:
        value = plan.problem.values[change.value]
        assert value.diff or not change.src.dims, value.name


# One attention of q, k, v and output, B bytes each, over p ranks, forward and backward, by
# autosp/solve/cost.py. An all-to-all sends B(p-1)/p², a gather and its reduce-scatter B(p-1)/p;
# tensors that travel together share one latency L. Ulysses: 2 messages each way, 4 tensors, and
# k, v saved split; gathering: 1 each way, 2 tensors, and k, v saved whole:
#   U = 4L + 8B(p-1)/p²/rate + SAVED·2B/p/rate        G = 2L + 4B(p-1)/p/rate + SAVED·2B/rate
# so that U < G exactly where L < B/rate · (p-1)/p · (2 + SAVED - 4/p), with SAVED = 0.1.
def crossing(size: float, rate: float, p: int) -> float:
    return size / rate * (p - 1) / p * (2.1 - 4 / p)


@pytest.mark.parametrize("kind", ["fused", "attention"])
@pytest.mark.parametrize("p", [2, 4, 8])
@pytest.mark.parametrize(("factor", "expected"), [(0.98, "all_to_all"), (1.02, "all_gather")])
def test_auto_flips_where_the_cost_formulas_cross(kind, p, factor, expected):
    program = Toy(kind, batch=1, length=64, width=32, heads=8)
    rate = 1e6
    latency = factor * crossing(4 * 64 * 32, rate, p)
    device = Device("toy", {"fp32": 1e18}, 1.0, 2**30, 1e15, 8, (rate, latency), (rate, latency))
    graph, _ = captured(program)
    plan = solve(graph, ends(graph, "auto"), axis=MeshAxis("sp", p), device=device)
    assert set(kinds(plan)) - {"all_reduce"} == {expected}


@pytest.mark.parametrize("program", [Llama(), Llama(kv_heads=1), Toy("attention"), Toy("tokens")], ids=str)
def test_solving_again_gives_the_same_plan(program):
    graph, _ = captured(program)
    plan = planned(program, 4)
    again = solve(graph, ends(graph), axis=MeshAxis("sp", 4), device=load_device("a100-80gb"))
    assert again.describe() == plan.describe() and again.summary() == plan.summary()


PROGRAMS = [(Toy("attention"), True), (Toy("tokens"), False)]
FRESH = """
from tests.solve.test_plans import PROGRAMS, text
print(text(PROGRAMS), end="")
"""


def text(programs) -> str:
    """Plans of programs, whole."""
    plans = [planned(program, 4, dynamic=dynamic) for program, dynamic in programs]
    return "\n".join(f"{plan.describe()}\n{plan.summary()}" for plan in plans)


def test_a_fresh_process_with_another_hash_seed_gives_the_same_plan():
    assert _output(FRESH) == text(PROGRAMS)


@pytest.mark.slow
def test_a_fresh_process_gives_the_same_plan_of_a_llama():
    programs = "[(Llama(kv_heads=4), False), (Llama(kv_heads=4), True)]"
    script = f"from tests.solve.test_plans import Llama, text\nprint(text({programs}), end='')"
    assert _output(script) == text([(Llama(kv_heads=4), False), (Llama(kv_heads=4), True)])


def _output(script: str) -> str:
    seed = str((int(os.environ.get("PYTHONHASHSEED", "0").replace("random", "0")) + 1) % 2**32)
    env = {**os.environ, "PYTHONHASHSEED": seed}
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    return done.stdout


def test_one_rank_keeps_everything_whole():
    plan = planned(Llama(), 1)
    assert plan.reshards == () and not any(at.dims for at in plan.shardings.values())


@pytest.mark.parametrize("p", [2, 4])
def test_predicted_seconds_are_the_sum_of_the_parts(p):
    plan = planned(Llama(), p)
    assert 0 < plan.compute_seconds < planned(Llama(), 1).compute_seconds
    assert plan.communication_seconds == pytest.approx(sum(r.seconds for r in plan.reshards))
    assert plan.step_seconds == plan.compute_seconds + plan.communication_seconds
    assert all((r.bytes > 0) == (r.kind != "slice") for r in plan.reshards)


def test_a_plan_can_be_printed():
    assert len(repr(planned(Llama(), 2))) < 20_000


def test_a_plan_says_what_a_mask_costs_where_one_is_made():
    causal, padded = (planned(Llama(length=1024, mask=mask, positions=False), 2) for mask in ("absent", "ones"))
    assert causal.notes == ()
    (note,) = padded.notes
    assert note == (
        "model.layers.0.self_attn: a mask of 1.0 MiB per rank, since it depends on data or is more than causal "
        "(also for 1 more)"
    )
    assert f"  note: {note}" in padded.summary()
