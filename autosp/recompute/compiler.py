"""The compiler of a joint graph, as far as memory depends on it."""

from __future__ import annotations

from typing import Literal

import attrs

Place = Literal["cpu", "cuda"]


@attrs.frozen
class Compiler:
    """fuses: whether operators are joined to kernels, as Inductor does it; else each runs for itself.
    device: where they run, which decides which kernels a library has."""

    fuses: bool = False
    device: Place = "cpu"

    def decompositions(self) -> dict | None:
        """What it replaces operators by before it partitions."""
        if not self.fuses:
            return None
        from ..compat.torch import select_decomp_table

        return select_decomp_table()
