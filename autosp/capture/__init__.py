"""Dynamo's graph to a global-view ATen graph."""

from .capture import LayoutOf, capture
from .captured import Captured, Output, Placeholder, module_path, source_line, tensor_nodes, tensors_of
from .trace import trace, tracing

__all__ = [
    "Captured",
    "LayoutOf",
    "Output",
    "Placeholder",
    "capture",
    "module_path",
    "source_line",
    "tensor_nodes",
    "tensors_of",
    "trace",
    "tracing",
]
