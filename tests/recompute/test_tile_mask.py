"""Masks of attention in tiles: eager's numbers, and never queries x keys at once."""

from __future__ import annotations

from functools import cache

import attrs
import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn

from autosp.capture import tensors_of
from autosp.engine.inner import compile_inner
from autosp.engine.traced import planned
from autosp.lower import Rank, lower
from autosp.recompute import decide, tile
from autosp.recompute.notes import tile_notes
from autosp.recompute.trace import trace_joint
from autosp.solve import load_device
from autosp.spec import Tile, parse
from autosp.spec.policies import as_recompute
from tests.recompute.measured import step
from tests.recompute.ranks import SPEC, llama

LENGTH, TILES = 96, 5
MASKED = SPEC + "input attention_mask [batch, seq] optional\ninput position_ids [batch, seq@sp] optional\n"
BAR, FLOOR = 1e-6, 1e-7  # of a gradient's largest value, and of the largest of all


class Written(nn.Module):
    """Attention with a mask that its author wrote out."""

    def __init__(self, mask, dropout: float = 0.0):
        super().__init__()
        self.mask, self.dropout = mask, dropout
        self.embed, self.qkv, self.head = nn.Embedding(64, 48), nn.Linear(48, 144), nn.Linear(48, 64)

    def forward(self, input_ids, labels):
        x = self.embed(input_ids)
        batch, length, width = x.shape
        q, k, v = (t.view(batch, length, 4, 12).transpose(1, 2) for t in self.qkv(x).chunk(3, -1))
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=self.mask(length), dropout_p=self.dropout)
        x = self.head(x.transpose(1, 2).reshape(batch, length, width))
        return {"loss": F.cross_entropy(x.view(-1, 64), labels.view(-1))}


def written(mask, **options):
    ids = torch.randint(64, (1, LENGTH))
    return Written(mask, **options), {"input_ids": ids, "labels": ids}


def padded():
    model, inputs = llama(layers=2, length=LENGTH)
    mask = torch.ones(1, LENGTH, dtype=torch.long)
    mask[:, :17] = 0
    return model, {**inputs, "attention_mask": mask}


def packed():
    model, inputs = llama(layers=2, length=LENGTH)
    return model, {**inputs, "position_ids": torch.cat([torch.arange(40), torch.arange(LENGTH - 40)])[None]}


CASES = {
    "padding": padded,
    "packed documents": packed,
    "a triangle of floats, compared": lambda: written(lambda n: torch.ones(n, n).tril() == 1),
    "a triangle of bools": lambda: written(lambda n: torch.tril(torch.ones(n, n, dtype=torch.bool))),
    "minus infinity above": lambda: written(lambda n: torch.full((n, n), float("-inf")).triu(1)),
    "a bias by distance": lambda: written(lambda n: -(torch.arange(n)[:, None] - torch.arange(n)).abs() * 0.1),
}


@attrs.frozen(eq=False)
class One:
    """A model in tiles, as the only rank's program."""

    model: nn.Module
    inputs: dict
    local: fx.GraphModule
    examples: tuple

    def run(self, setting: str):
        policy = as_recompute(setting, None, "test")
        decision = decide(self.local, self.examples, policy, device=load_device("cpu"), p=1)
        compiled = compile_inner("aot_eager", self.local, self.examples, decision.choice)
        return decision, lambda: next(x for x in compiled(*self.examples) if isinstance(x, torch.Tensor))


def one(make, tiles: int | str = TILES) -> tuple[One, tuple, tuple]:
    torch.manual_seed(0)
    torch._dynamo.reset()
    model, inputs = make()
    plan, _, examples = planned(model, inputs, parse(MASKED), sp=1)[:3]
    local, made, notes = tile(lower(plan, Rank(0, "none", complete=False)), [Tile("mask", tiles)])
    return One(model, inputs, local, examples), made, notes


@cache
def known(case: str) -> tuple[One, tuple, tuple]:
    return one(CASES[case])


@pytest.mark.parametrize(
    "case, setting",
    [*((case, "sac") for case in CASES), *(("packed documents", s) for s in ("none", "full"))],
)
def test_gradients_are_those_of_eager(case: str, setting: str) -> None:
    tiled, made, notes = known(case)
    assert {t.what for t in made} == {"mask"} and {t.tiles for t in made} == {TILES} and not notes
    for p in tiled.model.parameters():
        p.grad = None
    expected_loss = tiled.model(**tiled.inputs)["loss"]
    expected_loss.backward()
    expected = [p.grad.clone() for p in tiled.model.parameters()]
    _, run = tiled.run(setting)
    for p in tiled.model.parameters():
        p.grad = None
    loss = run()
    loss.backward()
    assert loss.item() == pytest.approx(expected_loss.item(), rel=1e-6)
    largest = max(g.abs().max().item() for g in expected)
    for (name, p), g in zip(tiled.model.named_parameters(), expected, strict=True):
        assert (p.grad - g).abs().max().item() <= BAR * g.abs().max().item() + FLOOR * largest, name


@pytest.mark.parametrize("case", CASES)
def test_no_value_is_as_large_as_the_mask(case: str) -> None:
    """Of bools, or of the bias that they become; scores are the kernel's own."""
    tiled, _, _ = known(case)
    joint, _ = trace_joint(tiled.local, tiled.examples)
    shapes = [t.shape for n in joint.nodes if n in joint.makes for t in tensors_of(n.meta["val"])]
    widest = max(s[-2] for s in shapes if len(s) >= 2 and s[-1] == LENGTH and s[-2] <= LENGTH)
    assert widest == -(-LENGTH // TILES)


def test_the_predicted_peak_is_the_measured_one_and_lower() -> None:
    peaks = []
    for tiles in (1, 8):
        tiled, _, _ = one(lambda: _long(padded_to=1024), tiles)
        decision, run = tiled.run("sac")
        run().backward()
        for p in tiled.model.parameters():
            p.grad = None
        assert decision.peak == pytest.approx(step(run).peak, rel=0.02)
        peaks.append(decision.peak)
    assert peaks[1] < peaks[0] - 1024 * 1024 * 4 * 0.8  # no bias of 1024 x 1024 floats


def _long(padded_to: int) -> tuple[nn.Module, dict]:
    model, inputs = llama(layers=2, length=padded_to)
    return model, {**inputs, "attention_mask": (torch.arange(padded_to) > 99).long()[None]}


def test_a_small_mask_stays_whole_and_nothing_is_said() -> None:
    assert one(padded, "auto")[1:] == ((), ())


def test_a_mask_that_is_given_is_there_anyway() -> None:
    class Given(Written):
        def forward(self, input_ids, labels, mask):
            self.mask = lambda length: mask
            return super().forward(input_ids, labels)

    def make():
        ids = torch.randint(64, (1, LENGTH))
        return Given(None), {"input_ids": ids, "labels": ids, "mask": torch.ones(LENGTH, LENGTH).tril().bool()}

    assert one(make)[1] == ()


def test_attention_with_dropout_keeps_its_mask() -> None:
    _, made, notes = one(lambda: written(lambda n: torch.ones(n, n).tril() == 1, dropout=0.1))
    assert made == () and notes == (
        "tile mask: the mask stays whole: 'aten.scaled_dot_product_attention' draws random numbers, and tiles would draw others",
    )


def test_the_plan_says_what_is_made_at_once() -> None:
    _, made, notes = one(lambda: _long(padded_to=1024), 8)
    assert tile_notes(made, notes) == (
        "tile mask: model.layers.0.self_attn and 1 alike in 8 tiles of 128.0 KiB, 1.0 MiB whole",
    )
