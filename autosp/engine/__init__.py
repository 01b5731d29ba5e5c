"""Runs plans: plain `torch.compile`, and DeepSpeed."""

from .backend import Backend, Options
from .compile import backend, compile
from .data import sampler
from .measuring import Measured, measure
from .planning import plan

__all__ = ["Backend", "Measured", "Options", "backend", "compile", "measure", "plan", "sampler"]
