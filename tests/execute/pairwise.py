"""Few rows that show every pair of values: a greedy covering array, the same on every machine."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

Row = dict[str, object]


def pairs_of(row: Mapping[str, object]) -> set[tuple]:
    """Every two settings that a row shows together."""
    return set(itertools.combinations(row.items(), 2))


def pairwise(factors: Mapping[str, Sequence[object]]) -> list[Row]:
    """Rows that together show every pair; each next row shows the most pairs not yet shown."""
    candidates = [dict(zip(factors, values, strict=True)) for values in itertools.product(*factors.values())]
    bit = {}
    masks = [_mask(row, bit) for row in candidates]
    missing = (1 << len(bit)) - 1
    chosen = []
    while missing:
        best = max(range(len(candidates)), key=lambda index: (masks[index] & missing).bit_count())
        chosen.append(candidates[best])
        missing &= ~masks[best]
    return chosen


def _mask(row: Row, bit: dict[tuple, int]) -> int:
    """The pairs of a row as a set of bits; a pair seen for the first time gets the next one."""
    return sum(1 << bit.setdefault(pair, len(bit)) for pair in pairs_of(row))
