"""What a compiled model's call goes through: names, checks, comparison of batches, the program."""

from __future__ import annotations

import inspect
import os
import warnings
from collections.abc import Callable

import attrs
import torch
from torch.distributed.fsdp import FSDPModule

from ..capture import tracing
from ..compat.torch import maybe_mark_dynamic, whole_graph_under_ddp
from ..compat.transformers import install_hooks
from ..errors import EngineError, InputError, Problem
from ..spec import Spec, annotation_of, check_inputs
from .agree_words import batch_notes
from .backend import Backend
from .clock import Clock
from .failures import as_raised, placed
from .marks import layout_of, nothing_known

BATCH_FIX = (
    "shuffle and sample by the data-parallel rank, not the global one: autosp.engine.sampler(dataset, mesh_or_engine)"
)


class Step:
    """The call of a compiled module. Arguments are given to the program by name, so that inputs
    are known by the forward's argument names whatever the call's style."""

    def __init__(self, module: torch.nn.Module, program: Callable, backend: Backend):
        self.module, self.program, self.backend = module, program, backend
        self.spec, self.agreement, self.mesh = backend.spec, backend.agreement, backend.mesh
        self.signature = inspect.signature(module.forward)
        self.compared = False
        self.clock = Clock()

    def __call__(self, *args, **kwargs):
        if self.module.training and torch.is_grad_enabled():
            self.clock.tick()
        with self.agreement.attempt():
            if any(isinstance(module, FSDPModule) for module in self.module.modules()):
                raise EngineError(fully_sharded(type(self.module).__name__))
            with placed(f"inputs of {type(self.module).__name__}.forward"):
                inputs = self._named(args, kwargs)
                self._check(inputs)
                self._mark(inputs)
            try:
                with tracing(), whole_graph_under_ddp():
                    return self.program(**inputs)
            except Exception as e:
                raised = as_raised(e, self.module)
                if raised is e:
                    raise
                raise raised from None

    def _named(self, args, kwargs) -> dict:
        bound = self.signature.bind(*args, **kwargs)
        named = {}
        for name, value in bound.arguments.items():
            kind = self.signature.parameters[name].kind
            if kind is inspect.Parameter.VAR_KEYWORD:
                named.update(value)
            elif kind is inspect.Parameter.VAR_POSITIONAL:
                raise InputError(_unnamed(type(self.module).__name__, name))
            else:
                named[name] = value
        return named

    def _check(self, inputs: dict) -> None:
        training = self.module.training and torch.is_grad_enabled()
        known = {
            name: value
            for name, value in inputs.items()
            if self.spec.input(name) or (isinstance(value, torch.Tensor) and annotation_of(value))
        }
        if inputs and not known:
            raise InputError(nothing_known(sorted(inputs), self.spec))
        spec = self.spec if training else _all_optional(self.spec)
        check_inputs(spec, known, self.mesh.sizes)
        if not self.compared or os.environ.get("AUTOSP_CHECK") == "1":
            self.agreement.same(
                "batch",
                batch_notes(inputs),
                rule=f"every rank of a group on axis '{self.mesh.axis}' is given the same whole batch",
                fix=BATCH_FIX,
            )
            self.compared = True

    def _mark(self, inputs: dict) -> None:
        """A mapped module needs the split lengths as symbols, wherever a dim of that name stands."""
        if not self.spec.maps:
            return
        layouts = {n: layout_of(self.spec, n, x) for n, x in inputs.items() if isinstance(x, torch.Tensor)}
        dims = [(n, d, dim) for n, layout in layouts.items() if layout for d, dim in enumerate(layout.dims)]
        split = {dim.name for _, _, dim in dims if self.mesh.axis in dim.axes}
        for name, d, dim in dims:
            if dim.name in split:
                maybe_mark_dynamic(inputs[name], d)


def _all_optional(spec: Spec) -> Spec:
    """Outside training nothing is owed: a forward may run without labels."""
    return attrs.evolve(spec, inputs=tuple(attrs.evolve(i, optional=True) for i in spec.inputs))


def fully_sharded(model: str) -> Problem:
    """A model whose parameters `fully_shard` splits."""
    return Problem(
        what=f"the parameters of {model} are sharded by fully_shard (FSDP2)",
        rule="the program is one graph over whole parameters; the hooks that gather them between modules would break it",
        fix="leave fully_shard out: use a DeepSpeed engine with ZeRO-1, which splits the optimizer's state, "
        "or DistributedDataParallel around the compiled model",
        where="autosp.compile",
    )


def _unnamed(model: str, name: str) -> Problem:
    return Problem(
        what=f"{model}.forward takes its inputs as *{name}",
        rule="inputs are known by the names of the forward's arguments",
        fix=f"name the inputs in the forward instead of *{name}",
        where=f"{model}.forward",
    )


def prepare(module: torch.nn.Module) -> None:
    """What must be settled before Dynamo looks at a module."""
    switch_off_cache(module)
    install_hooks(module)


def switch_off_cache(module: torch.nn.Module) -> None:
    """A forward that returns its cache would return every layer's keys and values."""
    config = getattr(module, "config", None)
    if getattr(config, "use_cache", False):
        warnings.warn(
            "autosp: use_cache is switched off; a training step that returns its cache would gather it", stacklevel=3
        )
        config.use_cache = False
