"""What compiles a local graph: PyTorch's compilers, with our partitioner where a choice was made."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx

from ..compat.torch import aot_eager, aot_settings, inductor
from ..recompute import Choice, Compiler, Partitioner
from ..solve import Plan
from .cacheable import marked


def compile_inner(inner: str, gm: fx.GraphModule, example_inputs: Sequence, choice: Choice | None = None) -> Callable:
    """The local graph, compiled. choice: what is saved and recomputed; None leaves it to PyTorch."""
    if inner == "eager":
        return gm.forward
    if inner == "aot_eager":
        return aot_eager(None if choice is None else Partitioner(choice))(gm, example_inputs)
    from ..recompute.tile_order import InOrder

    known = marked(gm, example_inputs)
    patches: dict[str, Any] = {"unsafe_marked_cacheable_functions": known or {}}
    if choice is not None:
        patches["custom_partitioner_fn"] = Partitioner(choice)
    if any("autosp_tile" in n.meta for n in gm.graph.nodes):
        patches["post_grad_custom_post_pass"] = InOrder()
    with contextlib.nullcontext() if known is not None else aot_settings(enable_autograd_cache=False):
        return inductor(gm, example_inputs, patches)


def inner_for(inner: str, plan: Plan) -> str:
    """What compiles a plan's local graph, where `inner` was requested; alike on all ranks.

    Inductor puts constants for what operators give on empty tensors (a LayerNorm's gradients): where a rank holds no
    position, its collectives would move to another part of the step than those of the others, or fall together.
    """
    short = any(plan.problem.hint(n) < plan.p for n in plan.problem.lengths)
    return "aot_eager" if inner == "inductor" and short else inner


def compiler_of(inner: str, examples: Sequence) -> Compiler:
    """What the prediction of memory needs to know of the backend by that name, for inputs on their device."""
    on_gpu = any(isinstance(x, torch.Tensor) and x.device.type == "cuda" for x in examples)
    return Compiler(inner == "inductor", "cuda" if on_gpu else "cpu")
