"""The arithmetic of layouts on sizes: placements, shards, local shapes."""

from .placement import (
    INVARIANT,
    PARTIAL,
    REPLICATE,
    Kind,
    Placement,
    Size,
    Split,
    as_size,
    assemble,
    count,
    divide,
    local_shape,
    make_split,
    shard,
    start,
)

__all__ = [
    "INVARIANT",
    "PARTIAL",
    "REPLICATE",
    "Kind",
    "Placement",
    "Size",
    "Split",
    "as_size",
    "assemble",
    "count",
    "divide",
    "local_shape",
    "make_split",
    "shard",
    "start",
]
