"""`AUTOSP_DUMP=dir` writes what every stage made, as text."""

from __future__ import annotations

import os
from pathlib import Path

from ..recompute.notes import recompute_text


def dump(spec, captured, plan, local, rank: int) -> None:
    """Writes `01_spec.txt` to `04_local.txt`; ranks but the first write only their local graph."""
    folder = os.environ.get("AUTOSP_DUMP")
    if not folder:
        return
    root = Path(folder)
    root.mkdir(parents=True, exist_ok=True)
    if rank == 0:
        (root / "01_spec.txt").write_text(str(spec))
        (root / "02_global.txt").write_text(str(captured.graph.graph) + "\n")
        (root / "03_plan.txt").write_text(plan.summary() + "\n\n" + plan.describe() + "\n")
    (root / ("04_local.txt" if rank == 0 else f"04_local.rank{rank}.txt")).write_text(str(local.graph) + "\n")


def dump_recompute(decision, local, rank: int) -> None:
    """Writes `05_recompute.txt`: what crosses to the backward and what runs twice, and the graph in tiles."""
    folder = os.environ.get("AUTOSP_DUMP")
    if folder and rank == 0:
        text = recompute_text(decision) if decision is not None else "PyTorch's own choice"
        Path(folder).joinpath("05_recompute.txt").write_text(f"{text}\n\n{local.graph}\n")
