"""Symbolic sizes as graph nodes."""

from __future__ import annotations

import operator

import sympy
import torch
from torch import fx

from ..compat.torch import CleanDiv, FloorDiv, Max, Min, Mod, size_expression
from ..sharding import as_size


class Sizes:
    """Emits nodes that compute a size from the graph's inputs, each expression once."""

    def __init__(self, graph: fx.Graph, symbols: dict[sympy.Symbol, fx.Node]):
        self._graph = graph
        self._known: dict = dict(symbols)

    def __call__(self, size):
        """An int, or a node that computes the expression."""
        size = as_size(size)
        if isinstance(size, int):
            return size
        if size not in self._known:
            self._known[size] = self._emit(size)
        return self._known[size]

    def know(self, size, node: fx.Node) -> None:
        """The node of a number that is read from a tensor: what only the data tell is a symbol."""
        symbol = size_expression(size) if isinstance(size, torch.SymInt) else None
        if isinstance(symbol, sympy.Symbol):
            self._known.setdefault(symbol, node)

    def measure(self, size, node: fx.Node, dim: int) -> None:
        """A size that only the data tell, of the value that has it first."""
        if isinstance(size, sympy.Symbol) and size not in self._known:
            self._known[size] = self._graph.call_function(torch.ops.aten.sym_size.int, (node, dim))

    def _emit(self, e: sympy.Expr):
        if isinstance(e, (FloorDiv, CleanDiv)):
            return self._call(operator.floordiv, *e.args)
        if isinstance(e, Mod):
            return self._call(operator.mod, *e.args)
        if isinstance(e, sympy.floor):
            return self._call(operator.floordiv, *sympy.fraction(sympy.together(e.args[0])))
        if isinstance(e, (Max, Min)):
            return self._call(torch.sym_max if isinstance(e, Max) else torch.sym_min, *e.args)
        if isinstance(e, sympy.Add):
            return self._fold(operator.add, e.args)
        if isinstance(e, sympy.Mul):
            return self._fold(operator.mul, e.args)
        if isinstance(e, sympy.Pow) and e.exp.is_Integer and e.exp > 0:
            return self._fold(operator.mul, [e.base] * int(e.exp))
        raise AssertionError(f"no graph for the size {e!r} ({type(e).__name__})")

    def _fold(self, op, terms):
        result = self(terms[0])
        for t in terms[1:]:
            result = self._graph.call_function(op, (result, self(t)))
        return result

    def _call(self, op, *args):
        return self._graph.call_function(op, tuple(self(a) for a in args))
