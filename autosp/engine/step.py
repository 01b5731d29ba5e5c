"""What a compiled model's call goes through: names, checks, comparison of batches, the program."""

from __future__ import annotations

import inspect
import os
import warnings
from collections.abc import Callable

import torch

from ..capture import tracing
from ..spec import Spec, annotation_of, check_inputs
from .agree import Agreement, batch_notes
from .mesh import Mesh


class Step:
    """The call of a compiled module. Arguments are given to the program by name, so that inputs
    are known by the forward's argument names whatever the call's style."""

    def __init__(self, module: torch.nn.Module, program: Callable, spec: Spec, mesh: Mesh):
        self.module, self.program, self.spec, self.mesh = module, program, spec, mesh
        self.agreement = Agreement(mesh)
        self.signature = inspect.signature(module.forward)
        self.calls = 0

    def __call__(self, *args, **kwargs):
        inputs = self._named(args, kwargs)
        try:
            self._check(inputs)
        except Exception as e:
            self.agreement.fail(e)
            raise
        self.calls += 1
        with tracing():
            return self.program(**inputs)

    def _named(self, args, kwargs) -> dict:
        bound = self.signature.bind(*args, **kwargs)
        named = {}
        for name, value in bound.arguments.items():
            kind = self.signature.parameters[name].kind
            if kind is inspect.Parameter.VAR_KEYWORD:
                named.update(value)
            elif kind is inspect.Parameter.VAR_POSITIONAL:
                raise TypeError(f"autosp: {type(self.module).__name__}.forward takes *{name}; give its inputs by name")
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
        spec = self.spec if training else _all_optional(self.spec)
        check_inputs(spec, known, self.mesh.sizes)
        if self.calls == 0 or os.environ.get("AUTOSP_CHECK") == "1":
            self.agreement.same(
                "batch",
                batch_notes(inputs),
                rule=f"every rank of a group on axis '{self.mesh.axis}' is given the same whole batch",
                fix="shuffle and sample by the data-parallel rank, not the global one: autosp.engine.sampler(dataset, mesh)",
            )


def _all_optional(spec: Spec) -> Spec:
    """Outside training nothing is owed: a forward may run without labels."""
    import attrs

    return attrs.evolve(spec, inputs=tuple(attrs.evolve(i, optional=True) for i in spec.inputs))


def switch_off_cache(module: torch.nn.Module) -> None:
    """A forward that returns its cache would return every layer's keys and values."""
    config = getattr(module, "config", None)
    if getattr(config, "use_cache", False):
        warnings.warn("autosp: use_cache is switched off; a training step that returns its cache would gather it", stacklevel=3)
        config.use_cache = False
