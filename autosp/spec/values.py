"""The statements of a spec, as frozen values. `str` of each is its canonical statement.

Every value that a text wrote keeps its place in `at`, which takes no part in equality.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import attrs

from ..syntax import At, Layout
from ..syntax.layout import check_names

OutputMode = Literal["layout", "none", "local", "whole"]
Attention = Literal["ulysses", "gather", "auto"]
Port = Literal["input", "output"]
PATH = r"[A-Za-z0-9_*]+(\.[A-Za-z0-9_*]+)*"
UNITS = {
    "TiB": 2**40,
    "GiB": 2**30,
    "MiB": 2**20,
    "KiB": 2**10,
    "TB": 10**12,
    "GB": 10**9,
    "MB": 10**6,
    "KB": 10**3,
    "B": 1,
}


@attrs.frozen
class Placed:
    """A value that keeps where a text wrote it."""

    at: At | None = attrs.field(default=None, eq=False, repr=False, kw_only=True)


@attrs.frozen
class Axis(Placed):
    """A mesh axis. On a `local` one every rank only ever sees its own shard."""

    name: str = attrs.field(validator=check_names)
    local: bool = False

    def __str__(self) -> str:
        return f"{self.name}: local" if self.local else self.name


@attrs.frozen
class Input(Placed):
    """An argument of the forward, by name, and how it may be split (on a local axis: is split)."""

    name: str = attrs.field(validator=check_names)
    layout: Layout
    optional: bool = False

    def __str__(self) -> str:
        return f"input {self.name} {self.layout}{' optional' if self.optional else ''}"


@attrs.frozen
class Output(Placed):
    """An output by name: given in `layout`, not at all, as the rank's own part, or whole."""

    name: str = attrs.field(validator=check_names)
    layout: Layout | None = None
    mode: OutputMode = attrs.field(
        default=attrs.Factory(lambda self: "whole" if self.layout is None else "layout", takes_self=True)
    )

    def __str__(self) -> str:
        return f"output {self.name} {self.mode if self.layout is None else self.layout}"


@attrs.frozen
class Constraint(Placed):
    """The first tensor that goes into, or comes out of, the modules of this path has this layout."""

    module: str = attrs.field(validator=attrs.validators.matches_re(PATH))
    port: Port
    layout: Layout

    def __str__(self) -> str:
        return f"constrain {self.module} {self.port} {self.layout}"


@attrs.frozen
class Map(Placed):
    """The modules of this path run per shard of dim `over` as they stand."""

    module: str = attrs.field(validator=attrs.validators.matches_re(PATH))
    over: str = attrs.field(validator=check_names)

    def __str__(self) -> str:
        return f"map {self.module} over {self.over}"


def bytes_text(count: int) -> str:
    """A number of bytes in the largest unit that leaves it whole."""
    for unit, size in UNITS.items():
        if count >= size and count % size == 0:
            return f"{count // size}{unit}"
    return f"{count}B"


@attrs.frozen
class Recompute:
    """What is recomputed in the backward; under "sac", to fit `budget`.

    The budget is a number of bytes (int), a fraction of what "none" keeps (float), "auto", or None
    where none was stated.
    """

    mode: Literal["none", "sac", "full"] = "none"
    budget: int | float | Literal["auto"] | None = None

    def __attrs_post_init__(self) -> None:
        if self.budget is not None and self.mode != "sac":
            raise ValueError("only recompute sac has a budget")
        if isinstance(self.budget, float) and not 0.0001 <= self.budget <= 1:
            raise ValueError("a budget that is a fraction is from 0.0001 to 1")

    @property
    def in_bytes(self) -> bool:
        """Whether a number of bytes bounds the peak: a given one, or the device's."""
        return self.budget == "auto" or isinstance(self.budget, int)

    def __str__(self) -> str:
        if self.budget is None:
            return f"recompute {self.mode}"
        budget = bytes_text(self.budget) if isinstance(self.budget, int) else self.budget
        return f"recompute {self.mode} budget {budget}"


@attrs.frozen
class Tile(Placed):
    """What is computed in tiles, so that it never stands whole; `mode` may be a number of tiles."""

    what: Literal["loss", "mlp", "mask"] = "loss"
    mode: int | Literal["auto", "none"] = "auto"

    def __attrs_post_init__(self) -> None:
        if self.what not in ("loss", "mlp", "mask"):
            raise ValueError("what is tiled is the loss, the mlp or the mask")
        if self.mode not in ("auto", "none") and (not isinstance(self.mode, int) or self.mode < 1):
            raise ValueError("a number of tiles is from 1")

    def __str__(self) -> str:
        return f"tile {self.what} {self.mode}"


@attrs.frozen
class DimFact(Placed):
    """What holds of a dim wherever it stands: its size, or an axis that splits it evenly."""

    name: str = attrs.field(validator=check_names)
    size: int | None = None
    axis: str | None = None

    def __str__(self) -> str:
        return f"dim {self.name} {f'= {self.size}' if self.axis is None else f'divides {self.axis}'}"


def default_reduce(mesh: tuple[Axis, ...]) -> tuple[str, ...]:
    """The axes that a loss means over where none are stated: those that are not local."""
    return tuple(dict.fromkeys(axis.name for axis in mesh if not axis.local))


def listed(convert: type = tuple) -> Any:
    """A field that holds a tuple, empty unless given."""
    return attrs.field(default=(), converter=convert)


@attrs.frozen(kw_only=True)
class Statements:
    """All that the statements of a spec say, whether or not they fit each other."""

    family: str | None = None
    match: tuple[str, ...] = listed()
    mesh: tuple[Axis, ...] = listed()
    dims: tuple[DimFact, ...] = listed()
    inputs: tuple[Input, ...] = listed()
    outputs: tuple[Output, ...] = listed()
    attention: Attention = "ulysses"
    constraints: tuple[Constraint, ...] = listed()
    maps: tuple[Map, ...] = listed()
    recompute: Recompute = Recompute()
    tile: tuple[Tile, ...] = listed()
    offload: Literal["auto", "none"] = "none"
    reduce: tuple[str, ...] = attrs.field(
        default=attrs.Factory(lambda self: default_reduce(self.mesh), takes_self=True), converter=tuple
    )
    places: Mapping[str, At] = attrs.field(factory=dict, eq=False, repr=False)

    @property
    def axes(self) -> tuple[str, ...]:
        """The names of the mesh's axes, in order."""
        return tuple(axis.name for axis in self.mesh)

    @property
    def local_axes(self) -> tuple[str, ...]:
        """The axes on which a rank only ever sees its own shard."""
        return tuple(axis.name for axis in self.mesh if axis.local)

    def input(self, name: str) -> Input | None:
        """The input of that name."""
        return next((i for i in self.inputs if i.name == name), None)

    def output(self, name: str) -> Output | None:
        """The output of that name; where there is none, the whole value comes back."""
        return next((o for o in self.outputs if o.name == name), None)
