"""From a solved plan to what its fullest rank holds: the passes that follow it, on fake tensors."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
from torch import fx

from ..lower import Rank
from ..recompute import Choices, Compiler, Decision, Tiled
from ..recompute.liveness import EAGER
from ..solve import Plan
from ..spec import Recompute, Tile
from .pipeline import run
from .program import Context, Program

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
    known: dict[tuple[Tiled, ...], Choices] | None = None,
) -> Prediction | None:
    """What one rank saves, recomputes and holds at the peak; None where no gradient flows.

    examples: the values of the captured graph's placeholders, fake or real. limit: bytes that
    activations and gradients may take, for a policy with a budget of bytes or `auto`. offload: whether
    the residual stream may cross in the host's memory. compiler: what will run the graph. known: what was found for
    other limits of the same plan, by its tiles, which is added to.
    """
    known = {} if known is None else known
    context = Context(rank=rank, tiles=tuple(tiles), budget=budget_of(recompute, limit))
    program = run(Program.of(plan), context, until="tile", verify=False)  # nothing runs
    tiled = program.tiled

    def choose(plan: Plan, local: fx.GraphModule) -> Decision | None:
        choices = known.get(tiled) or Choices.of(
            local, examples, device=plan.device, p=plan.p, compiler=compiler, offload=offload
        )
        if choices is None:
            return None
        known[tiled] = choices
        return choices.decide(recompute, limit=limit, plan=plan.fingerprint())

    made = run(program, attrs.evolve(context, choose=choose), verify=False)
    return None if made.decision is None else Prediction(made.decision, made.tiled, made.notes)


def budget_of(recompute: Recompute, limit: int | None) -> int:
    """Bytes of activations that the size of tiles follows; 0 where the policy says nothing in bytes."""
    return limit if recompute.in_bytes and limit else 0


__all__ = ["FIRST", "Prediction", "predict"]
