"""Numeric cases: for each operator, random arguments that exercise its rules.

Most calls are drawn from the rule's own dims (`drawn`); where an operator's arguments say more than
its dims, `case_makers` has a maker.
"""

from __future__ import annotations

from typing import Any

import torch

from ..compat.torch import OpOverload, schema_of
from .case_makers import MAKERS
from .case_values import COMPLEX, FILL, ONE_DTYPE, VALUES
from .draw import Arguments, Draw
from .model import Dims, FactorDim, Operand, Pack, Rule, Signature
from .user import CASES

VARIANTS = 4
PLAIN = {"float": 0.5, "number": 0.5, "int": 2, "bool": True, "str": ""}  # arguments that only a custom operator has


def cases_of(name: str, target: OpOverload, rules: tuple[Rule, ...]) -> list[Arguments]:
    """The calls on which an operator's rules are tried."""
    draw = Draw.seeded(name)
    if name in CASES:
        return [(tuple(args), {}) for args in CASES[name]()]
    calls = list(MAKERS[name](draw)) if name in MAKERS else drawn_cases(name, target, rules, draw)
    if name in COMPLEX:
        mixed = () if name in ONE_DTYPE else (False,)
        calls += [with_complex(case, draw, every) for case in calls for every in (True, *mixed)]
    return calls


def drawn_cases(name: str, target: OpOverload, rules: tuple[Rule, ...], draw: Draw) -> list[Arguments]:
    """Calls drawn from the dims of an operator's rules."""
    forms = [r.form for r in rules if isinstance(r.form, Signature)]
    return [drawn(name, target, form, draw, v) for form in forms for v in range(VARIANTS)]


def with_complex(case: Arguments, draw: Draw, every: bool) -> Arguments:
    """The call with complex values: in every floating tensor, or in the first alone."""
    left = [True]

    def one(x: Any) -> Any:
        if isinstance(x, torch.Tensor) and x.is_floating_point() and (every or left[0]):
            left[0] = False
            return torch.complex(x, draw.x(*x.shape))
        return [one(i) for i in x] if isinstance(x, list) else x

    args, kwargs = case
    return tuple(map(one, args)), {k: one(v) for k, v in kwargs.items()}


def drawn(name: str, target: OpOverload, form: Signature, draw: Draw, variant: int) -> Arguments:
    """Arguments whose tensors have the dims that the rule gives them."""
    sizes: dict[str, int] = {}
    pack = draw.shape(3 if variant % 2 else 2)
    types = {a.name: str(a.type) for a in schema_of(target).arguments}
    tensors = {
        o.name: operand(name, types[o.name], o, sizes, pack, draw, variant if i else 0)
        for i, o in enumerate(form.operands)
        if "Tensor" in types[o.name]
    }
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    for a in schema_of(target).arguments:
        value = tensors.get(a.name) if a.name in tensors else argument(name, a, pack, draw, variant)
        if a.kwarg_only:
            kwargs |= {} if a.has_default_value() and value == a.default_value else {a.name: value}
        else:
            args.append(value)
    return tuple(args), kwargs


def operand(
    name: str, kind: str, form: Operand, sizes: dict[str, int], pack: list[int], draw: Draw, variant: int
) -> Any:
    """A tensor (a list of them, or None) for an operand; later variants broadcast it."""
    if form.maybe and kind.startswith("Optional") and variant == 2:
        return None
    make = VALUES.get((name, form.name), VALUES.get(name, Draw.x))
    shape = shape_of(form.dims, sizes, pack, draw, variant)
    return [make(draw, *shape) for _ in range(3)] if kind == "List[Tensor]" else make(draw, *shape)


def shape_of(dims: Dims, sizes: dict[str, int], pack: list[int], draw: Draw, variant: int) -> list[int]:
    """The sizes of a tensor's dims; a broadcast pack loses its first dim or has one of size 1."""
    shape: list[int] = []
    for item in dims:
        if isinstance(item, Pack):
            shape += {1: [1, *pack[1:]], 3: pack[1:]}.get(variant, pack) if item.token == "*" else pack
        elif isinstance(item, FactorDim) and not (item.maybe and variant == 3):
            total = 1
            for n in item.names:
                total *= sizes.setdefault(n, draw.size())
            shape.append(total)
    return shape


def argument(name: str, schema: Any, pack: list[int], draw: Draw, variant: int) -> Any:
    """A value for an argument that is no tensor."""
    rank = len(pack)
    known = FILL.get((name, schema.name), FILL.get(schema.name) if name.startswith("aten.") else None)
    if known is not None:
        return known(draw, pack)
    if schema.name in ("dim", "dims") and "List" in str(schema.type):
        return draw.numbers.sample(range(-rank, 0), k=draw.pick(1, rank))
    if schema.name == "dim" and (variant < 2 or not schema.has_default_value()):
        return draw.dim(rank)
    if schema.name == "keepdim":
        return bool(variant % 2)
    return schema.default_value if schema.has_default_value() else PLAIN.get(str(schema.type))
