"""What a rank holds, in words: the rows of a table, and the text of `plan.explain()`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from .memory import Memory
from .words import duration, size

if TYPE_CHECKING:
    from .plan import Plan

Row = tuple[str, str, str]


def memory_rows(memory: Memory) -> tuple[Row, ...]:
    """(what, bytes, remark) for each thing that is held at the peak, and their sum."""
    peak = f"{memory.phase}, at {memory.at}"
    return (
        ("parameters", size(memory.parameters), ""),
        ("gradients", size(memory.gradients), "there at the peak"),
        ("optimizer", size(memory.optimizer), ""),
        ("saved activations", size(memory.held), f"alive at the peak, of {size(memory.saved_bytes)} saved"),
        ("transient", size(memory.transient), "everything else that is alive then"),
        ("peak", size(memory.peak), peak),
    )


def saved_rows(memory: Memory) -> tuple[Row, ...]:
    """(kind of operator, bytes, part) for what crosses from forward to backward, the largest first."""
    kinds = sorted(memory.saved.items(), key=lambda item: (-item[1], item[0]))
    whole = max(memory.saved_bytes, 1)
    return tuple((kind, size(count), f"{100 * count / whole:.0f}%") for kind, count in kinds if count)


def verdict(plan: Plan) -> str:
    """Whether the peak fits, and by how much."""
    device, peak = plan.device, plan.peak_bytes
    room = f"{size(device.usable)} of {device.name} ({size(device.memory)} less {size(device.reserve)} in reserve)"
    if plan.fits:
        return f"fits: {size(peak)} of the {room}"
    return f"does not fit: {size(peak)}, {size(peak - device.usable)} more than the {room}"


def seconds_text(plan: Plan) -> str:
    """The predicted step by what it is spent on."""
    parts = [f"compute {duration(plan.compute_seconds)}", f"collectives {duration(plan.communication_seconds)}"]
    parts += [f"recomputation {duration(plan.recompute_seconds)}"] if plan.recompute_seconds else []
    return f"{duration(plan.step_seconds)}: {', '.join(parts)}"


def explain(plan: Plan) -> str:
    """The summary; with memory, a line for each of its rows, the verdict and every assumption."""
    return "\n".join([plan.summary(), *_memory_lines(plan)])


def _memory_lines(plan: Plan) -> Iterator[str]:
    if plan.memory is None:
        return
    yield f"  step {seconds_text(plan)}"
    yield f"memory of a rank at length {plan.length:,}, {plan.recompute}" + (
        f" ({plan.recomputed})" if plan.recomputed else ""
    )
    yield from lines(memory_rows(plan.memory))
    yield "saved from forward to backward"
    yield from lines(saved_rows(plan.memory))
    yield verdict(plan)
    yield from (f"  assumed: {text}" for text in plan.memory.assumptions)


def lines(rows: tuple[Row, ...]) -> Iterator[str]:
    """Rows as lines of two aligned columns and a remark."""
    widths = [max((len(row[i]) for row in rows), default=0) for i in (0, 1)]
    for what, count, remark in rows:
        yield f"  {what:<{widths[0]}}  {count:>{widths[1]}}  {remark}".rstrip()
