"""What tiles are for: neither the forward nor the backward ever holds a wide value whole."""

from functools import partial

import pytest
from torch.utils.checkpoint import CheckpointPolicy

from autosp.recompute.tiling import tile
from autosp.spec import Tile
from tests.recompute.held import graphs, largest, made, peak, saved, wide
from tests.recompute.programs import LOSSES, Gated, Gelu, Head, local, planned, rows, tokens

WIDE, TOKENS, TILES = 250, 64, 4
WHOLE = WIDE * TOKENS * 4
KEPT = {"by_hand": 2}  # its one-hot labels are 8 bytes a logit


def made_of(make, inputs, what):
    """The forward and backward graphs of a program in one piece, and of the same in tiles."""
    plan, given = planned(make, inputs)
    gm = local(plan)
    new, tiled, notes = tile(gm, [Tile(what, TILES)])
    assert [t.tiles for t in tiled] == [TILES], notes
    return graphs(gm, given), graphs(new, given)


@pytest.mark.parametrize("name", LOSSES)
def test_no_more_than_a_few_tiles_of_logits_live_at_once(name):
    whole, tiled = made_of(partial(Head, LOSSES[name], vocab=WIDE), tokens(2, TOKENS // 2, vocab=WIDE), "loss")
    logits = wide(WIDE, WIDE - 6)
    for before, after in zip(whole, tiled, strict=True):
        assert largest(before) >= 0.95 * WHOLE  # a control: the measure sees logits
        assert largest(after) <= KEPT.get(name, 1) * WHOLE / TILES
        assert peak(after, logits) <= peak(before, logits) / TILES * 2.1  # twice: a tile is made again
        assert peak(after, logits) <= 4 * KEPT.get(name, 1) * WHOLE / TILES
    assert all(t.numel() <= WIDE * 8 for t in saved(tiled[0]))  # the head's weight is the largest


@pytest.mark.parametrize("make", [Gated, Gelu])
def test_no_more_than_a_few_tiles_of_an_mlp_live_at_once(make):
    whole, tiled = made_of(partial(make, wide=WIDE), rows(2, TOKENS // 2), "mlp")
    for before, after in zip(whole, tiled, strict=True):
        assert largest(before) == WHOLE
        assert largest(after) <= WHOLE / TILES
        assert peak(after, wide(WIDE)) <= peak(before, wide(WIDE)) / TILES * 2.1
    assert all(t.numel() <= WIDE * 8 for t in saved(tiled[0]))


def test_every_value_of_a_tile_is_to_be_made_again():
    """The tags and the tile's name reach the forward that the partitioner sees."""
    _, (fw, _bw) = made_of(partial(Head, LOSSES["soft_cap"], vocab=WIDE), tokens(2, TOKENS // 2, vocab=WIDE), "loss")
    logits = [n for n in made(fw) if wide(WIDE)(n)]
    assert logits and all(n.meta["recompute"] is CheckpointPolicy.MUST_RECOMPUTE for n in logits)
    assert {n.meta["custom"]["autosp_tile"] for n in logits} == {("loss.0", i) for i in range(TILES)}
    assert all("autosp_tile" not in n.meta.get("custom", {}) for n in made(fw) if n.name.startswith("native_layer"))


def test_without_the_tags_logits_wait_for_the_backward():
    """A planted fault: with the tags gone, what is held grows, and the measure sees it."""
    plan, given = planned(
        partial(Head, LOSSES["soft_cap"], vocab=WIDE), tokens(2, TOKENS // 2, vocab=WIDE)
    )  # fmt: skip
    new, _, _ = tile(local(plan), [Tile("loss", TILES)])
    for node in new.graph.nodes:
        node.meta.pop("recompute", None)
    fw, _ = graphs(new, given)
    assert sum(t.numel() * 4 for t in saved(fw) if WIDE in t.shape and 8 not in t.shape) >= WHOLE / 2
    assert peak(fw, wide(WIDE)) >= WHOLE
