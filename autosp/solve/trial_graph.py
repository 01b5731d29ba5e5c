"""A module's graph in a size and on a device on which it can be tried."""

from __future__ import annotations

import math
from operator import attrgetter

import attrs
import sympy
import torch
from torch import fx

from ..capture import tensors_of
from ..capture.regions import Mapped
from ..compat.torch import ENTER_AUTOCAST, tree_map
from ..rules import drawless, is_a, is_call
from ..sharding import as_size
from .problem import hint_of

SMALL = 64  # dims below it stay as they are
ROWS = 8  # what a dim keeps at least: grouped products want rows of 16 bytes
ENDLESS = 1 << 31  # "to the end", among a slice's bounds
SHAPED = ("reshape", "permute", "expand", "alias", "clone", "cast")  # kinds of what leaves values as they are
LOW = (torch.bfloat16, torch.float16)


@attrs.frozen
class Scale:
    """By what the sizes in `dims` are divided."""

    by: int = 1
    dims: frozenset[int] = frozenset()

    def __call__(self, n: int) -> int:
        return n // self.by if n in self.dims else n

    def bytes(self, mapped: Mapped, sizes: dict) -> int:
        """All values of the module in fp32, forward and backward, where symbols have these sizes."""
        made = [t.shape for node in mapped.body.graph.nodes for t in tensors_of(node.meta.get("val"))]
        shapes = [*made, *(shape for shape in mapped.operands if isinstance(shape, tuple))]
        return 3 * 4 * sum(math.prod(self(hint_of(as_size(n), sizes)) for n in shape) for shape in shapes)


def scale_of(mapped: Mapped, hints: dict, room: int) -> Scale:
    """The module as it is where that takes little room, else with its large dims divided by what divides all of them,
    small ones left out where that helps."""
    sizes = {**hints, mapped.length: min(hints[mapped.length], 1024)}
    if Scale().bytes(mapped, sizes) <= room // 8:
        return Scale()
    fixed = {n for shape in mapped.operands if isinstance(shape, tuple) for n in shape if isinstance(n, int)}
    dims = sorted(n for n in fixed if n >= SMALL and n % ROWS == 0)
    scales = [Scale(math.gcd(*(n // ROWS for n in dims[i:])), frozenset(dims[i:])) for i in range(len(dims))]
    return min([Scale(), *scales], key=lambda scale: scale.bytes(mapped, sizes))


def as_tried(dtype: torch.dtype) -> torch.dtype:
    """What stands for a dtype in a trial: fp32 for those of 16 bits, whose rounding would hide a difference."""
    return torch.float32 if dtype in LOW else dtype


def on_cpu(body: fx.GraphModule, scale: Scale) -> fx.GraphModule:
    """The graph on the CPU, in fp32, without dropout and autocast, its sizes scaled."""

    def fitted(x: object) -> object:
        if isinstance(x, torch.device):
            return torch.device("cpu")
        if isinstance(x, torch.dtype):
            return as_tried(x)
        return scale(x) if isinstance(x, int) and not isinstance(x, bool) else x

    graph = fx.Graph()
    env: dict[fx.Node, fx.Node] = {}
    for node in body.graph.nodes:
        env[node] = new = graph.node_copy(node, env.__getitem__)
        new.args, new.kwargs = tree_map(fitted, new.args), tree_map(fitted, new.kwargs)
        if is_call(new, "random") and (still := drawless(new)) is not None:
            new.args, new.kwargs = still
        if node.target is ENTER_AUTOCAST:
            new.args = (*new.args[:2], False, *new.args[3:])
    return fx.GraphModule(body, graph)


def compared_with(node: fx.Node) -> set[int]:
    """The whole numbers that a value is compared with, itself or in another shape or dtype."""
    numbers: set[int] = set()
    pending, seen = [node], set()
    while pending:
        for user in pending.pop().users:
            if is_a(user, "comparison"):
                numbers |= {a for a in user.args if isinstance(a, int) and not isinstance(a, bool)}
            elif is_a(user, *SHAPED) and user not in seen:
                seen.add(user)
                pending.append(user)
    return numbers


def constants(body: fx.GraphModule, mapped: Mapped) -> list[int]:
    """The numbers that operators are called with, which may be limits to how many positions there are; those in the
    module's constant tensors, and in the sizes that it is given, too."""
    numbers: list[int] = []

    def note(x: object) -> None:
        if isinstance(x, (int, float)) and not isinstance(x, bool) and math.isfinite(x) and abs(x) < ENDLESS:
            numbers.append(math.ceil(abs(x)))

    for node in body.graph.nodes:
        tree_map(note, (node.args, node.kwargs))
        if node.op == "get_attr" and isinstance(value := attrgetter(str(node.target))(body), torch.Tensor):
            note(float(value.abs().max()) if value.numel() else 0)
    for size in mapped.operands:
        for number in size.atoms(sympy.Integer) if isinstance(size, sympy.Expr) else ():
            note(int(number))
    return numbers
