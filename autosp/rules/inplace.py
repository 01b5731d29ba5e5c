"""In-place operators and their functional forms: `aten.add.Tensor` is that of `aten.add_.Tensor`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from ..compat.torch import OpOverload, base_name, overload_name, schema_of
from .book import functional_of, traits

aten = torch.ops.aten


def is_mutable(target: Any) -> bool:
    """Whether the operator's schema says that it writes an argument."""
    return isinstance(target, OpOverload) and schema_of(target).is_mutable


def is_out(target: OpOverload) -> bool:
    """Whether the operator writes what it is given as `out=`."""
    return any(a.is_out for a in schema_of(target).arguments)


def functional_form(target: OpOverload) -> OpOverload | None:
    """`aten.add.Tensor` for `aten.add_.Tensor` and for `aten.add.out`: the operator that takes the same arguments.

    By a rule that names its in-place form; for PyTorch's operators by their names. None where there is none, or where
    more is written than the first argument, or `out`.
    """
    by_rule = functional_of(target)
    if by_rule is not None:
        return by_rule
    parameters = schema_of(target).arguments
    written = [i for i, a in enumerate(parameters) if a.alias_info and a.alias_info.is_write]
    if len(written) != 1 or target.namespace != "aten" or "rebinds" in traits(target):
        return None
    out = is_out(target)
    name = base_name(target) if out else _without_write(base_name(target))
    if (not out and written != [0]) or not name or not hasattr(aten, name):
        return None
    packet = getattr(aten, name)
    forms = [getattr(packet, n) for n in (overload_name(target), *packet.overloads()) if n in packet.overloads()]
    signature = _signature([a for i, a in enumerate(parameters) if not out or i not in written])
    return next((f for f in forms if not is_mutable(f) and _signature(schema_of(f).arguments) == signature), None)


def inplace_forms(target: OpOverload) -> Iterator[OpOverload]:
    """The operators of PyTorch that may be in-place forms of one, by its name."""
    name = base_name(target)
    likely = f"__i{name[2:]}" if re.fullmatch(r"__\w+__", name) else f"{name}_"
    packet = getattr(aten, likely, None) if target.namespace == "aten" else None
    for each in packet.overloads() if packet is not None else ():
        yield getattr(packet, each)


def _without_write(name: str) -> str:
    """`add` for `add_`, `__and__` for `__iand__`; '' for what has no such name."""
    if re.fullmatch(r"__i\w+__", name):
        return f"__{name[3:]}"
    return name[:-1] if name.endswith("_") else ""


def _signature(arguments: Sequence) -> list[tuple[str, str]]:
    """Names and types; the tensor that an operator begins with has several names (dropout's `input`)."""
    return [("self" if i == 0 and a.name == "input" else a.name, str(a.type)) for i, a in enumerate(arguments)]
