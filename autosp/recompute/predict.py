"""From a solved plan to what its fullest rank holds: lowered, tiled, decided, on fake tensors."""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from ..lower import Rank, band, lower
from ..solve import Plan
from ..spec import Recompute, Tile
from .compiler import Compiler
from .decide import Decision, decide
from .liveness import EAGER
from .tile import Tiled, tile

FIRST = Rank(0, "predicted", complete=False)  # the rank whose part is never the smaller one


@attrs.frozen(eq=False)
class Prediction:
    """What one rank does with memory: its decision, what is computed in tiles, and what is not and why."""

    decision: Decision
    tiled: tuple[Tiled, ...]
    notes: tuple[str, ...]


def predict(
    plan: Plan,
    recompute: Recompute,
    tiles: Sequence[Tile] = (),
    *,
    examples: Sequence,
    limit: int | None = None,
    offload: bool = False,
    compiler: Compiler = EAGER,
    rank: Rank = FIRST,
) -> Prediction | None:
    """What one rank saves, recomputes and holds at the peak; None where no gradient flows.

    examples: the values of the captured graph's placeholders, fake or real. limit: bytes that
    activations and gradients may take, for a policy with a budget of bytes or `auto`. offload: whether
    the residual stream may cross in the host's memory. compiler: what will run the graph.
    """
    local = lower(plan, rank)
    band(local)
    room = limit if recompute.in_bytes and limit else 0
    local, tiled, notes = tile(local, tiles, plan.problem.captured.hints, room)
    found = decide(local, examples, recompute, device=plan.device, p=plan.p, limit=limit, plan=plan.fingerprint(),
                   offload=offload, compiler=compiler)  # fmt: skip
    return None if found is None else Prediction(found, tiled, notes)


__all__ = ["FIRST", "Prediction", "predict"]
