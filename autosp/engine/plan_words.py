"""The words of `autosp.plan`: what is wrong of its arguments, what it takes for granted, how far it is."""

from __future__ import annotations

from collections.abc import Iterator

from ..errors import Problem
from ..solve import Device
from ..solve.words import size

STEP_AT = "the engine's own buffers, after the backward"


def counts(**given: int) -> Iterator[Problem]:
    """Numbers of ranks that are none."""
    for name, n in given.items():
        if not isinstance(n, int) or isinstance(n, bool) or n < 1:
            yield Problem(
                what=f"{name}={n!r} is no number of ranks",
                rule="sp ranks share a sequence, dp groups of them have a batch each; both are 1 or more",
                fix=f"leave {name} out for one" if name == "dp" else "use sp=1 to split nothing",
                where=f"autosp.plan({name}=...)",
            )


def no_module(kind: str) -> Problem:
    """A model that is none."""
    return Problem(
        what=f"{kind} is no model",
        rule="a model is a torch.nn.Module (real, fake or on the meta device), a callable that returns one, "
        "or a configuration of transformers",
        fix='build it on the meta device: with torch.device("meta"): model = make_model()',
        where="autosp.plan(model)",
    )


def no_length(names: list[str], axis: str) -> Problem:
    """Inputs without a length that could be another."""
    return Problem(
        what=f"no dim of the inputs ({', '.join(names)}) has a name and is split over '{axis}'",
        rule="the longest sequence is found by giving that dim other sizes",
        fix=f"name the dim in the spec: input input_ids [batch@dp, seq@{axis}]",
        where="plan.max_seq_len",
    )


def no_step(model: str) -> Problem:
    """A program without a backward."""
    return Problem(
        what=f"no gradient flows to a parameter of {model} on these inputs",
        rule="memory is predicted for a training step: a forward that gives a loss, and its backward",
        fix="give the inputs that the loss needs (labels), and parameters that require a gradient",
        where="plan.max_seq_len",
    )


def reserve(device: Device) -> str:
    """What a device's description holds back."""
    return (
        f"{size(device.reserve)} of {device.name}'s {size(device.memory)} are no tensor's: context, buffers of "
        "collectives, slack of the allocator"
    )


def positions(length: int, known: int) -> str:
    """A length that the model was not made for."""
    return f"{length:,} positions are used as they are; the model's configuration says {known:,}"


def tried(length: int, peak: int, device: Device, seconds: float) -> str:
    """A line of progress: the program's peak with the states that last."""
    return f"autosp: length {length:,}: {size(peak)} of {size(device.usable)} ({seconds:.0f} s)"


def tried_shallow(layers: int, seconds: float) -> str:
    """A line of progress."""
    return f"autosp: {layers} layers, to know where to begin ({seconds:.0f} s)"
