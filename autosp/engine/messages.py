"""Messages where ranks differ, and of `autosp.plan`: what is wrong of its arguments, what it takes for granted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import zip_longest
from typing import Any

import torch

from ..errors import AutospError, Problem
from ..solve import Device
from ..solve.messages import size

LONG = 80  # characters of a text that are shown whole
STEP_AT = "the engine's own buffers, after the backward"


def reason(error: BaseException) -> str:
    """One line that says how a rank failed."""
    if isinstance(error, AutospError):
        first = error.problems[0]
        text = f"{first.what} ({first.where})" if first.where else first.what
    else:
        text = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {text}"[:500] if text else type(error).__name__


def tensor_text(x: torch.Tensor, size: Callable[[Any], object] = str) -> str:
    """`float32[2, 32]`. size: what stands for a size."""
    return f"{dtype_text(x)}[{', '.join(str(size(n)) for n in x.shape)}]"


def dtype_text(x: torch.Tensor) -> str:
    return str(x.dtype).removeprefix("torch.")


def each_length(why: str) -> str:
    return (
        f"the model could not be compiled for all lengths at once, so each length is compiled by itself: {why}. "
        "autosp.compile(..., dynamic=False) does not try"
    )


def differ(what: str, first: int, first_note: str, rank: int, note: str, rule: str, fix: str) -> Problem:
    a, b = first_note.splitlines(), note.splitlines()
    if a[0] != b[0]:
        detail = f"rank {first} compares its {a[0]}, rank {rank} its {b[0]}"
    else:
        ours, theirs = (dict(line.split("\t", 1) for line in lines[1:]) for lines in (a, b))
        key = next(k for k in [*ours, *theirs] if ours.get(k) != theirs.get(k))
        detail = f"{key} is {ours.get(key, 'absent')} on rank {first} and {theirs.get(key, 'absent')} on rank {rank}"
    return Problem(what=f"ranks differ in their {what}: {detail}", rule=rule, fix=fix, where=f"rank {rank}")


def late(what: str, here: int, rank: int, seconds: float) -> Problem:
    return Problem(
        what=f"rank {rank} did not come to compare its {what} within {seconds:g} s",
        rule="ranks of one group compile together or not at all",
        fix="look at that rank's output; a slow compile may need a larger AUTOSP_TIMEOUT",
        where=f"rank {here}",
    )


def alone(here: int, rank: int) -> Problem:
    return Problem(
        what=f"rank {here} compiles, and rank {rank} runs a program that was compiled before",
        rule="ranks of one group call the model alike: the same sizes, the same inputs, train or eval together",
        fix="give every rank of a group the same batch, and call the model on all of them or on none",
        where=f"rank {here}",
    )


def failed(what: str, here: int, rank: int, reason: str) -> Problem:
    return Problem(
        what=f"rank {rank} stopped: {reason}",
        rule="a rank that fails stops its group before the next collective",
        fix=f"look at the output of rank {rank}",
        where=f"rank {here}, comparing its {what}",
    )


def gone(what: str, here: int, rank: int) -> Problem:
    return Problem(
        what=f"the store of the process group is gone, while waiting for the {what} of rank {rank}",
        rule="a rank that fails stops its group before the next collective",
        fix="look at the output of the rank that holds the store, by default rank 0",
        where=f"rank {here}",
    )


def counts(**numbers: int) -> Iterator[Problem]:
    """Numbers of ranks that are none."""
    for name, n in numbers.items():
        if not isinstance(n, int) or isinstance(n, bool) or n < 1:
            yield Problem(
                what=f"{name}={n!r} is not a valid number of ranks",
                rule="sp ranks share a sequence, dp groups of them have a batch each; both are 1 or more",
                fix=f"leave {name} out for one" if name == "dp" else "use sp=1 to split nothing",
                where=f"autosp.plan({name}=...)",
            )


def no_module(kind: str) -> Problem:
    """A model that is none."""
    return Problem(
        what=f"{kind} is not a model",
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
        f"{size(device.reserve)} of {device.name}'s {size(device.memory)} are reserved for the CUDA context, NCCL buffers "
        "and the allocator's fragmentation"
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


def no_plan(path: str, why: str) -> Problem:
    """A file that holds no plan."""
    return Problem(
        what=f"'{path}' cannot be read as a plan: {why}",
        rule="plan= is a file that plan.save(path) or `autosp plan --save` wrote",
        fix="give the path of such a file, or leave plan= out",
        where="autosp.compile(plan=...)",
    )


def no_path(kind: str) -> Problem:
    """Something else than a file's path."""
    return Problem(
        what=f"plan= is a {kind}, and not the path of a file",
        rule="plan= is a file that plan.save(path) or `autosp plan --save` wrote",
        fix="save the plan first: plan.save('plan.json'), then plan='plan.json'",
        where="autosp.compile(plan=...)",
    )


def unwritable(path: str, why: str) -> Problem:
    """A plan that cannot be saved there."""
    return Problem(
        what=f"the plan cannot be written to '{path}': {why}",
        rule="a plan is saved to a file, in a folder that is there",
        fix="make the folder, or give another path",
        where="plan.save",
    )


def other_format(path: str, version: object, own: int) -> Problem:
    """A file of another autosp."""
    return Problem(
        what=f"'{path}' holds a plan in format {version}; this autosp reads format {own}",
        rule="a plan is read by the autosp that wrote it, or by one with the same format",
        fix="save the plan again with this autosp",
        where="autosp.compile(plan=...)",
    )


def stale(path: str, differences: Mapping[str, tuple[str, str]]) -> list[Problem]:
    """A plan that was made for something else: a problem for each thing that differs."""
    return [
        Problem(
            what=f"the plan in '{path}' is stale: {name}: {_change(then, now)}",
            rule="a saved plan runs only what it was made for",
            fix="leave plan= out, and save the plan of the first step again (model.autosp_plan.save(path))",
            where="autosp.compile(plan=...)",
        )
        for name, (then, now) in differences.items()
    ]


def _change(then: str, now: str) -> str:
    """Then and now, of long texts the first lines that differ."""
    pairs = zip_longest(then.splitlines(), now.splitlines(), fillvalue="")
    before, after = next((a, b) for a, b in pairs if a != b)
    if max(len(before), len(after)) > LONG:
        apart = next(i for i, (a, b) in enumerate(zip_longest(before, after)) if a != b)
        before, after = (f"...{x[max(0, apart - LONG // 2) : apart + LONG // 2]}..." for x in (before, after))
    return f"'{before}' then, '{after}' now"


def plan_too_large(path: str, peak: int, limit: int) -> Problem:
    """A saved plan keeps more than this device has room for."""
    return Problem(
        what=f"the plan in '{path}' holds {size(peak)} of activations and gradients, and there is room for {size(limit)}",
        rule="what a saved plan keeps was chosen for the memory that it was planned for",
        fix="leave plan= out, or plan for the device, the optimizer and the ZeRO stage at hand",
        where="autosp.compile(plan=...)",
    )


def other_inputs(path: str, differences: Mapping[str, tuple[str, str]]) -> str:
    """A program of other inputs than a saved plan's."""
    changes = "; ".join(f"{name}: {_change(then, now)}" for name, (then, now) in differences.items())
    return f"autosp: the plan in '{path}' is not for what is compiled now, which is planned anew: {changes}"
