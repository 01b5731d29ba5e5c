"""MLPs in tiles, found by their products alone."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from autosp.recompute.tiling import tile
from autosp.spec import Tile
from tests.lower.models import Llama, captured
from tests.lower.models import planned as planned_model
from tests.recompute.programs import Gated, Gelu, local, misses, planned, rows, run, run_all, through

NOTHING = "tile mlp: no product with a weight widens what another one narrows again, token by token"


class Adapted(Gated):
    """Low-rank additions beside every product, as LoRA has them."""

    def __init__(self):
        super().__init__()
        self.into = nn.ModuleList(nn.Linear(8, 2, bias=False) for _ in range(2))
        self.out = nn.ModuleList(nn.Linear(2, 40, bias=False) for _ in range(2))

    def forward(self, x, y):
        z = self.norm(x)
        gate, up = (f(z) + 2.0 * b(a(z)) for f, a, b in zip((self.gate, self.up), self.into, self.out, strict=True))
        return (x + self.down(F.silu(gate) * up) - y).square().mean()


class Fused(nn.Module):
    """Gate and up in one product, taken apart after it, as Phi-3 has them."""

    def __init__(self):
        super().__init__()
        self.norm, self.wide, self.down = nn.LayerNorm(8), nn.Linear(8, 48), nn.Linear(24, 8)

    def forward(self, x, y):
        gate, up = self.wide(self.norm(x)).chunk(2, -1)
        return (x + self.down(F.silu(gate) * up) - y).square().mean()


MODELS = {"gated": Gated, "gelu": Gelu, "adapted": Adapted, "fused": Fused}


@pytest.mark.parametrize(("batch", "length", "count"), [(1, 13, 4), (2, 11, 3), (3, 2, 16)])
@pytest.mark.parametrize("name", MODELS)
def test_loss_and_gradients_are_those_of_the_whole(name, batch, length, count):
    plan, inputs = planned(MODELS[name], rows(batch, length))
    gm = local(plan)
    new, tiled, notes = tile(gm, [Tile("mlp", count)])
    assert [t.tiles for t in tiled] == [min(count, max(batch, length))] and not notes
    expected = run(gm, inputs)
    assert not misses(run(new, inputs), expected)
    if batch == 2:
        assert not misses(run(through("aot_eager", new, inputs), inputs), expected)
    assert tile(new, [Tile("mlp", 2)]) == (new, (), ())


@pytest.mark.parametrize("p", [2, 3])
def test_a_whole_model_on_every_rank(p):
    """Each layer's MLP and the loss, on every rank; attention's products, which widen too, are none."""
    program = Llama(kv_heads=4, length=30, batch=2, mask="right")
    plan, inputs = planned_model(program, p), captured(program)[1]
    made = []

    def change(gm):
        new, tiled, notes = tile(gm, [Tile("loss", 3), Tile("mlp", 2)])
        made.append((sorted((t.what, t.module, t.tiles) for t in tiled), notes))
        return new

    for expected, found in zip(run_all(plan, inputs), run_all(plan, inputs, change), strict=True):
        assert not misses(found, expected)
    layers = [("mlp", f"model.layers.{i}.mlp", 2) for i in range(2)]
    assert made == [([("loss", "lm_head", 3), *layers], ())] * p


def test_dropout_outside_is_none_of_its_business():
    plan, _ = planned(partial(Gelu, dropout=0.5), rows(1, 12))
    assert [t.tiles for t in tile(local(plan), [Tile("mlp", 4)])[1]] == [4]


def test_random_numbers_inside_are_left_alone():
    plan, _ = planned(partial(Gelu, dropout=0.5, inner=True), rows(1, 12))
    gm = local(plan)
    note = "tile mlp: fc stays whole: 'aten.dropout' draws random numbers, and tiles would draw others"
    assert tile(gm, [Tile("mlp", 4)]) == (gm, (), (note,))


def test_a_program_without_one_says_so():
    class Narrow(nn.Module):
        def __init__(self):
            super().__init__()
            self.down, self.up = nn.Linear(8, 2), nn.Linear(2, 8)

        def forward(self, x, y):
            return (self.up(torch.relu(self.down(x))) - y).square().mean()

    plan, _ = planned(Narrow, rows(1, 12))
    assert tile(local(plan), [Tile("mlp", 4)])[1:] == ((), (NOTHING,))
