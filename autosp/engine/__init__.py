"""Runs plans: plain `torch.compile`, and DeepSpeed."""

from .data import sampler
from .dynamo_backend import Backend, Options
from .entry import backend, compile
from .measuring import Measured, measure
from .planning import plan

__all__ = ["Backend", "Measured", "Options", "backend", "compile", "measure", "plan", "sampler"]
