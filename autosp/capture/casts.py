"""Which autocast regions each call of a graph is in.

A captured graph holds no casts: it holds what a model calls, within the regions that the model enters
(`_enter_autocast`, `_exit_autocast`) and those that were open when its forward was called.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import fx

from ..compat.torch import ENTER_AUTOCAST, EXIT_AUTOCAST

REGION = (ENTER_AUTOCAST, EXIT_AUTOCAST)
DEVICES = ("cpu", "cuda")

Casts = tuple[tuple, ...]  # what each region is entered with, the outermost first: device, dtype, enabled, cache


def open_regions() -> Casts:
    """Those that are open here, whoever entered them."""
    return tuple((d, torch.get_autocast_dtype(d), True, None) for d in DEVICES if torch.is_autocast_enabled(d))


def casts_of(graph: fx.Graph) -> dict[fx.Node, Casts]:
    """By call, the regions of the graph itself that it is in."""
    found: dict[fx.Node, Casts] = {}
    entered: list[fx.Node] = []
    for node in graph.nodes:
        if node.target is ENTER_AUTOCAST:
            entered.append(node)
        elif node.target is EXIT_AUTOCAST:
            entered.remove(node.args[0])
        elif node.op == "call_function":
            found[node] = tuple(each.args for each in entered)
    return found


@contextlib.contextmanager
def under(casts: Sequence[tuple]) -> Iterator[None]:
    """These regions and no others."""
    with contextlib.ExitStack() as stack:
        for device in DEVICES:
            stack.enter_context(torch.autocast(device, enabled=False))
        for device, dtype, enabled, _ in casts:
            stack.enter_context(torch.autocast(device, dtype, enabled, cache_enabled=False))
        yield
