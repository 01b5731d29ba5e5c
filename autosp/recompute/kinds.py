"""What an operator of a joint graph is, for memory, as its rule says: attention, a collective, a matmul, a view."""

from __future__ import annotations

import operator

from torch import fx

from ..compat.torch import base_name
from ..lower.held import HELD
from ..rules import is_a, is_call


def name_of(node: fx.Node) -> str:
    """The operator's name without namespace and overload: `mm`, `all_to_all_single`."""
    target = node.target
    packet = getattr(target, "overloadpacket", None) or base_name(target)
    if packet is not None:
        return str(packet).rsplit(".", 1)[-1].rsplit("::", 1)[-1]
    return str(getattr(target, "__name__", target))


def is_attention(node: fx.Node) -> bool:
    """Whether a node is a fused attention's forward."""
    return is_a(node, "attention")


def is_wait(node: fx.Node) -> bool:
    """Whether a node waits for a collective: its result is the collective's."""
    return is_a(node, "wait")


def is_collective(node: fx.Node) -> bool:
    """Whether a node communicates."""
    return is_a(node, "collective")


def is_random(node: fx.Node) -> bool:
    """Whether a second run would draw other numbers."""
    return is_call(node, "random")


def runs_once(node: fx.Node) -> bool:
    """Whether a second run would give something else: other numbers, or those of a buffer that was written since."""
    return is_random(node) or node.target is HELD


def is_matmul(node: fx.Node) -> bool:
    """Whether a node multiplies matrices."""
    return is_a(node, "matmul")


def is_item(node: fx.Node) -> bool:
    """Whether a node takes one result of several."""
    return node.target is operator.getitem


def kind(node: fx.Node) -> str:
    """The word under which a report counts what a node made; a copy is of its source's kind."""
    while (is_a(node, "view", "clone", "cast", "copy", "overwrite") or is_item(node)) and node.all_input_nodes:
        node = node.all_input_nodes[0]
    if node.op == "placeholder":
        return "inputs"
    if is_attention(node):
        return "attention"
    if is_collective(node) or is_wait(node):
        return "collective"
    if is_matmul(node):
        return "matmul"
    if is_random(node):
        return "random"
    return "loss" if is_a(node, "loss") else "norm" if is_a(node, "norm") else "other"
