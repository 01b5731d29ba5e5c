"""Whether a module gives a position the same whatever other positions are with it: run, whole and in shards.

The module's operators run on random values, on the CPU, forward and backward, as the plan would have the ranks run
them. Results, gradients of what is split, and sums of the gradients of what is not are compared. In one run all
positions are equal, so that whatever counts them is at its fullest: all tokens go to one expert, which drops some if
there is a limit to it. The length is at least twice every number that the operators are called with (a limit that is
never reached would never show), or the whole length of the example.

The draws are the same on every rank, and so is the verdict; the process's random numbers are left as they were.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Hashable, Sequence
from operator import attrgetter

import attrs
import torch
from torch import fx

from ..capture.regions import KEY, Mapped
from ..compat.torch import without_fakes
from ..rules import drawless, is_call, project
from ..sharding import REPLICATE, Placement, assemble, count, shard
from .problem import Op, Value, hint_of
from .trial_graph import as_tried, compared_with, constants, on_cpu, scale_of

BAR = 1e-4  # of the largest value, in fp32
ROOM = 2 << 30  # bytes of all values of the module at most

Draw = Callable[[Value, Sequence[int], torch.dtype, torch.Generator], torch.Tensor]


@attrs.frozen
class Independence:
    """proved: the module may run per shard; mixes: it was shown that it may not. Where neither, `why` says what kept
    it from being tried. seconds: what it took."""

    proved: bool
    mixes: bool = False
    why: str = ""
    seconds: float = 0.0


_known: dict[Hashable, Independence] = {}


def positionwise(op: Op, hints: dict, p: int) -> Independence:
    """The verdict on a mapped call over `p` ranks. Calls of one class and configuration are tried once."""
    mapped: Mapped = op.node.meta[KEY]
    hints = _shortened({**hints, **mapped.hints}, mapped, p)
    operands = tuple((v.dtype, v.diff) for v in op.operands)
    sizes = tuple(sorted((str(k), v) for k, v in hints.items()))
    dims = (op.projection.operands, op.projection.results, mapped.operands)
    key = (signature(mapped.body), operands, dims, sizes, _varies(mapped), p)
    if key not in _known:
        began = time.perf_counter()
        with _alone():
            verdict = _verdict(op, mapped, hints, p)
        _known[key] = attrs.evolve(verdict, seconds=time.perf_counter() - began)
    return _known[key]


def _shortened(hints: dict, mapped: Mapped, p: int) -> dict:
    """The sizes, with one for all lengths that are longer than what is tried: a plan of another is not tried anew."""
    enough = max(1024, _enough(constants(mapped.body, mapped), p))
    return {**hints, mapped.length: min(hints[mapped.length], enough)}


def signature(gm: fx.GraphModule) -> Hashable:
    """A graph as a value: equal for modules of one class and one configuration."""
    place = {node: i for i, node in enumerate(gm.graph.nodes)}

    def line(node: fx.Node) -> tuple:
        args = fx.map_arg((node.args, node.kwargs), lambda n: f"%{place[n]}")
        constant = attrgetter(str(node.target))(gm) if node.op == "get_attr" else None
        what = "" if node.op == "placeholder" else node.target
        return node.op, what, str(args), _content(constant)

    return tuple(map(line, gm.graph.nodes))


def _content(constant: object) -> Hashable:
    """What tells a module's constants apart: their values, which may be limits."""
    if isinstance(constant, fx.GraphModule):
        return signature(constant)
    if not isinstance(constant, torch.Tensor):
        return constant
    return constant.dtype, tuple(constant.shape), hash(str(constant.tolist()))


@contextlib.contextmanager
def _alone():
    """Real tensors on the CPU, in fp32, with gradients, and a state of random numbers that is put back."""
    with (
        without_fakes(),
        torch.random.fork_rng(devices=[]),
        torch.device("cpu"),
        torch.autocast("cpu", enabled=False),
        torch.enable_grad(),
    ):
        yield


def _verdict(op: Op, mapped: Mapped, hints: dict, p: int) -> Independence:
    if any(is_call(n, "random") and drawless(n) is None for n in mapped.body.graph.nodes):
        return Independence(False, why="it draws random numbers")
    trial = _trial(op, mapped, hints, p)
    if trial is None:
        return Independence(False, why=f"its values take more than {ROOM >> 30} GiB even in a smaller size")
    why = ""
    tried = set()
    proofs = [TrialRun(draw) for draw in (_random, _counted, _equal, _limit)]
    probes = [
        *(TrialRun(_random, numbers=each) for each in trial.compared.items()),
        TrialRun(_random, gradient_scale=0),
    ]
    for run in (*proofs, *probes):
        whole, reason = _whole(trial, run)
        if run in proofs:
            why = reason or why
            tried |= set() if reason else {run.draw}
        if reason:
            continue
        try:
            parts = trial.run(run, p)
        except Exception as error:
            return Independence(False, True, f"cut in {p} shards it does not run: {_first_line(error)}")
        error = max((_distance(a, b) for a, b in zip(parts, whole, strict=True)), default=0.0)
        if not error <= BAR:
            return Independence(
                False, True, f"run in {p} shards on random data, its result differs by {error:.1e} of its largest"
            )
    proved = len(tried - {_limit}) > 1 and _equal in tried  # `_limit` may draw what `_equal` drew
    return Independence(proved, why="" if proved else why)


def _whole(trial: _Trial, run: TrialRun) -> tuple[list[torch.Tensor | None], str]:
    """What the whole gives, or why that is nothing to compare."""
    try:
        whole = trial.run(run)
    except Exception as error:
        return [], f"it does not run on random data: {_first_line(error)}"
    if not all(bool(x.isfinite().all()) for x in whole if x is not None and x.is_floating_point()):
        return [], "it gives no finite numbers on random data"
    if run.gradient_scale and not any(bool(x.any()) for x in whole if x is not None):
        return [], "it gives nothing but zeros on random data"
    return whole, ""


@attrs.frozen
class TrialRun:
    """How a trial is run.

    gradient_scale: what the results' gradients are multiplied by. Of none, an honest module makes none; what it adds by
    itself (a loss that keeps experts busy) is too small to be seen beside them. numbers: an operand, and the whole
    numbers that it holds (a token's, a kind's), where `draw` would hardly hit one.
    """

    draw: Draw
    gradient_scale: int = 1
    numbers: tuple[int, list[int]] | None = None


@attrs.frozen(eq=False)
class _Trial:
    """A module of a size that can be run. shapes: of the operands; needs and gives: how they and the results are split
    where the mapped dim has this length."""

    body: fx.GraphModule
    mapped: Mapped
    values: tuple[Value, ...]
    shapes: tuple[tuple[int, ...], ...]
    needs: tuple[Placement, ...]
    gives: tuple[Placement, ...]
    length: int

    @property
    def compared(self) -> dict[int, list[int]]:
        """The operands of whole numbers that the module compares with numbers, by their places, and those numbers."""
        inputs = self.body.graph.find_nodes(op="placeholder")
        tensors = [n for n, size in zip(inputs, self.mapped.operands, strict=True) if isinstance(size, tuple)]
        whole = {i: v for i, v in enumerate(self.values) if not (v.dtype.is_floating_point or v.dtype.is_complex)}
        by_place = {i: compared_with(tensors[i]) for i, v in whole.items() if v.dtype is not torch.bool}
        return {i: sorted({0, 1, *numbers}) for i, numbers in by_place.items() if numbers}

    def run(self, run: TrialRun, parts: int | None = None) -> list[torch.Tensor | None]:
        """The results and the operands' gradients, of the whole or put together from shards."""
        draw = run.draw
        generator = torch.Generator().manual_seed(0)
        data = [draw(v, s, as_tried(v.dtype), generator) for v, s in zip(self.values, self.shapes, strict=True)]
        if run.numbers:
            i, numbers = run.numbers
            data[i] = torch.tensor(numbers)[torch.randint(len(numbers), data[i].shape, generator=generator)].to(data[i])
        if draw is _limit:  # what is alike for all positions may be a limit to how many there are
            data = [
                torch.full_like(x, self.length // 2) if at is REPLICATE and not v.param and not x.is_complex() else x
                for x, v, at in zip(data, self.values, self.needs, strict=True)
            ]
        whole, leaves = self._once(data, self.length)
        towards = [
            run.gradient_scale * torch.randn(x.shape, generator=generator).to(x.dtype) for x in whole
        ]  # their gradients
        if parts is None:
            return [*(x.detach() for x in whole), *_gradients(whole, leaves, towards)]
        results, gradients = [], []
        for rank in range(parts):
            own = [shard(x, at, parts, rank) for x, at in zip(data, self.needs, strict=True)]
            outputs, leaves = self._once(own, count(self.length, parts, rank))
            mine = [shard(t, at, parts, rank) for t, at in zip(towards, self.gives, strict=True)]
            gradients.append(_gradients(outputs, leaves, mine))
            results.append([x.detach() for x in outputs])
        return [
            *(assemble(list(each), at) for each, at in zip(zip(*results, strict=True), self.gives, strict=True)),
            *(_together(list(each), at) for each, at in zip(zip(*gradients, strict=True), self.needs, strict=True)),
        ]

    def _once(self, data: list[torch.Tensor], length: int) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """The results on copies of the data, and the copies."""
        leaves = [x.detach().clone().requires_grad_(v.diff) for x, v in zip(data, self.values, strict=True)]
        tensors = iter(leaves)
        numbers = self.mapped.on_shard(length)
        args = [
            next(tensors) if isinstance(s, tuple) else n for s, n in zip(self.mapped.operands, numbers, strict=True)
        ]
        return [x for x in self.body(*args) if isinstance(x, torch.Tensor)], leaves


def _trial(op: Op, mapped: Mapped, hints: dict, p: int) -> _Trial | None:
    scale = scale_of(mapped, hints, ROOM)
    body = on_cpu(mapped.body, scale)
    length = _length(mapped, body, hints, p)
    sizes = {**hints, mapped.length: length}
    over = op.projection.kinds.index("pass")
    numbers = tuple(length if f == over else hint_of(n, hints) for f, n in enumerate(op.projection.sizes))
    needs, gives = project(attrs.evolve(op.projection, sizes=numbers), over, 1, length, 1, p)
    shapes = []
    for shape, at in zip((s for s in mapped.operands if isinstance(s, tuple)), needs, strict=True):
        dims = [hint_of(n, sizes) for n in shape]
        shapes.append(tuple(n if at is not None and d == at.dim else scale(n) for d, n in enumerate(dims)))
    if scale.bytes(mapped, sizes) > ROOM:
        return None
    whole = tuple(REPLICATE if at is None else at for at in needs)
    return _Trial(body, attrs.evolve(mapped, hints=hints), op.operands, tuple(shapes), whole, tuple(gives), length)


def _length(mapped: Mapped, body: fx.GraphModule, hints: dict, p: int) -> int:
    """Twice the largest number in the graph, and more than four a rank, unevenly; at most that of the example."""
    length = _enough(constants(body, mapped), p)
    return length if _varies(mapped) else min(length, hints[mapped.length])


def _enough(numbers: list[int], p: int) -> int:
    length = 2 * max([*numbers, 2 * p, 8])
    return length + (length % p == 0 and p > 1)


def _varies(mapped: Mapped) -> bool:
    """Whether the graph serves other lengths than the example's."""
    return not mapped.hints


def _random(v: Value, shape, dtype: torch.dtype, generator: torch.Generator) -> torch.Tensor:
    """Whole numbers are 0 or 1, so that they may stand for an index of anything."""
    if dtype.is_floating_point or dtype.is_complex:
        return torch.randn(shape, generator=generator, dtype=dtype) * (0.3 if v.param else 1.0)
    return torch.randint(0, 2, shape, generator=generator).to(dtype)


def _counted(v: Value, shape, dtype: torch.dtype, generator: torch.Generator) -> torch.Tensor:
    """Numbers of which all are positive, and whole ones that are 0: for what takes roots, or has one of a thing."""
    x = _random(v, shape, dtype, generator)
    return x.abs() + 0.1 if x.is_floating_point() else torch.zeros_like(x)


def _equal(v: Value, shape, dtype: torch.dtype, generator: torch.Generator) -> torch.Tensor:
    """Every position the same."""
    if v.param:
        return _random(v, shape, dtype, generator)
    if dtype.is_floating_point or dtype.is_complex:
        return _random(v, shape[-1:] if len(shape) > 1 else (), dtype, generator).expand(shape).contiguous()
    return torch.zeros(shape, dtype=dtype)


def _limit(v: Value, shape, dtype: torch.dtype, generator: torch.Generator) -> torch.Tensor:
    """As `_equal`; a buffer that is no parameter stands for half of the length."""
    return _equal(v, shape, dtype, generator)


def _gradients(results, leaves, towards) -> list[torch.Tensor | None]:
    ends = [(x, t) for x, t in zip(results, towards, strict=True) if x.requires_grad]
    inputs = [x for x in leaves if x.requires_grad]
    gradients = iter(torch.autograd.grad([x for x, _ in ends], inputs, [t for _, t in ends], allow_unused=True)
                 if ends and inputs else [None] * len(inputs))  # fmt: skip
    return [next(gradients) if x.requires_grad else None for x in leaves]


def _together(parts: list[torch.Tensor | None], at: Placement) -> torch.Tensor | None:
    """An operand's gradient from every shard's: joined where it is split, else the sum."""
    if all(x is None for x in parts):
        return None
    like = next(x for x in parts if x is not None)
    parts = [torch.zeros_like(like) if x is None else x for x in parts]
    return assemble(parts, at) if at is not REPLICATE else torch.stack(parts).sum(0)


def _distance(a: torch.Tensor | None, b: torch.Tensor | None) -> float:
    """The largest difference, of the largest value."""
    if a is None or b is None:
        return 0.0 if a is b else float("inf")
    if a.shape != b.shape:
        return float("inf")
    if not a.numel():
        return 0.0
    if not (a.is_floating_point() or a.is_complex()):
        return 0.0 if torch.equal(a, b) else float("inf")
    largest = float(b.abs().max())
    error = float((a - b).abs().max()) / (largest or 1.0)
    return error if error == error else float("inf")  # `max` may pass over what is no number


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]
