"""All ranks' local graphs in one process, against the unsharded program in plain eager PyTorch."""

import pytest
import torch

from autosp.parity import simulate
from tests.lower.models import Llama, Toy, assert_parity, captured, misses, named, planned, reference

TOYS = ("mlp", "attention", "fused", "tokens", "pooled")


@pytest.mark.parametrize("kind", TOYS)
@pytest.mark.parametrize(("p", "length"), [(1, 12), (2, 12), (3, 12), (4, 10), (4, 3), (8, 12)])
def test_toy(kind, p, length):
    for attention in ("ulysses", "gather", "auto"):
        assert_parity(Toy(kind, length=length), p, attention)


@pytest.mark.parametrize("kind", TOYS)
def test_toy_in_double_precision(kind):
    assert_parity(Toy(kind, length=10, dtype=torch.float64), 4)


@pytest.mark.parametrize("kind", TOYS)
def test_toy_with_symbolic_lengths(kind):
    assert_parity(Toy(kind, length=10), 4, dynamic=True)


@pytest.mark.parametrize(("p", "length"), [(2, 9), (4, 10)])
@pytest.mark.parametrize("kind", ["scan", "lent"])
def test_a_scan_and_borrowed_shapes(kind, p, length):
    plan = assert_parity(Toy(kind, length=length, width=6), p)
    if kind == "lent":  # what lends its shape or dtype is sent nowhere
        assert [r.kind for r in plan.reshards if r.kind != "slice"] == ["all_reduce"]


def test_borrowed_shapes_with_symbolic_lengths():
    assert_parity(Toy("lent", length=10, width=6), 4, dynamic=True)


LLAMAS = [
    (Llama(kv_heads=4), 1, "ulysses"),
    (Llama(kv_heads=4), 2, "gather"),
    (Llama(kv_heads=4), 3, "auto"),
    (Llama(kv_heads=4), 8, "ulysses"),
    (Llama(kv_heads=2, length=30, mask="right", batch=2, attn="eager"), 4, "ulysses"),
    (Llama(kv_heads=2, length=30, mask="right", batch=2, attn="eager"), 3, "gather"),
    (Llama(length=3, mask="ones"), 4, "ulysses"),
    (Llama(length=3, mask="ones"), 8, "gather"),
    (Llama(kv_heads=1, length=33, labels="prompt", positions=False), 2, "ulysses"),
    (Llama(kv_heads=1, length=33, labels="prompt", positions=False), 4, "auto"),
    (Llama(labels="last", attn="eager"), 4, "ulysses"),
    (Llama(kv_heads=4, length=30, mask="right", batch=2, dtype=torch.float64), 4, "ulysses"),
    (Llama(kv_heads=4, length=30, mask="right", batch=2, dtype=torch.float64), 4, "gather"),
]


@pytest.mark.parametrize(("program", "p", "attention"), LLAMAS, ids=str)
def test_llama(program, p, attention):
    assert_parity(program, p, attention)


@pytest.mark.parametrize(("p", "attention"), [(4, "ulysses"), (3, "gather")])
def test_llama_with_symbolic_lengths(p, attention):
    assert_parity(Llama(kv_heads=2, length=30, mask="ones", layers=1), p, attention, dynamic=True)


@pytest.mark.slow
@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("attn", ["sdpa", "eager"])
@pytest.mark.parametrize("kv_heads", [8, 2, 1])
@pytest.mark.parametrize(("length", "mask", "batch"), [(32, "absent", 1), (33, "right", 2), (3, "ones", 2)])
def test_llama_everywhere(length, mask, batch, kv_heads, attn, dynamic):
    program = Llama(kv_heads=kv_heads, length=length, mask=mask, batch=batch, attn=attn)
    for p, attention in [(2, "ulysses"), (3, "gather"), (4, "auto"), (8, "ulysses")]:
        assert_parity(program, p, attention, dynamic=dynamic)


def test_gradients_that_an_engine_sums_are_partial():
    """With `complete=False` each rank holds its part: the parts sum to the gradient."""
    program = Toy("tokens")
    graph, inputs = captured(program)
    results = [named(graph, *found) for found in simulate(planned(program, 3), inputs, complete=False)]
    summed = {name: sum(grads[name] for _, grads in results) for name in results[0][1]}
    assert not misses((results[0][0], summed), reference(program))
    assert misses(results[0], reference(program))


def test_a_scale_of_the_gradient_leaves_the_loss_alone():
    program = Toy("attention")
    graph, inputs = captured(program)
    loss, expected = reference(program)
    for found in simulate(planned(program, 2), inputs, grad_scale=2.0):
        assert not misses(named(graph, *found), (loss, {name: 2 * g for name, g in expected.items()}))


def test_no_valid_label_is_nan_as_in_eager():
    class Ignored(Toy):
        def inputs(self):
            batch = super().inputs()
            return {**batch, "labels": torch.full_like(batch["labels"], -100)}

    program = Ignored("tokens")
    graph, inputs = captured(program)
    assert reference(program)[0].isnan()
    for found in simulate(planned(program, 2), inputs):
        assert named(graph, *found)[0].isnan()
