"""Names of modules, parameters and buffers: those that the model's own tree gives them.

Dynamo names a value by how it reached it (`L['args'][0]._modules['layers']…`), which a decorator, a
closure or a wrapper changes. So a tensor is known by its identity, and a module by the identity that
the stack of a node holds; the text is read only where the tree does not list an object.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import attrs
import torch
from torch import fx, nn

from ..compat.torch import (
    Frame,
    called_module,
    compiled_frame,
    expression_of,
    links_of,
    names_in,
    source_of,
    stack_expression,
    uncompiled,
    value_of,
)

Role = Literal["param", "buffer", "input", "size"]
STACK = "nn_module_stack"


@attrs.frozen(eq=False)
class Names:
    """What the models of one traced graph call their parts.

    roles: what each graph input is, and its name, in order. modules: the paths of each module, by
    identity, as `named_modules()` orders them (a shared module has several). model: the class of
    the model, or of all of them.
    """

    roles: tuple[tuple[Role, str], ...]
    modules: Mapping[int, tuple[str, ...]]
    model: str

    @property
    def paths(self) -> list[str]:
        """Every module path, the models' own ('') left out."""
        return [path for paths in self.modules.values() for path in paths if path]


def name_modules(gm: fx.GraphModule, example_inputs: Sequence, model: Any = None) -> Names:
    """The names in Dynamo's graph, whose module stacks hold paths of the model's tree from here on.

    model: the root of the tree, where it is known. Modules that the graph reaches by other ways, or
    all where it is None, are found by the sources of its inputs; one alone gives its own paths, of
    several each puts the name of its variable in front.
    """
    frame = _Frame(compiled_frame())
    inputs = [n for n in gm.graph.nodes if n.op == "placeholder"]
    roots = _roots(frame, inputs, uncompiled(model) if isinstance(model, nn.Module) else None)
    tree = _Tree.of(roots)
    for part in gm.modules():
        for node in part.graph.nodes if isinstance(part, fx.GraphModule) else ():
            if stack := node.meta.get(STACK):
                node.meta[STACK] = {key: (tree.path(key, text), kind) for key, (text, kind) in stack.items()}
    roles = tuple(tree.role(frame, node, e) for node, e in zip(inputs, example_inputs, strict=True))
    classes = dict.fromkeys(type(root.module).__name__ for root in roots)
    return Names(roles, tree.modules, " and ".join(classes) or "the model")


@attrs.frozen(eq=False)
class _Root:
    """A model that the graph uses: what stands before its paths, and Dynamo's expression for it."""

    module: nn.Module
    prefix: str
    expression: str


@attrs.frozen(eq=False)
class _Frame:
    """What the compiled function's variables tell of Dynamo's sources; nothing where no function is compiled."""

    frame: Frame | None

    def chain(self, source: Any) -> Iterator[tuple[Any, Any]]:
        """The sources that a source goes through, from a variable to itself, each with its value."""
        return ((link, self._value(link)) for link in links_of(source))

    def _value(self, source: Any) -> Any:
        try:
            return value_of(source, self.frame) if self.frame else None
        except Exception:  # a source may be of Dynamo's own making, without a value in the frame
            return None

    def variable(self, source: Any) -> str:
        """The user's name for what a source stands for: `policy`, `models.0`."""
        chain = list(self.chain(source))
        for i in range(len(chain) - 1, 2, -1):
            function, cells, cell = (value for _, value in chain[i - 3 : i])
            if inspect.isfunction(function) and cells is function.__closure__:
                free = function.__code__.co_freevars[[c is cell for c in cells].index(True)]
                rest = expression_of(source).removeprefix(expression_of(chain[i][0]))
                return ".".join([free, *names_in(rest)])
        return ".".join(names_in(expression_of(source))[1:])

    def argument(self, source: Any, x: torch.Tensor, models: Sequence[nn.Module]) -> str | None:
        """The name of an input in a model's forward, where a wrapper takes it by position in `*args`."""
        code = self.frame.code if self.frame else None
        if code is None or not code.co_flags & inspect.CO_VARARGS:
            return None
        rest = code.co_varnames[code.co_argcount + code.co_kwonlyargcount]
        values = self.frame.variables.get(rest, ())
        at = next((i for i, value in enumerate(values) if value is x), None)
        if at is None or not expression_of(source).startswith(f"L['{rest}']"):
            return None
        # a decorated forward takes the model first, or holds the method of one
        holders = [values[0], *(v.__self__ for v in self.frame.variables.values() if inspect.ismethod(v))]
        model = next((m for h in holders for m in models if m is h), None)
        names = list(inspect.signature(model.forward).parameters) if model is not None else []
        return dict(enumerate(names, start=int(values[0] is model))).get(at)


@attrs.frozen(eq=False)
class _Tree:
    """All names that the roots give, by the identity of what they name."""

    roots: tuple[_Root, ...]
    modules: dict[int, tuple[str, ...]]
    tensors: dict[int, tuple[Role, str]]

    @classmethod
    def of(cls, roots: Sequence[_Root]) -> _Tree:
        modules: dict[int, tuple[str, ...]] = {}
        tensors: dict[int, tuple[Role, str]] = {}
        for root in roots:
            for path, module in root.module.named_modules(remove_duplicate=False):
                modules[id(module)] = (*modules.get(id(module), ()), _joined(root.prefix, path))
            for path, x in root.module.named_parameters(remove_duplicate=False):
                tensors.setdefault(id(x), ("param", _joined(root.prefix, path)))
            for path, x in root.module.named_buffers(remove_duplicate=False):
                tensors.setdefault(id(x), ("buffer", _joined(root.prefix, path)))
        return cls(tuple(roots), modules, tensors)

    def path(self, key: str, expression: str) -> str:
        """The path of a module from an entry of a node's stack. Of several, the one that the call went by."""
        paths = self.modules.get(called_module(key), ())
        if not paths:
            return self.beside(expression)
        names = names_in(expression)
        return max(paths, key=lambda path: _shared_end(path.split("."), names))

    def beside(self, expression: str) -> str:
        """A path out of Dynamo's text, for what no tree lists: a module in a plain list, say."""
        for root in sorted(self.roots, key=lambda root: -len(root.expression)):
            if root.expression and expression.startswith(root.expression):
                rest = expression[len(root.expression) :].removeprefix("._orig_mod")
                return _joined(root.prefix, *names_in(rest))
        return _joined(*names_in(expression)[1:])

    def role(self, frame: _Frame, node: fx.Node, example: Any) -> tuple[Role, str]:
        """What a graph input is, and its name."""
        source = source_of(node)
        expression = expression_of(source) if source is not None else node.name
        if not isinstance(example, torch.Tensor):
            return "size", expression
        if id(example) in self.tensors:
            return self.tensors[id(example)]
        if source is None:
            return "param" if isinstance(example, nn.Parameter) else "input", expression
        if isinstance(example, nn.Parameter):
            return "param", self.beside(expression)
        if any(isinstance(value, nn.Module) for _, value in frame.chain(source)):
            return "buffer", self.beside(expression)
        named = frame.argument(source, example, [root.module for root in self.roots])
        return "input", named or names_in(expression)[-1]


def _roots(frame: _Frame, inputs: Sequence[fx.Node], model: nn.Module | None) -> list[_Root]:
    """The models that the graph's inputs come from; the given one first, and without a prefix."""
    found: dict[int, tuple[nn.Module, Any]] = {}
    for source in filter(None, map(source_of, inputs)):
        for link, value in frame.chain(source):
            if isinstance(value, nn.Module):
                found.setdefault(id(uncompiled(value)), (uncompiled(value), link))
                break
    known = {i: module for i, (module, _) in found.items()} | ({id(model): model} if model is not None else {})
    within = {id(part) for module in known.values() for part in module.modules() if part is not module}
    outer = {i: each for i, each in found.items() if i not in within}
    roots = []
    if model is not None:
        _, link = outer.pop(id(model), (model, None))
        roots.append(_Root(model, "", stack_expression(link) if link is not None else ""))
    alone = model is None and len(outer) == 1
    others = [_Root(m, "" if alone else frame.variable(link), stack_expression(link)) for m, link in outer.values()]
    return roots + others


def _shared_end(a: Sequence[str], b: Sequence[str]) -> int:
    """How many names two paths end in alike."""
    count = 0
    for x, y in zip(reversed(a), reversed(b), strict=False):
        if x != y:
            break
        count += 1
    return count


def _joined(*parts: str) -> str:
    return ".".join(filter(None, parts))
