"""What a plan says of its tiles and of what it recomputes."""

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
        f"tile {what}: {found[0].module or '<root>'}"
        + (f" and {len(found) - 1} alike" if len(found) > 1 else "")
        + f" in {tiles} tiles of {size(found[0].bytes_tile)}, {size(whole)} whole"
        for (what, tiles, whole), found in alike.items()
    ]
    return (*made, *notes)


def offload_notes(asked: bool, host: float) -> tuple[str, ...]:
    """What is said where the residual stream should be offloaded, and the device has no link to a host."""
    return ("offload residual: the memory is the host's own; nothing is moved",) if asked and not host else ()


def recompute_text(found: Decision) -> str:
    """A decision for a reader: what crosses, by kind, the peak and where it is, and every name."""
    saved = [f"  {kind:12} {size(count)}" for kind, count in found.saved.items()]
    lines = [
        found.text,
        f"peak without parameters and optimizer: {size(found.peak)}, {found.phase}, at {found.at}",
        f"  saved {size(found.held)}, gradients {size(found.gradients)}, transient {size(found.transient)}",
        f"crosses from forward to backward: {size(sum(found.saved.values()))}",
        *saved,
        f"seconds spent twice, predicted: {found.seconds:.4f}",
        *(["what leaves a layer crosses in the host's memory"] if found.choice and found.choice.offload else []),
    ]
    if found.choice is not None:
        lines += ["", "saved:", *(f"  {_name(key)}" for key in sorted(found.choice.saved))]
        lines += ["runs twice, though protected:", *(f"  {_name(key)}" for key in sorted(found.choice.twice))]
    return "\n".join(lines)


def _name(key) -> str:
    layer, name, ordinal, item = key
    return f"{layer or '<root>'}: {name} number {ordinal}" + (f", result {item}" if item else "")
