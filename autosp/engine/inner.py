"""What compiles a local graph: PyTorch's compilers, with our partitioner where a choice was made."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import fx

from ..recompute import Choice, Compiler, Partitioner


def compile_inner(inner: str, gm: fx.GraphModule, example_inputs: Sequence, choice: Choice | None = None) -> Callable:
    """The local graph, compiled. choice: what is saved and recomputed; None leaves it to PyTorch."""
    if inner == "eager":
        return gm.forward
    if inner == "aot_eager":
        return _aot_eager(choice)(gm, example_inputs)
    from torch._inductor import config
    from torch._inductor.compile_fx import compile_fx

    from ..recompute.tile_order import InOrder

    patches = {} if choice is None else {"custom_partitioner_fn": Partitioner(choice)}
    if any("autosp_tile" in n.meta for n in gm.graph.nodes):
        patches["post_grad_custom_post_pass"] = InOrder()
    with config.patch(patches):  # the partitioner is asked now,
        return compile_fx(gm, example_inputs, config_patches=patches or None)  # the pass for the backward later


def _aot_eager(choice: Choice | None) -> Callable:
    if choice is None:
        return torch._dynamo.lookup_backend("aot_eager")
    from torch._dynamo.backends.common import aot_autograd
    from torch._dynamo.backends.debugging import boxed_nop

    return aot_autograd(
        fw_compiler=boxed_nop,
        bw_compiler=boxed_nop,
        partition_fn=Partitioner(choice),
        keep_inference_input_mutations=True,
    )


def compiler_of(inner: str, examples: Sequence) -> Compiler:
    """What memory is told of the backend by that name, for inputs on their device."""
    on_gpu = any(isinstance(x, torch.Tensor) and x.device.type == "cuda" for x in examples)
    return Compiler(inner == "inductor", "cuda" if on_gpu else "cpu")
