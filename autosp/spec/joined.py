"""Axes that always split together are one axis: `heads@(sp tp)` over their product, outermost first.

A spec whose axes that are not local (`sp`, `tp`) stand in its layouts as `(sp tp)` and in no other way is the same
spec over one axis `sp_tp`, whose ranks are those of both, `tp` running fastest.
"""

from __future__ import annotations

from typing import Any

import attrs

from ..syntax import Dim, Layout
from .spec import Spec
from .values import Axis


def joined(spec: Spec) -> Spec:
    """The spec over one axis where its axes can be joined; else the spec as it is."""
    axes = tuple(axis.name for axis in spec.mesh if not axis.local)
    if len(axes) < 2 or "_".join(axes) in spec.axes or any(fact.axis in axes for fact in spec.dims):
        return spec
    layouts = [x.layout for x in (*spec.inputs, *spec.outputs, *spec.constraints) if x.layout is not None]
    if not all(_together(layout, axes) for layout in layouts):
        return spec
    name = "_".join(axes)

    def over(x: Any) -> Any:  # an Input, an Output or a Constraint
        return x if x.layout is None else attrs.evolve(x, layout=join(x.layout, name))

    mesh = [axis for axis in spec.mesh if axis.local]
    at = next(i for i, axis in enumerate(spec.mesh) if not axis.local)
    return attrs.evolve(
        spec,
        mesh=(*mesh[:at], Axis(name=name), *mesh[at:]),
        inputs=tuple(map(over, spec.inputs)),
        outputs=tuple(map(over, spec.outputs)),
        constraints=tuple(map(over, spec.constraints)),
        reduce=tuple(dict.fromkeys(name if axis in axes else axis for axis in spec.reduce)),
    )


def join(layout: Layout, name: str) -> Layout:
    """The layout with the axes that make up `name`, where they stand together, as that one axis."""
    return attrs.evolve(
        layout,
        dims=tuple(
            Dim(tuple(attrs.evolve(p, axes=(name,)) if "_".join(p.axes) == name else p for p in dim.parts))
            for dim in layout.dims
        ),
    )


def _together(layout: Layout, axes: tuple[str, ...]) -> bool:
    """Whether every part is split over all of these axes, in this order, or over none of them."""
    return all(p.axes == axes or not set(p.axes) & set(axes) for dim in layout.dims for p in dim.parts)
