"""Whether a spec fits a model: its inputs are the forward's, its module paths exist."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from itertools import combinations, permutations

import torch

from ..errors import Problem, suggest
from ..syntax import problem_at
from . import messages
from .paths import children, matches, nearest, split_at_miss
from .spec import Spec
from .values import Constraint, Map

SHOWN = 8  # names of children listed in a fix


def parameters_of(model: torch.nn.Module) -> tuple[list[str], bool]:
    """The names that the forward takes, and whether it takes any other too (`**kwargs`)."""
    parameters = inspect.signature(model.forward).parameters.values()
    kinds = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    names = [p.name for p in parameters if p.kind not in kinds]
    return names, any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)


def input_problems(spec: Spec, model: torch.nn.Module) -> Iterator[Problem]:
    """Inputs, other than optional ones, that the forward does not take."""
    names, takes_any = parameters_of(model)
    free = [name for name in names if spec.input(name) is None]
    for each in spec.inputs:
        if each.optional or each.name in names:
            continue
        if suggest(each.name, free) or not takes_any:
            message = messages.not_taken(each.name, type(model).__name__, free or names)
            yield problem_at(each.at, *message)


def path_problem(value: Constraint | Map, paths: list[str], model_name: str) -> Problem | None:
    """What is wrong where a path matches no module."""
    if any(matches(value.module, path) for path in paths):
        return None
    head, miss, _ = split_at_miss(value.module, paths)
    below = children(head, paths)
    message = messages.no_module(value.module, model_name, miss, head, below[:SHOWN], nearest(value.module, paths))
    return problem_at(value.at, *message)


def overlaps(spec: Spec, paths: list[str]) -> Iterator[Problem]:
    """Constraints whose different paths meet in one module and give it different layouts."""
    for first, second in combinations(spec.constraints, 2):
        if first.port != second.port or first.layout == second.layout:
            continue
        shared = next((p for p in paths if matches(first.module, p) and matches(second.module, p)), None)
        if shared:
            message = messages.overlap(str(second), str(first), str(first.at or ""), shared)
            yield problem_at(second.at, *message)


def nested_maps(maps: Sequence[Map], paths: Sequence[str]) -> Iterator[Problem]:
    """Modules that one statement maps inside of what another maps."""
    for outer, inner in permutations(maps, 2):
        whole = [path for path in paths if matches(outer.module, path)]
        parts = [path for path in paths if matches(inner.module, path)]
        pair = next(((p, w) for p in parts for w in whole if p.startswith(f"{w}.")), None)
        if pair is None and maps.index(outer) < maps.index(inner):
            pair = next(((p, p) for p in parts if p in whole), None)
        if pair is not None:
            yield problem_at(inner.at, *messages.mapped_twice(str(inner), str(outer), *pair))


def check_model(spec: Spec, model: torch.nn.Module) -> list[Problem]:
    """Every way in which the spec does not fit the model, as problems; none are raised."""
    paths = [name for name, _ in model.named_modules(remove_duplicate=False) if name]
    misfits = [path_problem(value, paths, type(model).__name__) for value in (*spec.constraints, *spec.maps)]
    nested = nested_maps(spec.maps, paths)
    return [*input_problems(spec, model), *filter(None, misfits), *overlaps(spec, paths), *nested]
