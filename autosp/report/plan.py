"""A plan as tables on a terminal, as plain lines elsewhere, and as fields for a machine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import attrs
from rich.console import Console
from rich.table import Table

from ..solve import Plan
from ..solve.memory_words import Row, lines, memory_rows, saved_rows, seconds_text, verdict


@attrs.frozen
class Section:
    """A title over rows of (what, how much, remark), or over lines of text."""

    title: str
    rows: tuple[Row, ...] = ()
    text: tuple[str, ...] = ()


def sections(plan: Plan, longest: Plan | None = None, *, searched: bool = True) -> Iterator[Section]:
    """What there is to say of a plan with memory, in reading order.

    longest: the plan for the longest length that fits; searched: whether one was looked for.
    """
    yield Section("", text=tuple(plan.summary().splitlines()))
    if plan.memory is None:
        yield Section("memory", text=("no gradient flows to a parameter: there is no training step to predict",))
        return
    yield Section(
        f"memory of a rank at length {plan.length:,}" if plan.length else "memory of a rank",
        memory_rows(plan.memory),
    )
    yield Section("saved from forward to backward", saved_rows(plan.memory))
    answers = [("step", "", seconds_text(plan)), (plan.recompute, "", plan.recomputed)]
    yield Section("", text=tuple(lines(tuple((what, "", said) for what, _, said in answers))))
    yield Section("", text=(verdict(plan), *([_longest_text(plan, longest)] if searched else [])))
    yield Section("assumed", text=plan.memory.assumptions)


def _longest_text(plan: Plan, longest: Plan | None) -> str:
    if longest is None:
        return f"no length fits on {plan.device.name}"
    return f"longest sequence that fits: {longest.length:,} tokens ({longest.length // longest.p:,} a rank)"


def plain(plan: Plan, longest: Plan | None = None, *, searched: bool = True) -> str:
    """The sections as lines of text."""
    found = []
    for section in sections(plan, longest, searched=searched):
        found += [section.title] if section.title else []
        found += [*lines(section.rows), *(f"  {t}" if section.title else t for t in section.text)]
    return "\n".join(found)


def draw(console: Console, plan: Plan, longest: Plan | None = None, *, searched: bool = True) -> None:
    """The sections on a console: rows as tables."""
    for section in sections(plan, longest, searched=searched):
        if section.rows:
            console.print(_table(section))
        elif section.title:
            console.print(section.title, style="bold", markup=False, highlight=False)
        for text in section.text:
            console.print(f"  {text}" if section.title else text, markup=False, highlight=False)


def _table(section: Section) -> Table:
    table = Table(title=section.title, title_justify="left", title_style="bold", show_header=False)
    table.add_column()
    table.add_column(justify="right", no_wrap=True)
    table.add_column(overflow="fold")
    for row in section.rows:
        table.add_row(*(_escaped(cell) for cell in row))
    return table


def _escaped(text: str) -> str:
    return text.replace("[", "\\[")


def fields(plan: Plan, longest: Plan | None = None, *, searched: bool = True) -> dict[str, Any]:
    """The plan for a machine: the fields of `Plan`, `max_seq_len` and `peak_bytes` among them.

    Bytes and seconds are numbers; `max_seq_len` is 0 where no length fits, null where none was
    looked for.
    """
    memory = plan.memory
    return {
        "axis": plan.axis,
        "p": plan.p,
        "attention": plan.attention,
        "length": plan.length,
        "device": attrs.asdict(plan.device),
        "peak_bytes": memory.peak if memory else None,
        "fits": plan.fits if memory else None,
        "max_seq_len": (longest.length if longest else 0) if searched else None,
        "memory": {**attrs.asdict(memory), "saved_bytes": memory.saved_bytes} if memory else None,
        "step_seconds": plan.step_seconds,
        "compute_seconds": plan.compute_seconds,
        "communication_seconds": plan.communication_seconds,
        "recompute_seconds": plan.recompute_seconds,
        "recompute": plan.recompute,
        "recomputed": plan.recomputed,
        "reshards": [attrs.asdict(r) for r in plan.reshards],
        "notes": list(plan.notes),
        "fingerprint": plan.fingerprint(),
    }
