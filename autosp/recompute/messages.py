"""Messages on what tiling left whole: one sentence, with the rule behind it where that helps."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from torch import fx

from ..compat.torch import OpOverload, base_name
from ..solve.messages import size

WHAT = {"loss": "the loss", "mlp": "the mlp", "mask": "the mask"}
SHAPE = {
    "loss": "no product with a weight is followed by a loss over its features",
    "mlp": "no product with a weight widens what another one narrows again, token by token",
    "mask": "no attention has a mask that is made here",
}


OUTPUT = "the whole values are an output of the graph"
SENT = "the whole values are sent between ranks"
TILED = "it is tiled already"
ONE_FEATURE = "it has one feature"


def name_of(node: fx.Node) -> str:
    """An operator as a rule names it."""
    target = node.target
    if isinstance(target, OpOverload):
        return f"{target.namespace}.{base_name(target)}"
    return str(getattr(target, "__name__", target))


def no_rule(node: fx.Node) -> str:
    return f"'{name_of(node)}' has no rule"


def needs_whole(node: fx.Node) -> str:
    return f"'{name_of(node)}' needs the tokens whole"


def cuts_features(node: fx.Node) -> str:
    return f"'{name_of(node)}' cuts the features"


def reads_sum(node: fx.Node) -> str:
    return f"'{name_of(node)}' reads a sum over the tokens"


def biased_sum(node: fx.Node) -> str:
    return f"'{name_of(node)}' adds a bias to a sum over the tokens"


def two_dims(node: fx.Node) -> str:
    return f"'{name_of(node)}' is read along two different dims"


def gathered(notes: Iterable[tuple[str, str, str]]) -> Iterator[str]:
    """`tile mlp: model.layers.*.mlp (32 of them) stays whole: ...`; one note for layers that are alike."""
    alike: dict[tuple[str, str, str], set[str]] = {}
    for what, module, why in notes:
        alike.setdefault((what, re.sub(r"\b\d+\b", "*", module), why), set()).add(module)
    for (what, pattern, why), modules in alike.items():
        if not pattern and len(modules) == 1 and why == SHAPE[what]:
            yield f"tile {what}: {why}"
            continue
        only = next(iter(modules))
        name = f"{pattern} ({len(modules)} of them)" if len(modules) > 1 else only or WHAT[what]
        yield f"tile {what}: {name} stays whole: {why}"


def nothing(what: str) -> str:
    return SHAPE[what]


def random(node: fx.Node) -> str:
    return f"'{name_of(node)}' draws random numbers, and tiles would draw others"


def small(what: str, count: int, least: int) -> str:
    subject = "its widest value is" if what == "loss" else "its intermediates are"
    return f"{subject} {size(count)}, and 'auto' makes tiles from {size(least)}"


def few_tokens(count: int) -> str:
    tokens = {0: "no token", 1: "one token"}.get(count, f"{count} tokens of a length that changes: each tile takes two")
    return f"this rank holds {tokens}"


def one_tile() -> str:
    return "one tile is the whole"


def reordered() -> str:
    return "nothing is tiled: tiles would change the order of what ranks send"
