"""Runs plans: plain `torch.compile`, and DeepSpeed."""

from .backend import Backend, Options
from .compile import backend, compile
from .data import sampler
from .planning import plan

__all__ = ["Backend", "Options", "backend", "compile", "plan", "sampler"]
