"""What lets PyTorch's cache of compiled programs (AOTAutogradCache) keep a local graph.

It refuses functions that it does not know, and its key reads a graph's code alone: not what our functions do, nor the
metadata of nodes that our partitioner goes by. Both are told here, in a digest that PyTorch makes part of the key.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import cache
from hashlib import sha256
from pathlib import Path

import torch
from torch import fx

from ..capture.captured import paths_of
from ..rules.book import RuleBook, latest

PACKAGE = Path(__file__).parents[1]
_KNOWN = {"aten", "prims", "higher_order", "_c10d_functional", "autosp", "autosp_local", "autosp_tiles"}  # of operators
_READ = ("custom", "recompute", "ac_graph_id")  # of a node's metadata, beside its module: what partitioners go by


def marked(gm: fx.GraphModule, example_inputs: Sequence) -> dict[str, str] | None:
    """For `torch._inductor.config.unsafe_marked_cacheable_functions`: our functions that a graph calls, by full name, and
    this package.

    None where the key would not tell all, and nothing may be kept: a graph with parts of its own, whose calls the cache
    does not look at; one that reads an attribute which is no tensor, as only tensors become inputs of what is compiled;
    a function that was made for a model (an autograd.Function); an operator of somebody's own, whose backward is in no
    key; lengths that are symbols, whose guards were met while we allowed none. Such a program is traced by each process
    for itself.
    """
    tensors = {*dict(gm.named_parameters()), *dict(gm.named_buffers())}
    parts = any(isinstance(part, fx.GraphModule) for part in gm.modules() if part is not gm)
    symbols = any(isinstance(n, torch.SymInt) for x in example_inputs for n in getattr(x, "shape", (x,)))
    if parts or symbols or any(n.target not in tensors for n in gm.graph.find_nodes(op="get_attr")):
        return None
    calls = {n.target for n in gm.graph.nodes if n.op == "call_function" and isinstance(n.target, Callable)}
    if any(getattr(call, "namespace", "aten") not in _KNOWN for call in calls):
        return None
    ours = [call for call in calls if _module(call).startswith(f"{PACKAGE.name}.")]
    if not all(map(_stands_by_its_name, ours)):
        return None
    key = f"{_sources()} {_rules(latest())} {_metadata(gm)}"
    return dict.fromkeys([PACKAGE.name, *sorted(f"{_module(call)}.{call.__name__}" for call in ours)], key)


def _module(call: Callable) -> str:
    return getattr(call, "__module__", None) or ""


def _stands_by_its_name(call: Callable) -> bool:
    return getattr(sys.modules.get(_module(call)), getattr(call, "__name__", ""), None) is call


@cache
def _sources() -> str:
    """A digest of this package."""
    digest = sha256()
    for file in sorted(PACKAGE.rglob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()


@cache
def _rules(book: RuleBook) -> str:
    """A digest of all rules, which say what partitioners take an operator for."""
    return sha256("\n".join(map(str, book.rules)).encode()).hexdigest()


def _metadata(gm: fx.GraphModule) -> str:
    digest = sha256()
    for node in gm.graph.nodes:
        digest.update(repr((paths_of(node), [node.meta.get(name) for name in _READ])).encode())
    return digest.hexdigest()
