"""The passes, in their order, and the one runner of them.

`compile`, `plan`, `measure`, `check`, `parity` and the tests run prefixes of this list, and no other order exists.
"""

from __future__ import annotations

import inspect
import os
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

import attrs

from ..capture import Captured, LayoutOf, trace
from ..errors import EngineError, Problem, did_you_mean
from ..solve import NeedsRule, around
from ..spec import Constraint, Map
from .canonicalize import canonicalize
from .choose_saved import choose_saved
from .constrain import constrain
from .functionalize import functionalize
from .group_heads import group_heads
from .hoist_slices import hoist_slices
from .lower_to_rank import lower_to_rank
from .mark_causal import mark_causal
from .outline_mapped import outline_mapped
from .program import Context, Program, Ran
from .shard import shard
from .specialize import specialize
from .symbols import NeedsSymbols, has_symbols
from .tile import tile
from .verify import verify_global, verify_groups, verify_local, verify_tiles, verify_windows
from .weigh_tokens import weigh_tokens
from .window_attention import window_attention

DUMP, SKIP = "AUTOSP_DUMP", "AUTOSP_SKIP"


@attrs.frozen
class Pass:
    """One step. verify: what must hold after it, of the program before, the program, and the context; optional: whether
    a user may switch it off by its name."""

    run: Callable[[Program, Context], Program]
    verify: Callable[[Program, Program, Context], None] | None = None
    optional: bool = False

    @property
    def name(self) -> str:
        return self.run.__name__

    @property
    def summary(self) -> str:
        """The first paragraph of its file."""
        return (inspect.getdoc(sys.modules[self.run.__module__]) or "").partition("\n\n")[0]


PASSES = (
    Pass(functionalize),
    Pass(canonicalize),
    Pass(mark_causal),
    Pass(weigh_tokens),
    Pass(constrain),
    Pass(outline_mapped, verify=verify_global),
    Pass(specialize),
    Pass(hoist_slices, optional=True),
    Pass(shard),
    Pass(lower_to_rank, verify=verify_local),
    Pass(group_heads, verify=verify_groups, optional=True),
    Pass(window_attention, verify=verify_windows, optional=True),
    Pass(tile, verify=verify_tiles, optional=True),
    Pass(choose_saved),
)
NAMES = tuple(each.name for each in PASSES)


def run(
    program: Program, context: Context, *, until: str = NAMES[-1], skip: Collection[str] = (), verify: bool = True
) -> Program:
    """The program after the passes from its own stage on, up to and with `until`.

    skip: optional passes that are left out; those that `AUTOSP_SKIP` names, by commas, are too. verify: whether what
    must hold after a pass is looked at, as it is of all that runs. With `AUTOSP_DUMP`, the first rank writes the
    program after each pass into that folder, and the others theirs of a local graph.
    Raises what the passes and their verification raise, and EngineError for what `AUTOSP_SKIP` names that is not an
    optional pass.
    """
    skip = {*skip, *_skipped()}
    first = NAMES.index(program.stage) + 1 if program.stage in NAMES else 0
    for each in PASSES[first : NAMES.index(until) + 1]:
        if each.name in skip:
            continue
        began, before, calls = time.perf_counter(), program, program.calls
        program = each.run(program, context)
        if verify and each.verify is not None:
            each.verify(before, program, context)
        ran = Ran(each.name, time.perf_counter() - began, calls, program.calls)
        program = attrs.evolve(program, stage=each.name, passes=(*program.passes, ran))
        dump(program, context)
    return program


def global_graph(
    model: Callable,
    inputs: Mapping[str, object],
    *,
    layout_of: LayoutOf = lambda name, x: None,
    constraints: Sequence[Constraint] = (),
    maps: Sequence[Map] = (),
    dynamic: bool = False,
) -> tuple[Captured, Sequence]:
    """What the solver is given of `model(**inputs)`, and the graph's example inputs, in order: a trace, after the passes
    that do not ask for a mesh.

    Raises what `autosp.capture.trace` and the passes up to `outline_mapped` raise.
    """
    captured, examples = trace(model, inputs, layout_of=layout_of, dynamic=dynamic)
    options = Context(constraints=tuple(constraints), maps=tuple(maps))
    return run(Program(captured), options, until="outline_mapped").captured, examples


def sharded(program: Program, context: Context) -> Program:
    """The program up to its plan, with the modules around operators without a rule found on the way.

    Raises NeedsSymbols where a module may have to run per shard and the program's lengths are numbers.
    """
    program = run(program, context, until="constrain")
    while True:
        try:
            return run(program, context, until="shard")
        except NeedsRule as refusal:
            more = tuple(each for each in around(refusal) if each not in context.mapped)
            if not more:
                raise
            if not has_symbols(program.captured, context.axis.name):
                raise NeedsSymbols(more, refusal) from refusal
            context = attrs.evolve(context, mapped=(*context.mapped, *more))


def _skipped() -> set[str]:
    names = {name.strip() for name in os.environ.get(SKIP, "").split(",")} - {""}
    optional = [each.name for each in PASSES if each.optional]
    if wrong := sorted(names - set(optional)):
        raise EngineError([_not_optional(name, optional) for name in wrong])
    return names


def _not_optional(name: str, optional: list[str]) -> Problem:
    what = "is a pass that every program needs" if name in NAMES else "is not a pass"
    return Problem(
        what=f"'{name}' {what}",
        rule=f"{SKIP} names passes that may be left out, by commas: {', '.join(optional)}",
        fix=did_you_mean(name, optional, f"take it out of {SKIP}"),
        where=f"the environment variable {SKIP}",
    )


def dump(program: Program, context: Context) -> None:
    """Writes the program after its last pass as text, where `AUTOSP_DUMP` names a folder."""
    places = context.rank.rank if context.rank is not None else ()
    if not os.environ.get(DUMP) or (any(places) and program.local is None):
        return
    last = program.passes[-1]
    whose = f".rank{'-'.join(map(str, places))}" if any(places) else ""
    write(f"{NAMES.index(last.name) + 1:02}_{last.name}{whose}.txt", text(program))


def write(name: str, text: str) -> None:
    """A file of the folder that `AUTOSP_DUMP` names, where it names one."""
    if folder := os.environ.get(DUMP):
        path = Path(folder) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.rstrip("\n") + "\n")


def text(program: Program) -> str:
    """The program after its last pass, for a reader."""
    last = program.passes[-1]
    summary = next(each.summary for each in PASSES if each.name == last.name)
    parts = [f"# {last.name}: {summary}\n# {last.before} calls before, {last.after} after, {last.seconds:.3f} s"]
    if last.name == "shard":
        parts += [program.plan.summary(), program.plan.describe()]
    if last.name == "choose_saved":
        from ..recompute.notes import recompute_text

        parts.append(recompute_text(program.decision) if program.decision is not None else "PyTorch's own choice")
    return "\n\n".join([*parts, str(program.graph.graph)])
