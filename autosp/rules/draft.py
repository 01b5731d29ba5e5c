"""A rule to start from: right for any operator, since nothing in it may be split."""

from __future__ import annotations

from itertools import count

from ..layout import Size
from .call import Call


def draft_rule(name: str, call: Call) -> str:
    """Rule text for a call: dims of one size share a name, and every dim is whole."""
    names: dict[tuple[Size, int], str] = {}
    fresh = spelling()

    def dims(shape: tuple[Size, ...]) -> str:
        seen: dict[Size, int] = {}
        out = []
        for size in shape:
            seen[size] = seen.get(size, 0) + 1
            key = (size, seen[size])
            if key not in names:
                names[key] = next(fresh)
            out.append(names[key])
        return f"[{', '.join(out)}]"

    operands = [f"{arg}{dims(call.operands[places[0]])}" for arg, places in call.places.items() if places]
    results = ", ".join(dims(shape) for shape in call.results) or "[]"
    text = f"rule {name}({', '.join(operands)}) -> {results}"
    return text + (f"\n     whole {', '.join(names.values())}" if names else "")


def spelling():
    """a, b, ... z, d26, d27, ..."""
    for i in count():
        yield chr(ord("a") + i) if i < 26 else f"d{i}"
