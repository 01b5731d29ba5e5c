"""Dynamo's graph to a global-view ATen graph."""

from .captured import (
    Captured,
    GraphOutput,
    Placeholder,
    differentiable,
    module_path,
    place_in,
    source_line,
    tensor_nodes,
    tensors_of,
)
from .fake_trace import trace, tracing
from .global_view import LayoutOf, capture, specialise
from .names import Names, name_modules

__all__ = [
    "Captured",
    "GraphOutput",
    "LayoutOf",
    "Names",
    "Placeholder",
    "capture",
    "differentiable",
    "module_path",
    "name_modules",
    "place_in",
    "source_line",
    "specialise",
    "tensor_nodes",
    "tensors_of",
    "trace",
    "tracing",
]
