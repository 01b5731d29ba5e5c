"""Texts of failures as a page of docs/ may hold them."""

from __future__ import annotations

import re

_SOURCE = re.compile(r"(?<![\w.:/])/(?:[^\s/:\"']+/)+[^\s/:\"']+\.(?:c|cc|cpp|cu|cuh|h|hpp)\b(?::\d+)?:? *")
_FILE = re.compile(r"(?<![\w.:/])/(?:[^\s/:\"']+/)+([^\s/:\"']+)")


def without_paths(text: str) -> str:
    """The text without what is true of one machine alone: a place in C++, where PyTorch was built, is cut, and of any
    other file the name is left.

    >>> without_paths("RuntimeError: /__w/pytorch/build/Register_0.cpp:61: SymIntArrayRef expected")
    'RuntimeError: SymIntArrayRef expected'
    >>> without_paths("OSError: '/home/me/env/lib/x.so' is missing")
    "OSError: 'x.so' is missing"
    """
    return _FILE.sub(r"\1", _SOURCE.sub("", text))


def without_counts(text: str) -> str:
    """The text of a plan without the number of its operators: releases of PyTorch and of a model's library trace one
    program to other operators.

    >>> without_counts("plan: sp=4, attention ulysses, 117 operators")
    'plan: sp=4, attention ulysses, * operators'
    """
    return re.sub(r"\b\d+ operators", "* operators", text)
