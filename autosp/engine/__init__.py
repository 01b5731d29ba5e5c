"""Runs plans: plain `torch.compile`, and DeepSpeed."""

from .backend import Backend, Options
from .compile import backend, compile

__all__ = ["Backend", "Options", "backend", "compile"]
