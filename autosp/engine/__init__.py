"""Runs plans: plain `torch.compile`, and DeepSpeed."""

from .backend import Backend, Options
from .compile import backend, compile
from .data import sampler

__all__ = ["Backend", "Options", "backend", "compile", "sampler"]
