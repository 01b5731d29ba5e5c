"""How values lie over a mesh: placements, the sharding of several axes, and every change of them with its backward."""

from .mesh import Coordinate, Mesh, MeshAxis, ranks
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
from .sharding import Sharding
from .transitions import TRANSITIONS, Transition, row_key, transition

__all__ = [
    "INVARIANT",
    "PARTIAL",
    "REPLICATE",
    "TRANSITIONS",
    "Coordinate",
    "Kind",
    "Mesh",
    "MeshAxis",
    "Placement",
    "Sharding",
    "Size",
    "Split",
    "Transition",
    "as_size",
    "assemble",
    "count",
    "divide",
    "local_shape",
    "make_split",
    "ranks",
    "row_key",
    "shard",
    "start",
    "transition",
]
