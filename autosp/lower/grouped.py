"""Grouped-query attention as kernels have it: keys and values stay as few as they are.

Decoders in Python repeat them to the queries' heads first, which makes and saves values that are as large as the
queries. The kernel that is told of the groups reads what was repeated: the same products and sums, in the forward.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence

import attrs
import torch
from torch import fx

from ..capture import place_in
from ..errors import CheckError, Problem
from ..rules import argument, is_a, is_call, named, traits, with_arguments
from ..sharding import Split
from .conversions import convert
from .windows import BAND

aten = torch.ops.aten
GROUPED = "enable_gqa"  # what PyTorch's attention calls it
_FLASH = (torch.float16, torch.bfloat16)  # dtypes, and heads' largest size, of the GPU's kernel that has groups
_WIDEST = 256
RULE = "keys and values that are repeated head by head may be given to the attention as they were before"
FIX = "this is a fault of autosp: switch the pass off with AUTOSP_SKIP=group_heads, and report it with AUTOSP_DUMP's files"


@attrs.frozen
class Repeated:
    """A value that repeats each head of another so many times, next to each other.

    of: the other, with a dim of size 1 at `dim`; sizes: its other dims, as the repetition takes them (dim None: it is the
    other as it is). swapped: whether heads and positions change places afterwards.
    """

    of: fx.Node
    dim: int | None
    sizes: tuple
    times: int
    swapped: bool


def group(gm: fx.GraphModule, on_gpu: bool) -> int:
    """Rewrites the attentions of a local graph whose keys and values are repeated; gives their number.

    on_gpu: whether it is planned for a GPU, as tensors there are in any case. Only FlashAttention has groups there, in
    half precision and without a mask: another kernel would make all scores.
    """
    done = 0
    for node in gm.graph.nodes:
        pair = repetitions(node)
        if pair is None or argument(node, GROUPED) or not _has_kernel(node, on_gpu):
            continue
        words = traits(node.target).names("attention")
        with gm.graph.inserting_before(node):
            key, value = (
                _before(gm.graph, each, x) for each, x in zip(pair, named(node, "attention")[1:], strict=True)
            )
        changed = {words[1]: key, words[2]: value, GROUPED: True}
        node.args, node.kwargs = with_arguments(node.target, node.args, node.kwargs, **changed)
        done += 1
    if done:
        gm.graph.eliminate_dead_code()
        gm.recompile()
    return done


def repetitions(node: fx.Node) -> tuple[Repeated, Repeated] | None:
    """What an attention's keys and values repeat, where both do alike, for queries of as many heads as come of it."""
    if not is_a(node, "attention") or argument(node, GROUPED) is None or not _of_one_size(_values(node)):
        return None
    key, value = map(repeated, named(node, "attention")[1:])
    return (key, value) if key and value and key.times == value.times > 1 else None


def _values(node: fx.Node) -> list[torch.Tensor]:
    """Query, key and value of an attention in the global program, none where that is not known."""
    op = node.meta.get("autosp_op")
    return [] if op is None else [n.meta["val"] for n in named(op.node, "attention")]


def _of_one_size(values: list[torch.Tensor]) -> bool:
    """Whether query, key and value have four dims, and as many heads each: a head that is broadcast has no group."""
    if any(v.dim() != 4 for v in values):
        return False
    heads = [v.shape[1] for v in values]
    return len(heads) == 3 and isinstance(heads[0], int) and heads[0] == heads[1] == heads[2]


def repeated(x: fx.Node) -> Repeated | None:
    """What `x` of (batch, heads, positions, size) repeats, from the sizes in the calls that make it."""
    swapped = is_a(x, "permute") and _swaps(x.args[1:])
    joined = x.args[0] if swapped else x
    heads = 2 if swapped else 1
    if is_a(joined, "interleave"):
        times, at = (argument(joined, name) for name in ("repeats", "dim"))
        known = isinstance(times, int) and isinstance(at, int) and _positive(at) == heads
        return Repeated(joined.args[0], None, (), times, swapped) if known else None
    if not is_a(joined, "reshape") or not is_a(joined.args[0], "expand"):
        return None
    wide, to = joined.args[0], _sizes(joined)
    sizes = _sizes(wide)
    if sizes is None or to is None or len(sizes) != 5 or len(to) != 4:
        return None
    dim = heads + 1
    count, times = sizes[heads], sizes[dim]
    if not (isinstance(times, int) and isinstance(count, int) and isinstance(to[heads], int) and count > 0):
        return None
    rest = (*sizes[:dim], *sizes[dim + 1 :])
    if to != (*rest[:heads], count * times, *rest[heads + 1 :]) or -1 in rest or not _has_one(wide.args[0], dim):
        return None
    return Repeated(wide.args[0], dim, rest, times, swapped)


def _sizes(call: fx.Node) -> tuple | None:
    """The sizes that a call of `expand` or `reshape` states."""
    stated = call.args[1] if len(call.args) == 2 else None
    return tuple(stated) if isinstance(stated, (list, tuple)) else None


def _swaps(dims: tuple) -> bool:
    """Whether the dims of a permutation, all or the two that change places, are those of heads and positions."""
    return list(dims) == [[0, 2, 1, 3]] or (len(dims) == 2 and {*map(_positive, dims)} == {1, 2})


def _positive(dim: object) -> object:
    return dim + 4 if isinstance(dim, int) and dim < 0 else dim


def _has_one(x: fx.Node, dim: int) -> bool:
    """Whether a value has five dims, and the size 1 at that one, by the calls that make it."""
    if is_a(x, "unsqueeze"):
        op = x.meta.get("autosp_op")
        return op is not None and op.node.meta["val"].dim() == 5 and x.args[1] in (dim, dim - 5)
    if is_a(x, "cast", "clone"):
        return _has_one(x.args[0], dim)
    if is_a(x, "reshape"):
        sizes = _sizes(x)
        return sizes is not None and len(sizes) == 5 and sizes[dim] == 1 and isinstance(sizes[dim], int)
    if x.target is operator.getitem and x.args[0].target is convert:
        (xs, sources, targets, *_), i = x.args[0].args, x.args[1]
        kept = not any(isinstance(at, Split) and at.dim == dim for at in (sources[i], targets[i]))
        return kept and _has_one(xs[i], dim)
    return False


def _before(graph: fx.Graph, what: Repeated, like: fx.Node) -> fx.Node:
    """The value before it was repeated; other dims are widened still, as far as they were."""
    meta = {k: v for k, v in like.meta.items() if k not in ("val", "autosp", "autosp_op")}

    def call(target, *args) -> fx.Node:
        node = graph.call_function(target, args)
        node.meta.update(meta)
        return node

    x = what.of
    if what.dim is not None:
        x = call(aten.expand.default, call(aten.squeeze.dim, x, what.dim), list(what.sizes))
    return call(aten.transpose.int, x, 1, 2) if what.swapped else x


def _has_kernel(node: fx.Node, on_gpu: bool) -> bool:
    """Whether the kernel that runs has groups."""
    values = _values(node)
    if is_call(node, "random"):
        return False
    if not on_gpu and all(v.device.type == "cpu" for v in values):
        return True
    plain = BAND not in node.meta and named(node, "masked")[0] is None and len({v.shape[-1] for v in values}) == 1
    allowed = torch.backends.cuda.flash_sdp_enabled()
    return plain and allowed and all(v.dtype in _FLASH and v.shape[-1] <= _WIDEST for v in values)


def check_groups(before: fx.GraphModule, after: fx.GraphModule) -> None:
    """Raises CheckError where `after` is not `before` with keys and values of some attentions as they were before they
    were repeated. Nodes that stayed have their names.

    Inferred: what is repeated, head by head, in `before`; that the attention reads it in `after`, and nothing else of
    its call changed. Taken on trust: that the sizes in the calls of a graph are those that its values have, and
    `node.meta["autosp_op"]`, the operator that a call stands for, for their dims and heads.
    """
    old = {n.name: n for n in before.graph.nodes}
    new = {n.name: n for n in after.graph.nodes}
    faults = []
    for node in after.graph.nodes:
        was = old.get(node.name)
        if was is None or (was.target == node.target and _text(was) == _text(node)):
            continue
        if wrong := _wrong(was, node):
            faults.append(_fault(was, wrong))
    left = [n for n in before.graph.nodes if n.name not in new and not _repeats(n)]
    faults += [_fault(n, "it is gone, and nothing was repeated in it") for n in left]
    if faults:
        raise CheckError(faults[:10])


def _wrong(was: fx.Node, node: fx.Node) -> str | None:
    """What is wrong with a call that changed."""
    pair = repetitions(was)
    if pair is None or was.target is not node.target:
        return "it is called otherwise than before, and its keys and values are not repeated"
    words = traits(was.target).names("attention")
    as_was = {words[1]: named(was, "attention")[1], words[2]: named(was, "attention")[2], GROUPED: False}
    back = with_arguments(node.target, node.args, node.kwargs, **as_was)
    then = with_arguments(was.target, was.args, was.kwargs, **{GROUPED: False})
    if _named(back) != _named(then) or not argument(node, GROUPED):
        return "more of the call changed than its keys and values, and that they are grouped"
    for each, x in zip(pair, named(node, "attention")[1:], strict=True):
        if not _is_before(each, x):
            return f"{x} is not what {each.of} was before it was repeated {each.times} times"
    return None


def _is_before(what: Repeated, x: fx.Node) -> bool:
    if what.swapped:
        if x.target is not aten.transpose.int or {*x.args[1:]} != {1, 2}:
            return False
        (x,) = x.all_input_nodes
    if what.dim is None:
        return x.name == what.of.name
    if x.target is not aten.expand.default or _named(x.args[1]) != _named(what.sizes):
        return False
    squeezed = x.all_input_nodes[0]
    return squeezed.target is aten.squeeze.dim and _named(squeezed.args) == [what.of.name, what.dim]


def _repeats(n: fx.Node) -> bool:
    """Whether a call is part of a repetition: it may be gone."""
    return is_a(n, "expand", "reshape", "permute", "interleave") and all(
        _repeats(user) or repetitions(user) is not None for user in n.users
    )


def _text(node: fx.Node) -> str:
    return str(_named((node.args, node.kwargs)))


def _named(args):
    """Arguments with names in place of nodes."""
    found = fx.map_arg(args, lambda n: n.name)
    return list(found) if isinstance(found, Sequence) and not isinstance(found, str) else found


def _fault(node: fx.Node, what: str) -> Problem:
    return Problem(what=f"{node.target} in grouped heads: {what}", rule=RULE, fix=FIX, where=place_in("local", node))
