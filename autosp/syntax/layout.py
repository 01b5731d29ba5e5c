"""Layouts as values: for each dim the axes it is split over, and the axes it is a sum over."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

import attrs

from ..errors import SpecError
from .faults import Mark, layout_problems
from .messages import bad_entry

NAME = re.compile(r"(?!_\Z)[A-Za-z_][A-Za-z0-9_]*\Z", re.ASCII)


def check_names(instance: object, field: attrs.Attribute, value: str | tuple[str, ...] | None) -> None:
    """Refuse what the language could not read back as names. An attrs validator; raises ValueError."""
    for name in (value,) if isinstance(value, str) else value or ():
        if not NAME.match(name):
            raise ValueError(f"{field.name} holds {name!r}, which is not a valid name")


def axes_text(axes: tuple[str, ...]) -> str:
    """`@sp`, `@(sp tp)` or nothing."""
    if len(axes) < 2:
        return "".join(f"@{axis}" for axis in axes)
    return f"@({' '.join(axes)})"


@attrs.frozen
class Part:
    """One factor of a dim: a name, or a size, or neither (printed `_`), and its axes, outermost first."""

    name: str | None = attrs.field(default=None, validator=check_names)
    size: int | None = None
    axes: tuple[str, ...] = attrs.field(default=(), converter=tuple, validator=check_names)

    def __attrs_post_init__(self) -> None:
        if self.name is not None and self.size is not None:
            raise ValueError("a part has a name or a size, not both")

    @property
    def word(self) -> str:
        """The part without its axes."""
        return self.name or ("_" if self.size is None else str(self.size))

    def __str__(self) -> str:
        return self.word + axes_text(self.axes)


@attrs.frozen
class Dim:
    """One dim: a part, or several merged into one, outermost first. No part at all is `...`."""

    parts: tuple[Part, ...] = attrs.field(default=(), converter=tuple)

    @property
    def is_ellipsis(self) -> bool:
        """Whether this stands for any number of dims that are not split."""
        return not self.parts

    @property
    def axes(self) -> tuple[str, ...]:
        """Every axis that the dim is split over, outermost first."""
        return tuple(axis for part in self.parts for axis in part.axes)

    @property
    def name(self) -> str | None:
        """The name of a plain dim; None for one that has none, is merged, or is `...`."""
        return self.parts[0].name if len(self.parts) == 1 else None

    def __str__(self) -> str:
        if self.is_ellipsis:
            return "..."
        text = " ".join(map(str, self.parts))
        return text if len(self.parts) == 1 else f"({text})"


ELLIPSIS = Dim()


def layout_of(dims: Iterable[object], partial: Sequence[str]) -> str:
    """The text of a layout: of its dims, and the axes that it is a sum over."""
    total = f" sum{axes_text(tuple(partial))}" if partial else ""
    return f"[{', '.join(map(str, dims))}]{total}"


@attrs.frozen(cache_hash=True)
class Layout:
    """How a value lies over the mesh. `str` gives its canonical text.

    Raises SpecError at construction where an axis or a dim name occurs twice, `...` occurs twice,
    a size is not positive, or a dim of size 1 is split.
    """

    dims: tuple[Dim, ...] = attrs.field(default=(), converter=tuple)
    partial: tuple[str, ...] = attrs.field(default=(), converter=tuple, validator=check_names)
    text: str = attrs.field(init=False, eq=False, repr=False)  # a field, so that Dynamo reads it as a constant

    @text.default
    def _written(self) -> str:
        return layout_of(self.dims, self.partial)

    def __attrs_post_init__(self) -> None:
        problems = layout_problems(tuple(self.marks()), at=None)
        if problems:
            raise SpecError(problems)

    def marks(self) -> Iterator[Mark]:
        """Every word of the layout, in reading order."""
        for dim in self.dims:
            if dim.is_ellipsis:
                yield Mark("ellipsis", "...")
            for part in dim.parts:
                yield Mark("dim" if part.size is None else "size", part.word)
                yield from (Mark("axis", axis) for axis in part.axes)
        yield from (Mark("sum", axis) for axis in self.partial)

    @property
    def has_ellipsis(self) -> bool:
        """Whether the layout fits tensors of several numbers of dims."""
        return ELLIPSIS in self.dims

    @property
    def ndim(self) -> int | None:
        """The number of dims, or None where `...` leaves it open."""
        return None if self.has_ellipsis else len(self.dims)

    @property
    def axes(self) -> tuple[str, ...]:
        """Every axis that some dim is split over, in reading order."""
        return tuple(axis for dim in self.dims for axis in dim.axes)

    @property
    def names(self) -> tuple[str, ...]:
        """Every dim name, in reading order."""
        return tuple(mark.text for mark in self.marks() if mark.kind == "dim" and mark.text != "_")

    def axes_of(self, i: int) -> tuple[str, ...]:
        """The axes that the i-th dim is split over, outermost first."""
        return self.dims[i].axes

    def dim_of(self, axis: str) -> int | None:
        """The dim that `axis` splits, or None."""
        return next((i for i, dim in enumerate(self.dims) if axis in dim.axes), None)

    def fits(self, ndim: int) -> bool:
        """Whether a tensor of `ndim` dims can have this layout."""
        return ndim >= len(self.dims) - 1 if self.has_ellipsis else ndim == len(self.dims)

    def expand(self, ndim: int) -> Layout:
        """The layout with `...` written out as unnamed dims. Raises ValueError where it does not fit."""
        if not self.fits(ndim):
            raise ValueError(f"{self} does not fit {ndim} dims")
        if not self.has_ellipsis:
            return self
        i = self.dims.index(ELLIPSIS)
        middle = (Dim((Part(),)),) * (ndim - len(self.dims) + 1)
        return Layout(self.dims[:i] + middle + self.dims[i + 1 :], self.partial)

    def __str__(self) -> str:
        return self.text


def dim_of_entry(entry: object) -> Dim:
    """One entry of `P`: an axis, several, None, or `...`. Raises SpecError for anything else."""
    if entry is None:
        return Dim((Part(),))
    if entry is ...:
        return ELLIPSIS
    axes = (entry,) if isinstance(entry, str) else entry
    if isinstance(axes, (tuple, list)) and all(isinstance(a, str) and NAME.match(a) for a in axes):
        return Dim((Part(axes=tuple(axes)),))
    raise SpecError(bad_entry(entry))


def P(*entries: object) -> Layout:
    """A layout from axis names alone, as JAX's `PartitionSpec`.

    Args:
        entries: one for each dim: an axis of the mesh, a tuple of axes (outermost first), None for a dim that is not
            split, or `...` for any number of those.

    Returns:
        The `Layout`, whose dims have no names.

    Raises:
        SpecError: an entry is something else, or an axis occurs twice.

    Example:
        >>> import autosp
        >>> str(autosp.P("dp", "sp", None)), str(autosp.P(("sp", "tp"), ...))
        ('[_@dp, _@sp, _]', '[_@(sp tp), ...]')
    """
    return Layout(tuple(map(dim_of_entry, entries)))
