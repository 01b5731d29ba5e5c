"""A call of an operator as a rule sees it: tensors in order, arguments by name, tests over them."""

from __future__ import annotations

from typing import Any

import attrs
import torch

from ..compat.torch import OpOverload, base_name, overload_name, schema_of
from ..sharding import Size, as_size
from .model import Test


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


def arguments(target: OpOverload, args: Any, kwargs: Any) -> dict[str, Any]:
    """Every argument by its name in the schema, defaults included."""
    named: dict[str, Any] = {}
    for i, a in enumerate(schema_of(target).arguments):
        if a.name in kwargs:
            named[a.name] = kwargs[a.name]
        elif i < len(args) and not a.kwarg_only:
            named[a.name] = args[i]
        else:
            named[a.name] = a.default_value
    return named


def with_arguments(target: OpOverload, args: Any, kwargs: Any, /, **changes: Any) -> tuple[tuple, dict[str, Any]]:
    """The arguments of a call with some changed; those before a changed one are given by place."""
    positional = [a.name for a in schema_of(target).arguments if not a.kwarg_only]
    named = arguments(target, args, kwargs) | changes
    last = max((positional.index(n) + 1 for n in changes if n in positional), default=0)
    by_place = positional[: max(last, len(args))]
    rest = {n: v for n, v in {**kwargs, **changes}.items() if n not in by_place}
    return tuple(named[n] for n in by_place), rest


def operand_indices(target: OpOverload, args: Any, kwargs: Any) -> dict[str, list[int]]:
    """For each argument that holds tensors, their places in `tensor_args`."""
    places: dict[str, list[int]] = {}
    positional = [a.name for a in schema_of(target).arguments if not a.kwarg_only]
    n = 0
    for name, value in [*zip(positional, args, strict=False), *kwargs.items()]:
        number = len(tensors_in(value))
        places[name] = list(range(n, n + number))
        n += number
    return places


def op_name(target: OpOverload) -> str:
    """`aten.linear.default`; a higher-order operator by its name."""
    if not isinstance(target, OpOverload):
        return str(target)
    return f"{target.namespace}.{base_name(target)}.{overload_name(target)}"


def resolve(name: str) -> Any:
    """The operator of a name, or None where this torch (or no import yet) has it."""
    value: Any = torch.ops
    try:
        for part in name.split("."):
            value = getattr(value, part)
    except (AttributeError, RuntimeError):
        return None
    return value


class Mismatch(Exception):
    """This rule does not fit this call; the message says why."""


@attrs.frozen
class Call:
    """A call of `target`: its arguments by name, its tensors' sizes in order, and their dtypes."""

    target: OpOverload
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    named: dict[str, Any]
    places: dict[str, list[int]]
    operands: tuple[tuple[Size, ...], ...]
    results: tuple[tuple[Size, ...], ...]
    floating: tuple[bool, ...]
    floating_results: bool


def make_call(target: OpOverload, args: Any, kwargs: Any, results: Any) -> Call:
    """The call of `target` on `args` and `kwargs` that gave `results`."""
    operands, outs = tensor_args(args, kwargs), tensor_results(results)
    return Call(
        target,
        tuple(args),
        dict(kwargs),
        arguments(target, args, kwargs),
        operand_indices(target, args, kwargs),
        tuple(sizes(t) for t in operands),
        tuple(sizes(t) for t in outs),
        tuple(is_floating(t) for t in operands),
        all(map(is_floating, outs)),
    )


def sizes(tensor: Any) -> tuple[Size, ...]:
    """A tensor's shape as ints and expressions."""
    return tuple(as_size(n) for n in tensor.shape)


def is_floating(tensor: Any) -> bool:
    """Whether sums of the tensor's values are meant to be exact up to rounding."""
    return tensor.dtype.is_floating_point or tensor.dtype.is_complex


@attrs.frozen(eq=False)
class CallArguments:
    """The arguments of a call by name, and nothing of what it gave."""

    named: dict[str, Any]

    def meets(self, tests: tuple[Test, ...]) -> bool:
        """Whether every test is true of the arguments; a test of one that the call does not have is not."""
        return all(t.arg in self.named for t in tests) and all_hold(tests, self)


def value_of(call: Call | CallArguments, name: str) -> Any:
    """An argument's value."""
    if name not in call.named:
        raise Mismatch(f"{call.target} has no argument '{name}'")
    return call.named[name]


def holds(test: Test, call: Call | CallArguments) -> bool:
    """Whether a test is true of the call."""
    value = value_of(call, test.arg)
    if test.op == "is tensor":
        return bool(tensors_in(value))
    if test.op in ("==", "!="):
        return same(value, test.value) == (test.op == "==")
    truth = bool(value) if not is_tensor(value) else True
    return truth == (test.op == "holds")


def same(value: Any, literal: Any) -> bool:
    """Whether an argument equals a literal of rule text; never by a guard on a symbol."""
    if is_tensor(value) or isinstance(value, (torch.SymInt, torch.SymFloat)):
        return False
    return value is literal or (literal is not None and not isinstance(value, (list, tuple)) and value == literal)


def all_hold(tests: tuple[Test, ...], call: Call | CallArguments) -> bool:
    """Whether every test is true of the call."""
    return all(holds(t, call) for t in tests)


def positions(value: Any, rank: int) -> list[int]:
    """The dims that a dim argument names; all of them for None or an empty list."""
    if value is None or (isinstance(value, (list, tuple)) and not value):
        return list(range(rank))
    listed = value if isinstance(value, (list, tuple)) else [value]
    return sorted({int(d) % rank for d in listed}) if rank else []
