"""The model of a compiler's kernels: what is written, what is joined, in which order, and whose place is taken."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import fx

from autosp.recompute import Compiler, tile
from autosp.recompute.fuse import fused
from autosp.recompute.joint import Joint, Storage
from autosp.recompute.order import ordered
from autosp.recompute.reuse import reserved_bytes
from autosp.recompute.runs import Run
from autosp.recompute.schedule import schedule
from autosp.recompute.trace import trace_joint
from autosp.spec import Tile
from tests.recompute.programs import LOSSES, Head, local, planned, tokens

W = torch.ones(16, 16)


def forward(f, *inputs) -> tuple[Joint, tuple[Run, ...]]:
    """The kernels of a function's forward."""
    given = [x.clone().requires_grad_() for x in inputs]
    joint, _ = trace_joint(fx.symbolic_trace(f), given, Compiler(True).decompositions())
    s = schedule(joint, ())
    keep = {x.id for n in joint.outputs for x in joint.of.get(n, ())}
    return joint, fused(joint, s.forward, keep, "cpu")


def made(runs) -> list[int]:
    return [len(r.makes) for r in runs]


def test_pointwise_work_is_written_into_its_reader() -> None:
    _, runs = forward(lambda x: ((x.sin() * 2 + 1).cos(),), W)
    assert made(runs) == [1] and len(runs[0].nodes) == 4 and runs[0].kernel


def test_what_a_product_reads_is_in_memory() -> None:
    _, runs = forward(lambda x, w: ((torch.mm(x.sin() + 1, w) * 2).cos(),), W, W)
    assert made(runs) == [1, 1, 1] and [r.kernel for r in runs] == [True, False, True]


def test_a_reduction_and_what_reads_it_row_by_row_are_one_kernel() -> None:
    _, runs = forward(lambda x: (x * (x * x).mean(-1, keepdim=True).rsqrt(),), torch.ones(16, 24))
    assert len(runs) == 1 and made(runs) == [1] and runs[0].inside == 16 * 4


def test_an_addition_to_a_product_is_one_call() -> None:
    _, runs = forward(lambda x, y, w: (y + torch.mm(x, w),), W, W, W)
    assert made(runs) == [1] and len(runs[0].nodes) == 2 and not runs[0].kernel


def test_a_kernel_writes_over_what_it_alone_reads() -> None:
    _, runs = forward(lambda x, w: (torch.mm(x, w).sin(),), W, W)
    ((new, old),) = runs[1].over
    assert new in runs[1].makes and old in runs[0].makes


def test_kernels_of_two_tiles_are_not_joined() -> None:
    plan, given = planned(partial(Head, LOSSES["huggingface"], vocab=512), tokens(1, 128, vocab=512))
    gm, _, _ = tile(local(plan), [Tile("loss", 4)])
    joint, _ = trace_joint(gm, given, Compiler(True).decompositions())
    for runs in (fused(joint, nodes, (), "cuda") for nodes in _programs(joint)):
        wide = [r for r in runs if any(s.bytes >= 128 // 4 * 512 * 4 for s in r.makes)]
        assert len(wide) >= 4 and all(len(_tiles(r)) <= 1 for r in wide)


def _programs(joint: Joint):
    s = schedule(joint, ())
    return s.forward, s.backward


def _tiles(run: Run) -> set:
    """The tiles of the wide values that a kernel makes."""
    return {s.maker.meta.get("custom", {}).get("autosp_tile") for s in run.makes if s.bytes >= 128 // 4 * 512 * 4}


# By hand: runs without operators, on storages of so many bytes.


@pytest.fixture
def storage():
    graph = fx.Graph()

    def make(bytes_: int) -> Storage:
        node = graph.placeholder(f"x{len(graph.nodes)}")
        node.meta["val"] = torch.empty(bytes_, dtype=torch.uint8, device="meta")
        return Storage(len(graph.nodes), node, node, bytes_, None)

    return make


def run(needs=(), makes=(), **more) -> Run:
    return Run((), tuple(needs), tuple(makes), kernel=True, **more)


def test_the_order_of_the_least_peak_is_taken(storage) -> None:
    big = [storage(100) for _ in range(3)]
    small = [storage(1) for _ in range(3)]
    out = storage(1)
    makers = [run(makes=[b]) for b in big]
    readers = [run(needs=[b], makes=[s]) for b, s in zip(big, small, strict=True)]
    end = run(needs=small, makes=[out])
    found = ordered([*makers, *readers, end], (), {out.id})
    assert [found.index(r) - found.index(m) for m, r in zip(makers, readers, strict=True)] == [1, 1, 1]


def test_a_run_comes_behind_what_it_needs(storage) -> None:
    a, b = storage(8), storage(8)
    first, second = run(makes=[a]), run(needs=[a], makes=[b])
    assert ordered([second, first], (), {b.id}) == (first, second)


def test_a_place_is_kept_for_a_later_value_of_its_size(storage) -> None:
    a, b, c, d, e = (storage(n) for n in (40, 10, 10, 40, 90))
    runs = [run(makes=[a]), run([a], [b]), run([b], [c]), run([c], [d]), run([d], [e])]
    assert reserved_bytes(runs, (), {e.id}) == [0, 0, 40, 0, 0]  # where the next 40 bytes will be


def test_no_place_is_kept_that_would_raise_the_peak(storage) -> None:
    a, b, c, d, e = (storage(n) for n in (40, 10, 60, 10, 40))
    runs = [run(makes=[a]), run([a], [b]), run([b], [c]), run([c], [d]), run([d], [e])]
    assert reserved_bytes(runs, (), {e.id}) == [0] * 5


def test_what_is_written_over_leaves_no_place(storage) -> None:
    a, b, c, d = (storage(n) for n in (40, 40, 10, 40))
    runs = [run(makes=[a]), run([a], [b], over=((b, a),)), run([b], [c]), run([c], [d])]
    assert reserved_bytes(runs, (), {d.id}) == [0, 0, 0, 0]
