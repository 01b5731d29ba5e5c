"""The axes of a mesh, and where a rank stands on them."""

from __future__ import annotations

import math
from typing import NamedTuple, TypeAlias

import attrs


@attrs.frozen
class MeshAxis:
    """A named axis of the mesh, and its number of ranks."""

    name: str
    size: int


Mesh: TypeAlias = "tuple[MeshAxis, ...]"  # outermost first


def ranks(mesh: Mesh) -> int:
    """How many ranks the axes have together."""
    return math.prod(axis.size for axis in mesh)


class Coordinate(NamedTuple):
    """Where a rank stands on one axis: the axis and its size, the rank's place on it, and the name of the process group
    of the ranks that differ on this axis alone. A tuple, so that it may stand among the arguments of a graph's call."""

    axis: str
    size: int
    rank: int
    group: str
