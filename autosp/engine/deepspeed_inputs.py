"""DeepSpeed's way to mark inputs, for scripts that use it already."""

from __future__ import annotations

import torch

from ..errors import InputError, Problem
from ..spec import annotate


def prepare_autosp_inputs(
    input_id: torch.Tensor,
    label_id: torch.Tensor,
    position_id: torch.Tensor | None = None,
    attention_mask: torch.Tensor | None = None,
    seq_dim: int = 1,
):
    """Marks a batch as DeepSpeed's function of this name does: `seq_dim` of each may be split.

    Args:
        input_id, label_id, position_id: (batch, seq); the last may be left out.
        attention_mask: (batch, seq) or (batch, ..., seq), or left out. It is not marked: it stays whole.
        seq_dim: the dim of the sequence.

    Returns:
        The four, as they were given.

    Raises:
        InputError: `seq_dim` is not a dim of the inputs.

    Source:
        DeepSpeed's function of this name, whose users change one import.

    Example:
        >>> import torch
        >>> from autosp.deepspeed import prepare_autosp_inputs
        >>> ids = torch.zeros(2, 8, dtype=torch.int64)
        >>> prepare_autosp_inputs(ids, ids)[0] is ids
        True
    """
    named = {"input_id": input_id, "label_id": label_id, "position_id": position_id}
    for name, tensor in named.items():
        if tensor is None:
            continue
        if not -tensor.dim() <= seq_dim < tensor.dim():
            raise InputError(_no_dim(name, tensor, seq_dim))
        annotate(tensor, _layout(tensor.dim(), seq_dim % tensor.dim()))
    return input_id, label_id, position_id, attention_mask


def _layout(dims: int, seq_dim: int) -> str:
    names = [("seq@sp" if d == seq_dim else "batch@dp" if d == 0 else f"dim{d}") for d in range(dims)]
    return f"[{', '.join(names)}]"


def _no_dim(name: str, tensor: torch.Tensor, seq_dim: int) -> Problem:
    return Problem(
        what=f"seq_dim {seq_dim} is not a dim of {name}, whose shape is {list(tensor.shape)}",
        rule="seq_dim is the position of the sequence in every input",
        fix="pass seq_dim=1 for (batch, seq) inputs",
        where="prepare_autosp_inputs",
    )
