"""What tells the arguments of calls apart, as a key of a dictionary."""

from __future__ import annotations

from typing import Any

import torch

from ..sharding import as_size


def key_of(x: Any) -> Any:
    """Sizes and dtypes of tensors, sizes as expressions, and all else by type and value; lists, tuples and dicts of these."""
    if isinstance(x, torch.Tensor):
        return "tensor", tuple(as_size(s) for s in x.shape), x.dtype
    if isinstance(x, torch.SymInt):
        return "size", as_size(x)
    if isinstance(x, (torch.SymFloat, torch.SymBool)):
        return "number", id(x)  # comparing symbols would guard them
    if isinstance(x, (list, tuple)):
        return tuple(map(key_of, x))
    if isinstance(x, dict):
        return tuple((name, key_of(v)) for name, v in x.items())
    if isinstance(x, slice):
        return "slice", key_of((x.start, x.stop, x.step))
    return type(x), x
