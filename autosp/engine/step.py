"""What a compiled model's call goes through: names, checks, comparison of batches, the program."""

from __future__ import annotations

import inspect
import os
import warnings
from collections.abc import Callable

import torch
from torch.distributed.fsdp import FSDPModule

from ..capture import tracing
from ..compat.torch import (
    BackendCompilerFailed,
    FailOnRecompileLimitHit,
    call_uncompiled,
    compiling_up_to,
    maybe_mark_dynamic,
    recompile_limit,
    tree_map,
    whole_graph_under_ddp,
)
from ..compat.transformers import install_hooks
from ..errors import EngineError, InputError, Problem
from ..lower.conversions import scale_gradient
from ..passes import NeedsSymbols
from . import cache, compiles
from .agree import batch_notes
from .clock import Clock
from .dynamo_backend import Backend
from .failures import as_raised, placed
from .marks import check_call, layout_of

BATCH_FIX = (
    "shuffle and sample by the data-parallel rank, not the global one: autosp.engine.sampler(dataset, mesh_or_engine)"
)


class Step:
    """The call of a compiled module. Arguments are given to the program by name, so that inputs
    are known by the forward's argument names whatever the call's style.

    cache_was_on: `prepare` has switched the model's cache off.
    """

    def __init__(self, module: torch.nn.Module, program: Callable, backend: Backend, cache_was_on: bool = False):
        self.module, self.program, self.backend = module, program, backend
        self.spec, self.agreement, self.mesh = backend.spec, backend.agreement, backend.mesh
        self.signature = inspect.signature(module.forward)
        self.inputs = frozenset(each.name for each in self.spec.inputs)
        self.compared = False
        backend.retraced = True
        self.cache_was_on = cache_was_on
        self.warned: set[str] = set()
        self.compiles = compiles.Compiles(
            type(module).__name__, self.mesh.ranks[self.mesh.rank] == self.mesh.everyone[0]
        )
        self.clock = Clock()

    def __call__(self, *args, **kwargs):
        if not self._training():
            why = self._cache_of(args, kwargs)
            if why:  # before any meeting: a rank may generate alone
                self._say("uncompiled", cache.uncompiled(type(self.module).__name__, why))
                return self._uncompiled(args, kwargs)
        else:
            self.clock.tick()
        with self.agreement.attempt():
            if any(isinstance(module, FSDPModule) for module in self.module.modules()):
                raise EngineError(fully_sharded(type(self.module).__name__))
            with placed(f"inputs of {type(self.module).__name__}.forward"):
                inputs = self._without_cache(self._named(args, kwargs))
                self._check(inputs)
                self._mark(inputs)
            return self._run(inputs)

    def _run(self, inputs: dict):
        before = len(self.backend.plans)
        limit = max(compiles.LIMIT, recompile_limit())
        try:
            with tracing(self.module), whole_graph_under_ddp(), compiling_up_to(limit):
                outputs = self._program(inputs)
        except FailOnRecompileLimitHit:
            raise self.compiles.too_many(inputs, self._training(), limit) from None
        except Exception as e:
            raised = as_raised(e, self.module)
            if raised is e:
                raise
            raise raised from raised.__cause__
        if len(self.backend.plans) > before:
            self.compiles.note(inputs, self._training())
        return outputs

    def _program(self, inputs: dict):
        """The program's outputs; traced once more where it was found that modules have to run per shard."""
        try:
            return self.program(**inputs)
        except BackendCompilerFailed as e:
            if not isinstance(e.inner_exception, NeedsSymbols):
                raise
            self.backend.refused = e.inner_exception.around
        self._mark(inputs)
        return self.program(**inputs)

    def _training(self) -> bool:
        return self.module.training and torch.is_grad_enabled()

    def _say(self, what: str, text: str, stacklevel: int = 4) -> None:
        """A warning, once."""
        if what not in self.warned:
            self.warned.add(what)
            warnings.warn(text, stacklevel=stacklevel)

    def _cache_of(self, args, kwargs) -> str | None:
        """Why a call is one with a cache, if it is."""
        try:
            inputs = self._named(args, kwargs)
        except (TypeError, InputError):  # reported where the call is checked
            return None
        name = cache.cache_argument(self.module, inputs, self.inputs)
        return name or ("use_cache=True" if cache.returns_cache(self.module, inputs) else None)

    def _uncompiled(self, args, kwargs):
        """The model as it stands, on this rank alone. Its gradients, if any are wanted, are whole on every rank: they
        are made to come out of the ranks' reduction as they are."""
        outputs = call_uncompiled(self.module, *args, **kwargs)
        options = self.backend.options
        scale = options.grad_scale / (1 if options.complete else self.mesh.size)
        if scale == 1 or not torch.is_grad_enabled():
            return outputs
        return tree_map(
            lambda x: scale_gradient(x, scale) if isinstance(x, torch.Tensor) and x.requires_grad else x, outputs
        )

    def _without_cache(self, inputs: dict) -> dict:
        """The inputs of a call that the program takes: it returns no cache and is given none."""
        model = type(self.module).__name__
        if self._training():
            name = cache.cache_argument(self.module, inputs, self.inputs)
            if name:
                raise InputError(cache.cache_in_training(name, model))
            if inputs.get("use_cache"):
                self._say("use_cache", cache.cache_requested(model), stacklevel=5)
                inputs = {**inputs, "use_cache": False}
            if cache.returns_cache(self.module, {}):  # a script may have put it on again, to generate
                self.cache_was_on |= cache.switch_off_with_warning(self.module, stacklevel=5)
            self._see_packed(inputs, model)
        return inputs

    def _see_packed(self, inputs: dict, model: str) -> None:
        """Says that a packed batch has another loss in eager PyTorch with its cache on. A look at positions on a
        device waits for it: on the first call alone."""
        at = inputs.get("position_ids")
        relevant = self.cache_was_on and inputs.get("use_cache") is None and inputs.get("attention_mask") is None
        if not relevant or not isinstance(at, torch.Tensor) or "packed" in self.warned:
            return
        if (not self.compared or at.device.type == "cpu") and cache.restart(at):
            self._say("packed", cache.packed(model), stacklevel=6)

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
        check_call(self.spec, inputs, self.mesh.sizes, training=self._training())
        if not self.compared or os.environ.get("AUTOSP_CHECK") == "1":
            self.agreement.same(
                "batch",
                batch_notes(inputs),
                rule=f"every rank of a group on axis '{self.mesh.axis}' is given the same whole batch",
                fix=BATCH_FIX,
            )
            self.compared = True

    def _mark(self, inputs: dict) -> None:
        """A module that runs per shard needs the split lengths as symbols, wherever a dim of that name stands."""
        if not self.backend.per_shard:
            return
        layouts = {n: layout_of(self.spec, n, x) for n, x in inputs.items() if isinstance(x, torch.Tensor)}
        dims = [(n, d, dim) for n, layout in layouts.items() if layout for d, dim in enumerate(layout.dims)]
        split = {dim.name for _, _, dim in dims if self.mesh.axis in dim.axes}
        for name, d, dim in dims:
            if dim.name in split:
                maybe_mark_dynamic(inputs[name], d)


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


def prepare(module: torch.nn.Module) -> bool:
    """What must be settled before Dynamo looks at a module. Whether its cache was on."""
    was_on = cache.switch_off_with_warning(module, stacklevel=4)
    install_hooks(module)
    return was_on
