"""Attentions whose mask is causal, with or without a sliding window, are known as such.

Before: attention(q, k, v, mask), where mask is le(arange, arange). After: the same, marked: its mask need not be read.
"""

from __future__ import annotations

from ..capture.masks import mark_attentions
from .program import Context, Program


def mark_causal(program: Program, context: Context) -> Program:
    """The program with its causal attentions marked; a mask that comes from the call's inputs is none."""
    mark_attentions(program.captured.graph)
    return program
