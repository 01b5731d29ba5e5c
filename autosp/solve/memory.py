"""What one rank holds at the peak of a step, in bytes: the value that `plan.memory` gives."""

from __future__ import annotations

from collections.abc import Mapping

import attrs


@attrs.frozen
class Memory:
    """Bytes on the fullest rank at the peak of one training step.

    parameters, optimizer: the model's states, as the ZeRO stage and the optimizer leave them on one
    rank; gradients: those that are live at the peak. saved: activations that cross from forward to
    backward, by what made them ("attention", "matmul", "collective", "residual", ...), each storage
    once; those alive at the peak may be fewer. transient: bytes of everything else that is alive at
    the peak (the part of `saved` that is alive then is in `held`). phase: "forward", "backward", or
    "step" (the engine's buffers after the backward); at: the source line and module of the operator
    at the peak. assumptions: each thing that the figures take for granted.
    """

    parameters: int
    gradients: int
    optimizer: int
    saved: Mapping[str, int]
    held: int
    transient: int
    phase: str
    at: str
    assumptions: tuple[str, ...] = ()

    @property
    def saved_bytes(self) -> int:
        """All that crosses from forward to backward."""
        return sum(self.saved.values())

    @property
    def activations(self) -> int:
        """The peak without the model's states."""
        return self.held + self.transient

    @property
    def peak(self) -> int:
        """Everything at the peak."""
        return self.parameters + self.gradients + self.optimizer + self.activations
