"""A call of an operator: its tensors in order, and its arguments by name."""

from __future__ import annotations

from typing import Any

import torch


def is_tensor(x: Any) -> bool:
    """Whether `x` is a tensor, real or fake (anything with a shape and a dtype)."""
    return isinstance(x, torch.Tensor) or (hasattr(x, "shape") and hasattr(x, "dtype"))


def tensors_in(x: Any) -> list[Any]:
    """The tensors of a value: itself, or those of a list, nested lists in order."""
    if is_tensor(x):
        return [x]
    if isinstance(x, (list, tuple)):
        return [t for item in x for t in tensors_in(item)]
    return []


def tensor_args(args: Any, kwargs: Any) -> list[Any]:
    """The tensor operands of a call: args then kwargs, lists flattened, None and numbers skipped."""
    return tensors_in(list(args)) + tensors_in(list(kwargs.values()))


def tensor_results(results: Any) -> list[Any]:
    """The tensors that a call gave, in order."""
    return tensors_in(results)


def arguments(target: torch._ops.OpOverload, args: Any, kwargs: Any) -> dict[str, Any]:
    """Every argument by its name in the schema, defaults included."""
    named: dict[str, Any] = {}
    for i, a in enumerate(target._schema.arguments):
        if a.name in kwargs:
            named[a.name] = kwargs[a.name]
        elif i < len(args) and not a.kwarg_only:
            named[a.name] = args[i]
        else:
            named[a.name] = a.default_value
    return named


def operand_indices(target: torch._ops.OpOverload, args: Any, kwargs: Any) -> dict[str, list[int]]:
    """For each argument that holds tensors, their places in `tensor_args`."""
    places: dict[str, list[int]] = {}
    positional = [a.name for a in target._schema.arguments if not a.kwarg_only]
    n = 0
    for name, value in [*zip(positional, args), *kwargs.items()]:
        found = len(tensors_in(value))
        places[name] = list(range(n, n + found))
        n += found
    return places


def op_name(target: torch._ops.OpOverload) -> str:
    """`aten.linear.default`"""
    return f"{target.namespace}.{target._opname}.{target._overloadname}"
