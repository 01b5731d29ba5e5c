"""`map` is its author's claim that positions do not mix in a module: held against random data."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import attrs
import torch

from ..compat.torch import FakeTensorMode, tree_flatten, tree_map, tree_unflatten
from ..errors import Problem
from ..syntax import problem_at
from . import words
from .paths import matches
from .sample import on_fakes, samples, switch_off_cache
from .values import Map, Spec

LENGTHS = (16, 24)  # a dim that differs between the two runs descends from the mapped one
PARTS = (2, 5)  # 5 does not divide 16: uneven shards too
BAR = 1e-4  # of the largest result, in fp32
LARGEST = 2 << 30  # bytes of parameters that are drawn at random at most


@attrs.frozen
class Claim:
    """What came of one `map` statement in one kind of module: a problem, or why it could not be run."""

    statement: Map
    path: str
    problem: Problem | None = None
    skipped: str = ""


@attrs.frozen
class _Call:
    """The leaves of a module's arguments, and the dim of each that the statement names."""

    leaves: tuple[Any, ...]
    dims: tuple[int | None, ...]
    tree: Any


class _Seen(Exception):
    """Raised at the mapped module, with its arguments: what comes after it need not run."""


def check_maps(spec: Spec, model: torch.nn.Module) -> list[Claim]:
    """Runs one module of each kind that a `map` names, whole and in 2 and 5 shards, on random weights and inputs.

    model: on the meta device, or any; its own weights are not used. A kind is a class with its parameters' shapes.
    """
    switch_off_cache(model)
    mode = FakeTensorMode()
    fake = copy.deepcopy(model)
    on_fakes(fake, {}, mode)
    return [
        _held(spec, model, fake, mode, statement, path) for statement in spec.maps for path in _kinds(model, statement)
    ]


def _kinds(model: torch.nn.Module, statement: Map) -> list[str]:
    kinds: dict[Any, str] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        if path and matches(statement.module, path):
            shapes = tuple((name, tuple(p.shape)) for name, p in module.named_parameters())
            kinds.setdefault((type(module), shapes), path)
    return list(kinds.values())


def _held(spec: Spec, model, fake, mode: FakeTensorMode, statement: Map, path: str) -> Claim:
    module = model.get_submodule(path)
    held = sum(p.numel() * 4 for p in module.parameters())
    if held > LARGEST:
        return Claim(
            statement, path, skipped=f"its parameters are {held / 2**30:.1f} GiB; name a smaller configuration"
        )
    try:
        first, second = (_arguments(spec, fake, mode, path, statement.over, n) for n in LENGTHS)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        return Claim(statement, path, skipped=f"the model does not run on fake tensors ({reason})")
    if first is None or second is None:
        return Claim(statement, path, skipped="the model's forward does not call it")
    call = _with_dims(first, second)
    if not any(dim is not None for dim in call.dims):
        return Claim(statement, path, problem_at(statement.at, *words.map_without_dim(path, statement.over)))
    module = _drawn(module)
    said = next(_mixing(module, call, statement.over, path), None)
    return Claim(statement, path, said and problem_at(statement.at, *said))


def _arguments(spec: Spec, model: torch.nn.Module, mode: FakeTensorMode, path: str, over: str, length: int):
    """The module's arguments as fakes, where `over` has this length; None where nothing calls it."""

    def stop(_, args, kwargs):
        raise _Seen((args, kwargs))

    inputs = on_fakes(torch.nn.Module(), next(samples(model, spec, {"batch": 1, over: length})), mode)
    hook = model.get_submodule(path).register_forward_pre_hook(stop, with_kwargs=True)
    try:
        with mode:
            model(**inputs)
    except _Seen as seen:
        return seen.args[0]
    finally:
        hook.remove()
    return None


def _with_dims(first: Any, second: Any) -> _Call:
    leaves, tree = tree_flatten(first)
    return _Call(tuple(leaves), tuple(map(_differing, leaves, tree_flatten(second)[0])), tree)


def _differing(a: Any, b: Any) -> int | None:
    if not isinstance(a, torch.Tensor) or a.ndim != b.ndim:
        return None
    return next((dim for dim, sizes in enumerate(zip(a.shape, b.shape, strict=True)) if sizes[0] != sizes[1]), None)


def _drawn(module: torch.nn.Module) -> torch.nn.Module:
    """A copy on the CPU with random weights, in training, whose dropout drops nothing."""
    module = copy.deepcopy(module).to_empty(device="cpu").float().train()
    generator = torch.Generator().manual_seed(0)
    for t in (*module.parameters(), *module.buffers()):
        t.data.copy_(_random(t, generator) * (0.1 if _drawn_normal(t) else 1))
    for part in module.modules():
        if "dropout" in type(part).__name__.lower():
            part.eval()
    return module


def _random(t: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Like `t`; whole numbers are 0 or 1, so that they may stand for an index of anything."""
    if _drawn_normal(t):
        return torch.randn(t.shape, generator=generator, dtype=t.dtype if t.is_complex() else torch.float32)
    return torch.randint(0, 2, t.shape, generator=generator).to(t.dtype)


def _drawn_normal(t: torch.Tensor) -> bool:
    return t.is_floating_point() or t.is_complex()


def _mixing(module: torch.nn.Module, call: _Call, over: str, path: str) -> Iterator[words.Said]:
    """What shows that the module is not the same in shards as whole."""
    generator = torch.Generator().manual_seed(1)
    data = [_random(x, generator) if isinstance(x, torch.Tensor) else x for x in call.leaves]
    with torch.no_grad():
        whole = _results(module, call, data)
        for parts in PARTS:
            cut = [
                x.tensor_split(parts, dim) if dim is not None else (x,) * parts
                for x, dim in zip(data, call.dims, strict=True)
            ]
            try:
                shards = [_results(module, call, list(leaves)) for leaves in zip(*cut, strict=True)]
            except Exception as error:
                yield words.map_fails(path, over, parts, f"{type(error).__name__}: {error}".splitlines()[0])
                return
            for index, expected in enumerate(whole):
                pieces = [shard[index] for shard in shards]
                dim = _differing(pieces[0], expected)
                if dim is None:
                    yield words.map_result_without_dim(path, over, list(expected.shape))
                    return
                error = float((torch.cat(pieces, dim) - expected).abs().max())
                largest = float(expected.abs().max())
                if not error <= BAR * largest:
                    yield words.map_mixes(path, over, parts, error / largest if largest else error)
                    return


def _results(module: torch.nn.Module, call: _Call, leaves: list[Any]) -> list[torch.Tensor]:
    clones = tree_map(lambda x: x.clone() if isinstance(x, torch.Tensor) else x, leaves)
    args, kwargs = tree_unflatten(clones, call.tree)
    found = [x for x in tree_flatten(module(*args, **kwargs))[0] if isinstance(x, torch.Tensor)]
    return [(torch.view_as_real(x.resolve_conj()) if x.is_complex() else x).float() for x in found]
