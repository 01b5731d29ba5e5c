"""A plan as tables on a terminal, as plain lines elsewhere, and as fields for a machine."""

from __future__ import annotations

from typing import Any

import attrs
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..solve import Plan
from ..solve.messages import Section, explain, sections


@attrs.frozen
class Report:
    """A plan, and the plan for the longest sequence that fits: None where no length does, or none was looked for."""

    plan: Plan
    longest: Plan | None = None
    searched: bool = True

    def text(self) -> str:
        """All there is to say, as lines."""
        return explain(self.plan, *self._answers())

    def draw(self, console: Console) -> None:
        """The same on a console, its rows as tables."""
        for section in sections(self.plan, *self._answers()):
            if section.rows:
                console.print(_table(section))
            elif section.title:
                console.print(section.title, style="bold", markup=False, highlight=False)
            for text in section.text:
                console.print(f"  {text}" if section.title else text, markup=False, highlight=False)

    def fields(self) -> dict[str, Any]:
        """The plan for a machine: the fields of `Plan`, `max_seq_len` and `peak_bytes` among them.

        Bytes and seconds are numbers. `max_seq_len` is 0 where no length fits, null where none was
        looked for; without a prediction of memory, `memory`, `peak_bytes` and `fits` are null.
        """
        plan, memory = self.plan, self.plan.memory
        return {
            "mesh": {axis.name: axis.size for axis in plan.mesh},
            "axis": plan.axis,
            "p": plan.p,
            "attention": plan.attention,
            "length": plan.length,
            "device": attrs.asdict(plan.device),
            "peak_bytes": memory.peak if memory else None,
            "fits": plan.fits if memory else None,
            "max_seq_len": (self.longest.length if self.longest else 0) if self.searched else None,
            "memory": {**attrs.asdict(memory), "saved_bytes": memory.saved_bytes} if memory else None,
            "step_seconds": plan.step_seconds,
            "compute_seconds": plan.compute_seconds,
            "communication_seconds": plan.communication_seconds,
            "recompute_seconds": plan.recompute_seconds,
            "recompute": plan.recompute,
            "recomputed": plan.recomputed,
            "tiled": [attrs.asdict(t) for t in plan.tiled],
            "reshards": [attrs.asdict(r) for r in plan.reshards],
            "notes": list(plan.notes),
            "fingerprint": plan.fingerprint(),
        }

    def _answers(self) -> tuple[str, ...]:
        if not self.searched:
            return ()
        if self.longest is None:
            return (f"no length fits on {self.plan.device.name}",)
        tokens, ranks = self.longest.length or 0, self.longest.p
        return (f"longest sequence that fits: {tokens:,} tokens ({tokens // ranks:,} per rank)",)


def _table(section: Section) -> Table:
    table = Table(title=section.title, title_justify="left", title_style="bold", show_header=False)
    table.add_column()
    table.add_column(justify="right", no_wrap=True)
    table.add_column(overflow="fold")
    for row in section.rows:
        table.add_row(*map(escape, row))
    return table
