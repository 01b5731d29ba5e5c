"""The notes of a plan, beside its collectives."""

from __future__ import annotations

from ..capture import Captured
from ..capture.masks import drops_mask, window_of
from ..rules import is_a, places
from ..sharding import Split
from .messages import size
from .problem import Op, Problem
from .strategies import Strategy, contracts_length, is_random

NOTABLE = 1 << 20  # bytes


def notes(problem: Problem, chosen: dict[Op, Strategy], attention: str) -> tuple[str, ...]:
    """Where attention could not be split as the spec requires, what is drawn whole, what masks cost, and what becomes
    of the model's own gradient checkpointing."""
    axis, p, lines = problem.axis.name, problem.axis.size, []
    for op, s in chosen.items():
        if is_random(op) and s.part is None and p > 1 and op.diff:
            lines.append(
                f"{op.module or '<root>'}: {op.node.target} draws whole values; the first rank's are summed to all ranks"
            )
        if op.own is not None and s.part is None and op.reasons and op.tagged and p > 1:
            lines.append(f"{op.module or '<root>'}: an autograd.Function runs whole on every rank: {op.reasons[0]}")
        lengths = contracts_length(op)
        if not lengths or attention == "auto" or p == 1:
            continue
        by_length = s.part is not None and s.part[0] in lengths
        if by_length == (attention == "ulysses") or s.part is None:
            lines.append(
                f"{op.module or '<root>'}: attention {attention} has no valid split over {axis}={p} here; "
                f"{'the query length is split and keys and values are gathered' if by_length else s.kind}"
            )
    return (*lines, *_masks(chosen, p), *_checkpoints(problem.captured))


def _checkpoints(captured: Captured) -> list[str]:
    if not (captured.checkpointed and captured.training):
        return []
    calls = f"{captured.checkpointed} call{'s' * (captured.checkpointed > 1)}"
    return [
        f"the model's own gradient checkpointing ({calls}) gives way to the spec's 'recompute', which decides what "
        "runs twice; 'recompute full' keeps what enters a layer, as checkpointed layers do"
    ]


def _masks(chosen: dict[Op, Strategy], p: int) -> list[str]:
    """The masks of attention that every rank makes, as they say more than `causal`."""
    made: dict[tuple, tuple[int, list[str]]] = {}
    for op, s in chosen.items():
        if (
            not is_a(op.node, "masked")
            or (at := places(op.node, "masked")[0]) is None
            or drops_mask(op.node, s.needs[0])
            or window_of(op.node, s.needs[0])
        ):
            continue
        mask, need = op.operands[at], s.needs[at]
        mask_bytes = mask.bytes // (p if isinstance(need, Split) else 1)
        if mask_bytes >= NOTABLE:
            made.setdefault((mask.id, need), (mask_bytes, []))[1].append(op.module or "<root>")
    return [
        f"{modules[0]}: a mask of {size(mask_bytes)} per rank, since it depends on data or is more than causal"
        + (f" (also for {len(modules) - 1} more)" if len(modules) > 1 else "")
        for mask_bytes, modules in made.values()
    ]
