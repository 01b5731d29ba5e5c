"""Modules that run per shard though no spec maps them: those around operators without a rule.

Where such an operator stands on a split value (experts sort their tokens, which no dim survives), the modules around
it are tried from the inside: the first that treats positions alike, proved by a run (`positionwise`), becomes one
call, as if the spec had a `map` for it. Where none does, the operator is refused with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import attrs

from ..capture import Captured
from ..capture.captured import module_calls_of
from ..capture.regions import KEY, for_the_example, is_one_node, lengths_of, with_calls_mapped
from ..errors import Problem as Fault
from ..errors import RuleError
from ..rules import default_rules
from ..sharding import MeshAxis
from ..spec.paths import starred
from .candidates import mark
from .positionwise import Independence, positionwise
from .problem import Op, build
from .solver import NeedsRule, seeds

OUTWARD = 3  # modules that are tried around one operator
RULE = (
    "an operator without a rule runs whole, only where that gathers no split value, or per shard, "
    "in a module that gives a position the same whatever other positions are with it"
)

Because = Callable[[Fault], Fault]


Call = tuple[str, str]  # of a module: its key in a node's stack, and the module's path


@attrs.frozen
class Around:
    """The calls of modules around an operator without a rule, innermost first, and what was wrong with it."""

    calls: tuple[Call, ...]
    fault: Fault = attrs.field(eq=False)


def around(refused: NeedsRule) -> tuple[Around, ...]:
    """What stands around each refused operator. Raises the refusal where one stands in no module."""
    outward = []
    for op, fault in refused.faults.items():
        calls = [call for call in reversed(module_calls_of(op.node)) if call[1]]
        if not calls:
            raise refused
        outward.append(Around(tuple(dict.fromkeys(calls))[:OUTWARD], fault))
    return tuple(dict.fromkeys(outward))


def mapped(
    captured: Captured, refused: Sequence[Around], *, axis: MeshAxis, dynamic: bool
) -> tuple[Captured, tuple[str, ...]]:
    """The program in which a module around each operator is one node, and a line on every kind of module.

    captured: with symbols for its lengths. dynamic: the plan is to serve other lengths too. Raises RuleError for
    operators around which no module runs per shard.
    """
    lengths = lengths_of(captured.graph, captured.layouts)
    there = {call for node in captured.graph.graph.nodes for call in module_calls_of(node)}
    levels = {each: 0 for each in refused if each.calls[0] in there}
    first: dict[Around, Fault] = {}
    while True:
        chosen = {each: each.calls[level] for each, level in levels.items()}
        failed = {call[1]: _apart(call[1]) for call in chosen.values() if not is_one_node(captured.graph, call)}
        calls = _outermost([call for call in dict.fromkeys(chosen.values()) if call[1] not in failed])
        program = with_calls_mapped(captured, calls, lengths)
        verdicts = _verdicts(program if dynamic else for_the_example(program), axis)
        failed |= _first_kind(verdicts)
        if not failed:
            return program, _lines(verdicts)
        for each, (_, path) in chosen.items():
            if path in failed:
                first.setdefault(each, failed[path](each.fault))
                levels[each] += 1
        if faults := [first[each] for each, level in levels.items() if level == len(each.calls)]:
            raise RuleError(dict.fromkeys(faults))


def _outermost(calls: Sequence[Call]) -> list[Call]:
    return [call for call in calls if not any(call[1].startswith(f"{other}.") for _, other in calls)]


def _verdicts(program: Captured, axis: MeshAxis) -> dict[str, tuple[Op, Independence | Fault]]:
    """What is found of each mapped module, by its path, in the order of the program."""
    problem = build(program, default_rules(), axis)
    mark(problem, seeds(problem, program.layouts))
    verdicts: dict[str, tuple[Op, Independence | Fault]] = {}
    for op in problem.ops:
        if KEY in op.node.meta and op.node.meta[KEY].statement is None:
            verdict = positionwise(op, program.hints, axis.size) if op.projection is not None else op.error.problems[0]
            verdicts[op.node.meta[KEY].path] = op, verdict
    return verdicts


def _first_kind(verdicts: dict[str, tuple[Op, Independence | Fault]]) -> dict[str, Because]:
    """Why the first module may not run per shard, and those of its kind: later ones may fail only since it did."""
    failed = {path: entry for path, entry in verdicts.items() if isinstance(entry[1], Fault) or not entry[1].proved}
    kind = next(map(starred, failed), None)
    return {path: _because(path, *entry) for path, entry in failed.items() if starred(path) == kind}


def _lines(verdicts: dict[str, tuple[Op, Independence]]) -> tuple[str, ...]:
    """A line on every kind of module."""
    kinds: dict[str, dict[int, float]] = {}
    for path, (op, verdict) in verdicts.items():
        statement = f"map {starred(path)} over {op.node.meta[KEY].over}"
        kinds.setdefault(statement, {})[id(verdict)] = verdict.seconds
    return tuple(
        f"{statement}: found, and proved on random data in {sum(seconds.values()):.2f} s"
        for statement, seconds in kinds.items()
    )


def _apart(path: str) -> Because:
    why = f"what module {path} around it computes is used outside before it is done"
    return lambda fault: attrs.evolve(fault, what=f"{fault.what}; {why}")


def _because(path: str, op: Op, verdict: Independence | Fault) -> Because:
    """What is wrong with an operator that stands in this module."""
    if isinstance(verdict, Fault):
        return lambda fault: attrs.evolve(fault, what=f"{fault.what}; {verdict.what}")
    over = op.node.meta[KEY].over
    if verdict.mixes:
        why = f"positions along '{over}' mix in module {path} around it: {verdict.why}"
        return lambda fault: attrs.evolve(fault, what=f"{fault.what}; {why}", rule=RULE)
    why = f"whether positions along '{over}' mix in module {path} around it was not found out: {verdict.why}"
    fix = f"if none there depends on another, add a line to the spec: map {starred(path)} over {over}"
    return lambda fault: attrs.evolve(fault, what=f"{fault.what}; {why}", rule=RULE, fix=fix)
