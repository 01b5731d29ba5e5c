"""Specs: what the user says is sharded, as values; and marks of it on tensors.

What needs torch (`annotate`, `annotation_of`, `constrain`, `check_inputs`, `check_model`) is
imported when it is first asked for, so that checking a spec's text stays quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .parser import for_class, load, parse
from .spec import Spec
from .text import format_text
from .values import (
    Attention,
    Axis,
    Constraint,
    DimFact,
    Input,
    Map,
    Output,
    OutputMode,
    Recompute,
    Tile,
)

if TYPE_CHECKING:
    from .constraining import constrain
    from .inputs import check_inputs
    from .marks import annotate, annotation_of
    from .model import check_model

LATER = {
    "annotate": "marks",
    "annotation_of": "marks",
    "constrain": "constraining",
    "check_inputs": "inputs",
    "check_model": "model",
}

__all__ = [
    "Attention",
    "Axis",
    "Constraint",
    "DimFact",
    "Input",
    "Map",
    "Output",
    "OutputMode",
    "Recompute",
    "Spec",
    "Tile",
    "annotate",
    "annotation_of",
    "check_inputs",
    "check_model",
    "constrain",
    "for_class",
    "format_text",
    "load",
    "parse",
]


def __getattr__(name: str) -> Any:
    if name not in LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{LATER[name]}", __name__), name)
    globals()[name] = value
    return value
