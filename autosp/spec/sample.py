"""A model as it is traced to see its operators: nothing is computed, inputs are made up from a spec."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from ..compat.torch import FakeTensorMode, own_tensors
from ..errors import Problem, SpecError
from ..syntax import Layout
from .spec import Spec

SIZES = {"batch": 2}
LENGTH = 16  # of every other dim
LABELS = ("label", "target")
COUNTED = ("ids", "label", "mask", "token", "index", "target", "pos")


def samples(
    model: torch.nn.Module, spec: Spec, sizes: Mapping[str, int] = SIZES, length: int = LENGTH
) -> Iterator[dict[str, torch.Tensor]]:
    """Inputs that the spec names and the forward takes: those of a training step, then all of them.

    A step has what is not optional, and labels, which its loss is of. Masks and positions are built in the graph
    where they are not given: both graphs count.
    sizes: of dims by name; every other one has the size that the spec states, or `length`.
    Raises SpecError where the forward takes none of the spec's inputs.
    """
    sizes = {**{fact.name: fact.size for fact in spec.dims if fact.size}, **sizes}
    taken = inspect.signature(model.forward).parameters
    named = [i for i in spec.inputs if i.name in taken]
    needed = [i for i in named if not i.optional or any(word in i.name for word in LABELS)]
    if not needed:
        raise SpecError(no_inputs(type(model).__name__, list(taken), [i.name for i in spec.inputs]))
    for chosen in [needed] if needed == named else [needed, named]:
        yield {i.name: made_up(i.name, i.layout, sizes, length) for i in chosen}


def made_up(name: str, layout: Layout, sizes: Mapping[str, int], length: int) -> torch.Tensor:
    """A tensor of a layout's dims: whole numbers where its name says ids, labels or a mask."""
    parts = [part for dim in layout.dims for part in dim.parts]
    shape = [sizes.get(part.name or "", length) if part.size is None else part.size for part in parts]
    return torch.zeros(shape, dtype=torch.int64 if any(word in name for word in COUNTED) else torch.float32)


def no_inputs(model: str, taken: list[str], named: list[str]) -> Problem:
    """A model whose forward takes nothing that the spec names."""
    return Problem(
        what=f"the spec names {', '.join(named)}, and the forward of {model} takes {', '.join(taken)}",
        rule="a model is traced on inputs that its spec describes",
        fix="give a spec that names its inputs with --spec, or let pkg.mod:factory return (model, inputs)",
    )


def on_fakes(model: torch.nn.Module, inputs: Mapping[str, Any], mode: FakeTensorMode) -> dict[str, Any]:
    """The model's tensors (changed in place) and its inputs as fakes of `mode`, on the CPU, without data."""
    known: dict[int, torch.Tensor] = {}

    def fake(t: torch.Tensor) -> torch.Tensor:
        if id(t) not in known:
            with mode:
                made = torch.empty(t.shape, dtype=t.dtype, device="cpu")
            known[id(t)] = torch.nn.Parameter(made, t.requires_grad) if isinstance(t, torch.nn.Parameter) else made
        return known[id(t)]

    for module in model.modules():
        for table in own_tensors(module):
            table |= {name: fake(t) for name, t in table.items() if t is not None}
    return {name: fake(x) if isinstance(x, torch.Tensor) else x for name, x in inputs.items()}


def switch_off_cache(model: torch.nn.Module) -> bool:
    """Switches off the cache of keys and values in the configurations of a model and of the models in it: in training
    it is no use, and no graph should hold one. Whether one was on."""
    configs: list[Any] = [config for part in model.modules() if (config := getattr(part, "config", None)) is not None]
    configs = [config for config in configs if getattr(config, "use_cache", False) is True]
    for config in configs:
        config.use_cache = False
    return bool(configs)
