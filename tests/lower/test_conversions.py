"""Every change of placement on random tensors: forward by the definition of the kinds, backward by
their gradients' kinds, in double precision and to the bit."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autosp.lower import convert, scale_gradient
from autosp.parity import run_ranks
from autosp.sharding import (
    INVARIANT,
    PARTIAL,
    REPLICATE,
    TRANSITIONS,
    Coordinate,
    Split,
    assemble,
    row_key,
    shard,
    transition,
)

KINDS = {"replicate": REPLICATE, "invariant": INVARIANT, "partial": PARTIAL}
SHORT = settings(max_examples=12, deadline=None)
SIZES = st.integers(1, 3)


def cuts(dim: int, size: int) -> list[Split]:
    """Every split of a dim."""
    divisors = [n for n in range(1, size + 1) if size % n == 0]
    return [Split(dim, a, b, size // a // b) for a in divisors for b in divisors if size // a % b == 0]


@st.composite
def messages(draw, pair: tuple[str, str]):
    """Ranks, and one to three tensors with the splits that a pair of kinds asks for."""
    p = draw(st.integers(2, 4))
    tensors = []
    for _ in range(draw(st.integers(1, 3)) if TRANSITIONS[pair].together else 1):
        parts = [(draw(SIZES), draw(st.integers(1, 7)), draw(SIZES)) for _ in range(2)]
        dims = [outer * units * inner for outer, units, inner in parts]
        free = draw(SIZES)
        at = draw(st.integers(0, 2))
        shape = (*dims[:at], free, *dims[at:])
        where = [i for i in range(3) if i != at]
        splits = [Split(d, *part) for d, part in zip(where, parts)]
        src, dst = draw(st.permutations(splits))
        if pair[1] == "split of the same dim":
            dst = draw(st.sampled_from(cuts(src.dim, src.size)))
        tensors.append((shape, KINDS.get(pair[0], src), KINDS.get(pair[1], dst)))
    return p, tensors, draw(st.integers(0, 2**16))


def given_values(shape, placement, p: int, generator, dtype=torch.float64) -> list[torch.Tensor]:
    """What each rank holds: whole numbers in double precision, so that every sum is exact; of a complex dtype, both
    parts are, and they are conjugates that are not worked out yet."""

    def whole():
        x, y = (torch.randint(-9, 10, shape, generator=generator).double() for _ in range(2))
        return torch.complex(x, y).conj() if dtype.is_complex else x

    if placement is PARTIAL:
        return [whole() for _ in range(p)]
    x = whole()
    return [shard(x, placement, p, r).clone() for r in range(p)]


GRADIENT = {"split": "split", "replicate": "partial", "partial": "replicate", "invariant": "invariant"}


def gradient_of(placement):
    """The placement of the gradient of a value."""
    return placement if isinstance(placement, Split) else KINDS[GRADIENT[placement.value]]


def run(p: int, tensors, pair, seed: int, diff: bool = True, dtype=torch.float64):
    """Every rank's inputs, outputs, gradients given and gradients received, per tensor."""
    generator = torch.Generator().manual_seed(seed)
    held = [given_values(shape, src, p, generator, dtype) for shape, src, _ in tensors]
    grads = [given_values(shape, gradient_of(dst), p, generator, dtype) for shape, _, dst in tensors]
    srcs, dsts = tuple(src for _, src, _ in tensors), tuple(dst for _, _, dst in tensors)

    def body(rank: int, group):
        xs = tuple(h[rank].requires_grad_(diff) for h in held)
        out = convert(xs, srcs, dsts, Coordinate("sp", p, rank, group.name), diff)
        if diff:
            torch.autograd.backward(out, [g[rank] for g in grads])
        return [o.detach() for o in out], [x.grad for x in xs], list(group.log[rank])

    found = run_ranks(p, body)
    return held, grads, found


def whole(parts, placement) -> torch.Tensor:
    return assemble([x.detach() for x in parts], placement)


def assert_equal_parts(parts, placement) -> None:
    """Kinds that say that all ranks hold one value."""
    if placement in (REPLICATE, INVARIANT):
        assert all(torch.equal(x, parts[0]) for x in parts)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
@pytest.mark.parametrize("pair", sorted(TRANSITIONS), ids="-".join)
def test_forward_keeps_the_value_and_backward_is_its_adjoint(pair, dtype):
    @SHORT
    @given(messages(pair))
    def check(message):
        p, tensors, seed = message
        held, grads, found = run(p, tensors, pair, seed, dtype=dtype)
        for i, (shape, src, dst) in enumerate(tensors):
            outputs = [outs[i] for outs, _, _ in found]
            received = [back[i] for _, back, _ in found]
            assert torch.equal(whole(outputs, dst), whole(held[i], src))
            assert torch.equal(whole(received, gradient_of(src)), whole(grads[i], gradient_of(dst)))
            assert_equal_parts(outputs, dst)
            assert_equal_parts(received, gradient_of(src))
            assert all(o.shape == shard(torch.empty(shape), dst, p, r).shape for r, o in enumerate(outputs))

    check()


@pytest.mark.parametrize("at", [*KINDS.values(), Split(0, 1, 4, 1)], ids=repr)
def test_a_placement_knows_its_gradients(at):
    assert at.gradient == gradient_of(at)


@pytest.mark.parametrize("pair", sorted(TRANSITIONS), ids="-".join)
def test_without_a_gradient_the_forward_is_the_same(pair):
    @settings(max_examples=4, deadline=None)
    @given(messages(pair))
    def check(message):
        p, tensors, seed = message
        held, _, found = run(p, tensors, pair, seed, diff=False)
        for i, (_, src, dst) in enumerate(tensors):
            assert torch.equal(whole([outs[i] for outs, _, _ in found], dst), whole(held[i], src))

    check()


@pytest.mark.parametrize("dtype", [torch.bool, torch.float8_e4m3fn, torch.bfloat16, torch.complex64], ids=str)
@pytest.mark.parametrize("pair", [("split", "split"), ("split", "replicate"), ("replicate", "split")], ids="-".join)
def test_what_moves_may_be_of_any_dtype(pair, dtype):
    src, dst = KINDS.get(pair[0], Split(0, 1, 3, 1)), KINDS.get(pair[1], Split(1, 1, 5, 1))
    x = torch.randint(0, 2, (3, 5), generator=torch.Generator().manual_seed(0)).to(dtype)

    def body(rank, group):
        part = shard(x, src, 2, rank)
        return convert((part,), (src,), (dst,), Coordinate("sp", 2, rank, group.name), False)[0]

    parts = run_ranks(2, body)
    assert all(part.dtype is dtype for part in parts)
    assert torch.equal(whole([part.to(torch.complex64) for part in parts], dst), x.to(torch.complex64))


@pytest.mark.parametrize("pair", [("split", "split"), ("split", "replicate"), ("split", "invariant")], ids="-".join)
def test_tensors_of_one_message_take_one_collective_each_way(pair):
    tensors = [((4, 6), Split(0, 1, 4, 1), KINDS.get(pair[1], Split(1, 1, 3, 2)))] * 3
    _, _, found = run(2, tensors, pair, 0)
    forward, backward = {
        "split": (["all_to_all"], ["all_to_all"]),
        "replicate": (["all_gather"], ["reduce_scatter"]),
        "invariant": (["all_gather"], []),
    }[pair[1]]
    assert all(log == forward + backward for _, _, log in found)


@pytest.mark.parametrize("pair", sorted(TRANSITIONS), ids="-".join)
def test_the_solver_prices_what_the_lowering_sends(pair):
    """The collectives that the table names are those that run."""
    src, dst = KINDS.get(pair[0], Split(0, 1, 4, 1)), KINDS.get(pair[1], Split(1, 1, 4, 1))
    dst = Split(0, 2, 2, 1) if pair[1] == "split of the same dim" else dst
    assert row_key(src, dst) == pair
    row = transition(src, dst)
    named = [step.kind for step in (row.forward, row.backward) if step.wire.communicates]
    _, _, found = run(2, [((4, 4), src, dst)], pair, 0)
    assert all(log == named for _, _, log in found)
    assert {step.kind for step in (row.forward, row.backward)} - set(named) <= {"slice", "none"}


@SHORT
@given(st.integers(2, 4), st.integers(1, 4), st.integers(0, 99))
def test_even_and_uneven_paths_agree(p, times, seed):
    """A split that ranks divide, written coarse (even) and fine (units that a size hides)."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(-9, 10, (p * times, 2, 2 * p), generator=generator).double()

    def outputs(s, d):
        def body(rank, group):
            part, here = shard(x, s, p, rank), Coordinate("sp", p, rank, group.name)
            (out,) = convert((part,), (s,), (d,), here, False)
            (all_,) = convert((part,), (s,), (REPLICATE,), here, False)
            (summed,) = convert((x,), (PARTIAL,), (s,), here, False)
            return out, all_, summed

        return run_ranks(p, body)

    class Hidden(int):
        """An int that the even path cannot recognise."""

        def __mod__(self, other):
            return 1 if other == p else int(self) % other

    fine = Split(0, 1, Hidden(p * times), 1), Split(2, 1, Hidden(2 * p), 1)
    coarse = Split(0, 1, p, times), Split(2, 1, p, 2)
    for a, b in zip(outputs(*coarse), outputs(*fine)):
        assert all(torch.equal(u, v) for u, v in zip(a, b))


def test_a_scaled_gradient_leaves_the_value_alone():
    x = torch.randn(3, requires_grad=True)
    y = scale_gradient(x, 4.0)
    y.sum().backward()
    assert torch.equal(y, x) and torch.equal(x.grad, torch.full((3,), 4.0))


def test_a_rank_that_fails_wakes_the_others_and_is_named():
    def body(rank, group):
        if rank == 1:
            raise ValueError("no such thing")
        return convert((torch.ones(2),), (PARTIAL,), (REPLICATE,), Coordinate("sp", 3, rank, group.name), False)

    with pytest.raises(RuntimeError, match=r"^rank 1: ValueError: no such thing$"):
        run_ranks(3, body)


def test_ranks_that_call_different_collectives_are_told():
    def body(rank, group):
        src = PARTIAL if rank == 0 else Split(0, 1, 2, 1)
        return convert((torch.ones(1),), (src,), (REPLICATE,), Coordinate("sp", 2, rank, group.name), False)

    with pytest.raises(RuntimeError, match="ranks disagree on the collective"):
        run_ranks(2, body)
