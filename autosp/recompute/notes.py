"""The notes of a plan on its tiles, and the text of what it recomputes."""

from __future__ import annotations

from collections.abc import Sequence

from ..solve.messages import size
from .decision import Decision
from .tiling import Tiled


def tile_notes(tiled: Sequence[Tiled], notes: Sequence[str]) -> tuple[str, ...]:
    """A sentence for each kind of region that is computed in tiles, and those on what is not."""
    alike: dict[tuple, list[Tiled]] = {}
    for t in tiled:
        alike.setdefault((t.what, t.tiles, t.bytes_whole), []).append(t)
    made = [
        f"tile {what}: {regions[0].module or '<root>'}"
        + (f" and {len(regions) - 1} alike" if len(regions) > 1 else "")
        + f" in {tiles} tiles of {size(regions[0].bytes_tile)}, {size(whole)} whole"
        for (what, tiles, whole), regions in alike.items()
    ]
    return (*made, *notes)


def offload_notes(requested: bool, host: float) -> tuple[str, ...]:
    """A note where the residual stream should be offloaded, and the device has no link to a host."""
    return ("offload residual: the memory is the host's own; nothing is moved",) if requested and not host else ()


def recompute_text(decision: Decision) -> str:
    """A decision for a reader: what crosses, by kind, the peak and where it is, and every name."""
    saved = [f"  {kind:12} {size(count)}" for kind, count in decision.saved.items()]
    lines = [
        decision.text,
        f"peak without parameters and optimizer: {size(decision.peak)}, {decision.phase}, at {decision.at}",
        f"  saved {size(decision.held)}, gradients {size(decision.gradients)}, transient {size(decision.transient)}",
        f"crosses from forward to backward: {size(sum(decision.saved.values()))}",
        *saved,
        f"seconds spent twice, predicted: {decision.seconds:.4f}",
        *(["what leaves a layer crosses in the host's memory"] if decision.choice and decision.choice.offload else []),
    ]
    if decision.choice is not None:
        lines += ["", "saved:", *(f"  {_name(key)}" for key in sorted(decision.choice.saved))]
        lines += ["runs twice, though protected:", *(f"  {_name(key)}" for key in sorted(decision.choice.twice))]
    return "\n".join(lines)


def _name(key) -> str:
    layer, name, ordinal, item = key
    return f"{layer or '<root>'}: {name} number {ordinal}" + (f", result {item}" if item else "")
