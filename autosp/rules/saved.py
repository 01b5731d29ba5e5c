"""What a rule states as saved for the backward, against what autograd keeps: the solver prices what the rule states."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import attrs
import torch

from .call import operand_indices, tensor_args, tensor_results
from .draw import Arguments
from .projection import Projection
from .strategies import splittable


@attrs.frozen(eq=False)
class Kept:
    """One call, and the tensors that autograd keeps of it."""

    operands: list[torch.Tensor]
    results: list[torch.Tensor]
    tensors: list[torch.Tensor]

    @property
    def places(self) -> set[int]:
        """The operands, by their places, and the first result (-1), that are kept. A number is nothing to be priced."""
        of = {memory(t): i for i, t in reversed(list(enumerate(self.operands)))}
        of |= {memory(r): -1 for r in self.results[:1] if memory(r) not in of}
        return {of[memory(t)] for t in self.tensors if t.dim() and t.numel() > 1 and memory(t) in of}


def memory(t: torch.Tensor) -> int:
    """What tells a tensor's memory from another's."""
    return t.untyped_storage().data_ptr()


def kept(target: Any, args: Any, kwargs: Any) -> Kept:
    """What autograd keeps of a call, whose operands say themselves whether they want gradients."""
    tensors: list[torch.Tensor] = []

    def pack(t: torch.Tensor) -> torch.Tensor:
        tensors.append(t)
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        results = tensor_results(target(*args, **kwargs))
    return Kept(tensor_args(args, kwargs), results, tensors)


def missing_saves(target: Any, case: Arguments, projection: Projection) -> Iterator[str]:
    """The operands and results that autograd keeps of a call and its rule does not name."""
    record = kept(target, *case)
    if not splittable(projection) or not any(r.requires_grad for r in record.results):
        return
    names = {i: n for n, places in operand_indices(target, *case).items() for i in places}
    for i in sorted(record.places - {*projection.saves}):
        yield f"autograd keeps '{names.get(i, 'result')}' for the backward, and no 'saves' names it"
