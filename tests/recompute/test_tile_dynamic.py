"""Tiles of symbolic lengths: one compiled program for every length."""

from functools import partial

import pytest
import torch

from autosp.capture import capture, tracing
from autosp.lower import Rank, lower
from autosp.passes import Context, Program, run
from autosp.recompute.tile_values import quiet
from autosp.recompute.tiling import tile
from autosp.sharding import MeshAxis
from autosp.solve import load_device, solve
from autosp.spec import Tile
from tests.lower.models import ends, layout_of
from tests.recompute.programs import LOSSES, Gated, Gelu, Head, local, misses, planned, rows, run_all, tokens

TOLD = [Tile("loss", 3), Tile("mlp", 3)]
MODELS = {
    "huggingface": (partial(Head, LOSSES["huggingface"]), tokens, "loss"),
    "nanogpt": (partial(Head, LOSSES["nanogpt"]), tokens, "loss"),
    "z_loss": (partial(Head, LOSSES["z_loss"]), tokens, "loss"),
    "gated": (Gated, rows, "mlp"),
    "gelu": (Gelu, rows, "mlp"),
}


@pytest.mark.parametrize("name", ["huggingface", "nanogpt", "gated", "gelu"])
def test_symbolic_lengths(name):
    make, batch, what = MODELS[name]
    plan, inputs = planned(make, batch(2, 11), dynamic=True)

    def change(gm):
        new, (found,), notes = tile(gm, [Tile(what, 3)], plan.problem.hints)
        assert found.what == what and found.tiles == 3 and not notes
        return new

    (expected,), (found,) = run_all(plan, inputs), run_all(plan, inputs, change)
    assert not misses(found, expected)


@pytest.mark.parametrize("rank", [0, 2])
def test_a_ranks_length_is_an_expression(rank):
    """Fourteen tokens over three ranks: what one holds is computed from the global length."""
    plan, _ = planned(MODELS["z_loss"][0], tokens(2, 14), 3, dynamic=True)
    _, tiled, notes = tile(local(plan, rank), [Tile("loss", 2)], plan.problem.hints)
    held = 5 if rank < 2 else 4
    assert [(t.tiles, t.bytes_whole) for t in tiled] == [(2, 2 * held * 96 * 4)] and not notes


@pytest.mark.parametrize("what, name", [("loss", "huggingface"), ("mlp", "gated")])
@pytest.mark.parametrize("length, tiles", [(3, 0), (4, 2), (5, 2), (9, 3)])
def test_no_tile_of_a_length_that_changes_has_one_token(what, name, length, tiles):
    make, batch, _ = MODELS[name]
    plan, _ = planned(make, batch(1, length), dynamic=True)
    _, tiled, notes = tile(local(plan), [Tile(what, 3)], plan.problem.hints)
    assert [t.tiles for t in tiled] == ([tiles] if tiles else [])
    assert bool(notes) is not bool(tiles) and all("holds 3 tokens of a length that changes" in n for n in notes)


@pytest.mark.parametrize("name, first", [("z_loss", 11), ("gelu", 11), *((n, 5) for n in MODELS if n != "nanogpt")])
def test_one_program_for_every_length(name, first):
    """Compiled at one length and run at others, longer and shorter, without another compilation. (Of five tokens a
    third tile would hold one, in whose program a view of more would fail. A nanoGPT of length 2 has one, by itself.)"""
    make, batch, _ = MODELS[name]
    compiled_for = []

    def backend(gm, example_inputs):
        traced = capture(gm, example_inputs, layout_of=layout_of, dynamic=True)
        captured = run(Program(traced), Context(), until="outline_mapped").captured
        plan = solve(captured, ends(captured), axis=MeshAxis("sp", 1), device=load_device("a100-80gb"))
        with quiet(gm), quiet(captured.graph):
            whole = lower(plan, Rank(0, "sim:none"))
            new, tiled, notes = tile(whole, [t for t in TOLD if t.what == MODELS[name][2]], plan.problem.hints)
            compiled_for.append((len(tiled), notes))
            return torch._dynamo.lookup_backend("aot_eager")(new, example_inputs)

    torch.manual_seed(0)
    model = make().train()
    torch._dynamo.reset()
    with tracing(model):
        compiled = torch.compile(model, backend=backend, fullgraph=True, dynamic=True)
        for length in (first, 16, 4, 2):  # the last: a tile without a token
            results = []
            for call in (model, compiled):
                model.zero_grad()
                out = call(**batch(2, length))
                loss = out[0] if isinstance(out, tuple) else out
                loss.backward()
                results.append([loss.detach(), *(p.grad.clone() for p in model.parameters())])
            assert not misses(results[1], results[0])
    torch._dynamo.reset()
    assert compiled_for == [(1, ())]
