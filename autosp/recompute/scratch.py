"""Bytes that a kernel takes for itself while it runs, beside its operands and results.

They are in no graph. From PyTorch's sources: `aten/src/ATen/native/cpu/FlashAttentionKernel.cpp`
(buffers of each thread) and FlashAttention-2's `flash_api.cpp` (mha_bwd: the gradient of the query
summed in fp32, the row sums, and keys and values repeated for grouped heads).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import fx

from ..compat.torch import example_size
from ..rules import traits
from .compiler import Place

_KEYS = 512  # keys of a block of the CPU's kernel
_FP32 = 4


def scratch(node: fx.Node, device: Place) -> int:
    """Bytes of one call; 0 where nothing is known of the kernel, or it takes none.

    On fake tensors of the CPU attention is the CPU's; on "cuda" it is taken for FlashAttention's.
    """
    formula = traits(node.target).names(f"workspace_{device}") if node.op == "call_function" else ()
    return _FORMULAS[formula[0]](node) if formula else 0


def _sizes(node: fx.Node, at: int) -> tuple[int, ...]:
    return tuple(map(example_size, node.args[at].meta["val"].shape))


def _queries(length: int) -> int:
    """Queries of a block of the CPU's kernel."""
    block = 256 if length >= 768 else 64 if length >= 192 else 32
    return min(block, length)


def _cpu_forward(node: fx.Node) -> int:
    (_, _, s, d), t = _sizes(node, 0), _sizes(node, 1)[2]
    rows, keys = _queries(s), min(_KEYS, t)
    each = rows * keys + 2 * rows + rows * d
    half = 0 if node.args[0].meta["val"].dtype.itemsize == _FP32 else 2 * rows * keys
    return torch.get_num_threads() * (each * _FP32 + half)


def _cpu_backward(node: fx.Node) -> int:
    s, t = _sizes(node, 1)[2], _sizes(node, 2)[2]
    each = 2 * _queries(s) * min(_KEYS, t)
    half = 0 if node.args[1].meta["val"].dtype.itemsize == _FP32 else each * 2
    return torch.get_num_threads() * (each * _FP32 + half)


def _flash_backward(node: fx.Node) -> int:
    b, h, s, d = _sizes(node, 1)
    _, groups, t, _ = _sizes(node, 2)
    rounded = math.ceil(s / 128) * 128
    sums = b * h * rounded * (math.ceil(d / 32) * 32 + 1) * _FP32
    repeated = 2 * b * t * h * d * node.args[1].meta["val"].dtype.itemsize if groups != h else 0
    return sums + repeated


_FORMULAS: dict[str, Callable[[fx.Node], int]] = {
    "cpu_attention": _cpu_forward,
    "cpu_attention_backward": _cpu_backward,
    "flash_attention_backward": _flash_backward,
}
