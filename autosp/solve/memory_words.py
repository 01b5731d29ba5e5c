"""What a rank holds, in words: the rows of a table, and the text of `plan.explain()`."""

from __future__ import annotations

from collections.abc import Iterator

import attrs

from .memory import Memory
from .plan import Solution
from .words import duration, size, summary

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


def verdict(plan: Solution) -> str:
    """Whether the peak fits, and by how much."""
    device, peak = plan.device, plan.peak_bytes
    room = f"{size(device.usable)} of {device.name} ({size(device.memory)} less {size(device.reserve)} in reserve)"
    if plan.fits:
        return f"fits: {size(peak)} of the {room}"
    return f"does not fit: {size(peak)}, {size(peak - device.usable)} more than the {room}"


def seconds_text(plan: Solution) -> str:
    """The predicted step by what it is spent on."""
    parts = [f"compute {duration(plan.compute_seconds)}", f"collectives {duration(plan.communication_seconds)}"]
    parts += [f"recomputation {duration(plan.recompute_seconds)}"] if plan.recompute_seconds else []
    return f"{duration(plan.step_seconds)}: {', '.join(parts)}"


@attrs.frozen
class Section:
    """A title over rows, and lines of text."""

    title: str = ""
    rows: tuple[Row, ...] = ()
    text: tuple[str, ...] = ()


def sections(plan: Solution, *answers: str) -> Iterator[Section]:
    """What there is to say of a plan, in reading order; `answers` stand beside whether it fits."""
    yield Section(text=tuple(summary(plan).splitlines()))
    if plan.memory is None:
        return
    title = "memory of a rank" + (f" at length {plan.length:,}" if plan.length else "")
    yield Section(title, memory_rows(plan.memory))
    yield Section("saved from forward to backward", saved_rows(plan.memory))
    yield Section(text=(f"step {seconds_text(plan)}", f"{plan.recompute}: {plan.recomputed}", verdict(plan), *answers))
    yield Section("assumed", text=plan.memory.assumptions)


def explain(plan: Solution, *answers: str) -> str:
    """The sections as lines of text."""
    found: list[str] = []
    for section in sections(plan, *answers):
        found += [section.title] if section.title else []
        found += [*lines(section.rows), *(f"  {t}" if section.title else t for t in section.text)]
    return "\n".join(found)


def lines(rows: tuple[Row, ...]) -> Iterator[str]:
    """Rows as lines of two aligned columns and a remark."""
    widths = [max((len(row[i]) for row in rows), default=0) for i in (0, 1)]
    for what, count, remark in rows:
        yield f"  {what:<{widths[0]}}  {count:>{widths[1]}}  {remark}".rstrip()
