"""Dynamo's graph to a global-view ATen graph."""

from .capture import capture
from .captured import Captured, Output, Placeholder, module_path, source_line, tensors_of
from .trace import trace

__all__ = ["Captured", "Output", "Placeholder", "capture", "module_path", "source_line", "tensors_of", "trace"]
