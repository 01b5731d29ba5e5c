"""What autograd makes of a call, asked of PyTorch itself: each distinct call runs once on fake tensors.

Nothing here knows an operator or a dtype. Whether a result has a gradient, and to which operands it flows, is read off
the graph of derivatives that the call leaves behind.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Container, Mapping
from typing import Any

import attrs
import sympy
import torch
from torch import fx
from torch.autograd.graph import get_gradient_edge

from ..compat.torch import (
    UNKNOWN,
    FakeTensorMode,
    OpOverload,
    data_dependent,
    symbol_of_data,
    unlogged_fakes,
)
from ..rules import traits
from ..sharding import Coordinate, Size, Split, as_size
from .captured import differentiable, tensors_of
from .casts import Casts, under
from .keys import key_of


@attrs.frozen
class Meta:
    """A tensor without its values. grad: whether autograd tracks it."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    grad: bool

    @classmethod
    def of(cls, t: torch.Tensor, grad: bool | None = None) -> Meta:
        """The tensor's; `grad` where it is not the tensor's own."""
        return cls(tuple(t.shape), tuple(t.stride()), t.dtype, t.device, t.requires_grad if grad is None else grad)


@attrs.frozen
class CallResult:
    """What a call gives (a tree of Meta and numbers), and per tensor of it the operands that its gradient flows to, by
    their places among the call's tensors."""

    value: Any
    reached: tuple[frozenset[int], ...]


@attrs.frozen(eq=False)
class Autograd:
    """Outcomes of calls. Equal calls are run once. within: what else a call is run in."""

    within: Callable = contextlib.nullcontext
    mode: FakeTensorMode = attrs.Factory(lambda: FakeTensorMode(allow_non_fake_inputs=True, shape_env=data_dependent()))
    _known: dict = attrs.Factory(dict)

    def call(self, target: Callable, args: Any, kwargs: Mapping, grad: bool, casts: Casts = ()) -> CallResult:
        """The outcome of a call on trees of Meta and plain values. grad: whether gradients are on. casts: the autocast
        regions that it is in."""
        if any(map(_symbolic, leaves([list(args), list(kwargs.values())]))) or "item" in traits(target):
            return self._run(target, args, kwargs, grad, casts)  # each reads a number of its own
        key = target, key_of(args), key_of(dict(kwargs)), grad, casts
        if key not in self._known:
            try:
                self._known[key] = self._run(target, args, kwargs, grad, casts)
            except Exception:
                if not grad:
                    raise
                self._known[key] = self._assumed(target, args, kwargs, casts)
        return self._known[key]

    def flows(self, node: fx.Node, wanting: Container[fx.Node], hints: Mapping, grad: bool) -> tuple[bool, ...]:
        """Per tensor that a call gives, whether a gradient flows to it where one does to the operands in `wanting`.
        (By its dtype alone, of calls that are no operator's and of those that fail on fake tensors.) grad: whether
        gradients are on; where they are off, an operator may still give its very operand."""
        results = tensors_of(node.meta.get("val"))
        if not any(n in wanting for n in node.all_input_nodes):
            return (False,) * len(results)
        floating = tuple(grad and differentiable(t.dtype) for t in results)
        if not isinstance(node.target, OpOverload):
            return floating
        args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: example(n.meta.get("val"), hints, n in wanting))
        try:
            value = self.call(node.target, args, kwargs, grad).value
        except Exception:  # any of a foreign operator's
            return floating
        return tuple(x.grad for x in leaves([value]) if isinstance(x, Meta))

    def _assumed(self, target: Callable, args: Any, kwargs: Mapping, casts: Casts) -> CallResult:
        """Of a call that fails with gradients on (flex_attention, which has none on the CPU): they flow everywhere."""
        plain = self._run(target, args, kwargs, False, casts)
        given = [x for x in leaves([list(args), list(kwargs.values())]) if isinstance(x, Meta)]
        wanting = frozenset(i for i, x in enumerate(given) if x.grad)

        def tracked(x: Any) -> Any:
            return attrs.evolve(x, grad=bool(wanting) and differentiable(x.dtype)) if isinstance(x, Meta) else x

        value = mapped(tracked, plain.value)
        return CallResult(
            value, tuple(wanting if x.grad else frozenset() for x in leaves(value) if isinstance(x, Meta))
        )

    def _run(self, target: Callable, args: Any, kwargs: Mapping, grad: bool, casts: Casts) -> CallResult:
        operands: list[torch.Tensor] = []

        def fake(x: Any) -> Any:
            if isinstance(x, Meta):
                operands.append(self._fake(x))
                return operands[-1]
            return x

        with unlogged_fakes(), self.mode, torch.set_grad_enabled(grad), under(casts), self.within():
            given = mapped(fake, tuple(args)), {name: mapped(fake, x) for name, x in kwargs.items()}
            found = target(*given[0], **given[1])
        results = [x for x in leaves(found) if isinstance(x, torch.Tensor)]
        return CallResult(
            mapped(lambda x: Meta.of(x, _tracked(x, operands)) if isinstance(x, torch.Tensor) else x, found),
            tuple(_reached(r, operands) for r in results),
        )

    def _fake(self, x: Meta) -> torch.Tensor:
        made = torch.empty_strided(x.shape, x.stride, dtype=x.dtype, device=x.device)
        return made.requires_grad_(x.grad)


def example(val: Any, hints: Mapping, grad: bool) -> Any:
    """A value of a captured graph in the example's numbers."""
    if isinstance(val, torch.Tensor):
        shape, stride = (tuple(hint_of(as_size(n), hints) for n in sizes) for sizes in (val.shape, val.stride()))
        return Meta(shape, stride, val.dtype, val.device, grad)
    if isinstance(val, torch.SymInt):
        return hint_of(as_size(val), hints)
    return 1.0 if isinstance(val, torch.SymFloat) else val


def hint_of(size: Size, hints: Mapping) -> int:
    """The number that a size had in the example."""
    if isinstance(size, int):
        return size
    unknown = {s: UNKNOWN for s in size.free_symbols if symbol_of_data(s)}
    numbers = {s: sympy.Integer(n) for s, n in {**unknown, **hints}.items()}
    return int(size.xreplace(numbers))


def _symbolic(x: Any) -> bool:
    """Whether an argument is a number, or has a size, that only the data tell."""
    sizes = (*x.shape, *x.stride) if isinstance(x, Meta) else (x,)
    return any(isinstance(n, (torch.SymInt, torch.SymFloat, torch.SymBool)) for n in sizes)


def _tracked(result: torch.Tensor, operands: list[torch.Tensor]) -> bool:
    """Whether a gradient flows on from the result. A view of a leaf that is taken without gradients says that it
    requires one, and gives it to nobody."""
    return result.requires_grad and (not result.is_leaf or any(result is x for x in operands))


def _reached(result: torch.Tensor, operands: list[torch.Tensor]) -> frozenset[int]:
    """The operands (fresh leaves) that the result's gradient flows to."""
    if not _tracked(result, operands):
        return frozenset()
    with torch.enable_grad():
        ends = {get_gradient_edge(x).node: i for i, x in enumerate(operands) if x.requires_grad}
        stack = [get_gradient_edge(result).node]
    found, seen = set(), set()
    while stack:
        node = stack.pop()
        if node in ends:
            found.add(ends[node])
        elif node not in seen:
            seen.add(node)
            stack += [after for after, _ in node.next_functions if after is not None]
    return frozenset(found)


def mapped(function: Callable, x: Any) -> Any:
    if not isinstance(x, (list, tuple)):
        return function(x)
    found = [mapped(function, i) for i in x]
    if isinstance(x, (Split, Coordinate)):
        return type(x)(*found)
    return tuple(found) if type(x) is tuple else found


def leaves(x: Any) -> list:
    return [leaf for i in x for leaf in leaves(i)] if isinstance(x, (list, tuple)) else [x]
