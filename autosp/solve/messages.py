"""The plan in words: layouts, reasons, alternatives, the few lines that a user reads first, and what a rank holds."""

from __future__ import annotations

import re
from collections.abc import Iterator

import attrs
import torch

from ..capture import module_path, source_line
from ..errors import Problem as Fault
from ..sharding import PARTIAL, Sharding, Split, transition
from ..syntax.layout import Dim, Part, layout_of
from .assembly import Assembled
from .candidates import covered
from .memory import Memory
from .plan import Reshard, Solution
from .problem import Op, Problem, Value, hint_of
from .strategies import contracts_length

Row = tuple[str, str, str]


def layout_text(value: Value, sharding: Sharding, hints: dict) -> str:
    """Canonical layout text of a value: `[batch@dp, heads, seq@sp]`; unnamed dims are sizes."""
    dims = [_dim(value, d, sharding, hints) for d in range(len(value.shape))]
    return layout_of(dims, [axis for axis, at in sharding.pairs if at is PARTIAL])


def _dim(value: Value, d: int, sharding: Sharding, hints: dict) -> Dim:
    """A dim with its regions as parts, each with the axes that split it: those outside the program first."""
    left = {axis: at for axis, at in sharding.pairs if isinstance(at, Split) and at.dim == d}
    regions = sorted((r for r in value.regions if r.split.dim == d), key=lambda r: hint_of(r.split.outer, hints))
    solved, parts = [axis for axis, _ in sharding.pairs], []
    for r in regions:
        begin = hint_of(r.split.outer, hints)
        here = [axis for axis, at in left.items() if axis in r.axes and hint_of(at.outer, hints) == begin]
        axes = (*(a for a in r.axes if a not in solved), *here)
        parts.append(Part(r.name or None, None if r.name else hint_of(r.split.units, hints), axes))
        left = {axis: at for axis, at in left.items() if axis not in here}
    parts = parts or [Part(size=value.hint[d])]
    if left:
        parts[-1] = attrs.evolve(parts[-1], axes=(*parts[-1].axes, *left))
    return Dim(parts)


def explain_groups(problem: Problem, assembly: Assembled, ways, chosen, costs):
    """One entry per message of the forward, in order."""
    users = _users(problem, chosen)
    entries = []
    for group in assembly.groups:
        moves = [c.on(problem.axis.name) for c in group]
        row = transition(moves[0].src, moves[0].dst)
        kind = row.forward.kind
        if kind == "none":
            continue
        values = [problem.values[c.value] for c in group]
        asker = users.get((moves[0].value, moves[0].dst))
        first = values[0]
        entries.append(
            Reshard(
                kind=kind,
                backward=row.backward.kind if first.diff else "none",
                module=_module(asker, first),
                source=_source(asker, first),
                before=tuple(layout_text(v, c.src, problem.hints) for v, c in zip(values, group)),
                after=tuple(layout_text(v, c.dst, problem.hints) for v, c in zip(values, group)),
                bytes=sum(int(row.forward.wire.sent(v.bytes, problem.axis.size)) for v in values),
                seconds=sum(map(costs.move, moves)),
                reason=_reason(problem, asker, chosen, moves[0], costs),
                alternative=_alternative(problem, asker, ways, chosen, assembly.shardings, costs),
                values=tuple(v.name for v in values),
            )
        )
    return tuple(entries)


def _users(problem: Problem, chosen) -> dict:
    users: dict = {}
    for op, s in chosen.items():
        for v, need in zip(op.operands, s.needs):
            users.setdefault((v.id, need), op)
    return users


def _module(op: Op | None, v: Value) -> str:
    return op.module if op is not None else module_path(v.node)


def _source(op: Op | None, v: Value) -> str:
    return op.source if op is not None else source_line(v.node)


def _reason(problem: Problem, asker: Op | None, chosen, change, costs) -> str:
    """The rule or the wish that a change goes back to."""
    if change.src is PARTIAL:
        maker = next(op for op in problem.ops for v in op.results if v.id == change.value)
        origin = _summed(problem, maker, chosen)
        return f"{origin}: each rank holds a partial sum, {_wish(asker)}"
    if asker is None:
        return "the spec's output asks for the whole value"
    op = _decider(asker, chosen)
    whole = _ruled_whole(op)
    s = chosen[op]
    if op.node.target is torch.ops.autosp.constrain.default:
        return f"the layout {op.node.args[1]} is fixed here"
    how = f"is split over {_factor_name(op, s.part[0])}" if s.part else f"runs {s.kind}"
    if not whole:
        return f"{op_name(op)} {how}, to match its consumer's layout"
    policy = ""
    lengths = contracts_length(op)
    if lengths and s.part and s.part[0] not in lengths:
        policy = "; attention ulysses keeps the query length whole too" if costs.attention == "ulysses" else ""
    return f"{op_name(op)} {how}: its rule needs {', '.join(whole)} whole{policy}"


def _wish(asker: Op | None) -> str:
    return "the spec's output needs it whole" if asker is None else f"{op_name(asker)} needs it whole"


def _summed(problem: Problem, op: Op, chosen) -> str:
    """The operator that a partial sum comes from, back through calls that pass it on."""
    makers = {v.id: o for o in problem.ops for v in o.results}
    while chosen[op].part is None:
        sources = [makers[v.id] for v in op.operands if v.id in makers]
        op = next(o for o in sources if PARTIAL in chosen[o].gives)
    return f"{op_name(op)} sums over its split {_factor_name(op, chosen[op].part[0])}"


def _decider(op: Op, chosen) -> Op:
    """The first operator from here on whose rule wants a split dim whole; else the asker itself."""
    at = op
    for _ in range(12):
        if _ruled_whole(at):
            return at
        if at.projection is None or len(at.results) != 1 or len(at.results[0].users) != 1:
            break
        part = chosen[at].part
        if part is not None and at.projection.kinds[part[0]] == "reduce":
            break
        at = at.results[0].users[0][0]
    return op


def _ruled_whole(op: Op) -> list[str]:
    """The factors of a dim that the spec splits and the operator's rule needs whole."""
    if op.projection is None:
        return []
    factors = {}
    for i, v in enumerate(op.operands):
        for region in sorted((r for r in v.regions if r.solved), key=repr):
            for f, *_ in covered(op, i, region.split):
                if op.projection.kinds[f] == "whole":
                    factors[op.projection.names[f]] = f"{op.projection.names[f]} ({region.name})"
    return list(factors.values())


def _factor_name(op: Op, factor: int) -> str:
    """A factor by the spec's name of its dim, where it has one."""
    for i, v in enumerate(op.operands):
        for region in sorted((r for r in v.regions if r.name), key=repr):
            if factor in [f for f, *_ in covered(op, i, region.split)] and region.solved:
                return region.name
    return f"its factor {op.projection.names[factor]}"


def op_name(op: Op) -> str:
    return str(op.node.target)


def _alternative(problem: Problem, op: Op | None, ways, chosen, shardings, costs) -> str:
    """The best other strategy of the operator that needs the reshard, from where its operands are now."""
    if op is None:
        return "none: the output's mode decides"
    best = None
    for s in ways[op]:
        if s == chosen[op]:
            continue
        seconds, moves = costs.operator(op, s) - costs.operator(op, chosen[op]), []
        for v, need in zip(op.operands, s.needs):
            r = costs.reshard(v, shardings[v.id].on(problem.axis.name), need)
            if r is None:
                break
            seconds += r.seconds
            if r.kind not in ("none", "slice"):
                moves.append(f"{r.kind} of {v.name}")
        else:
            if best is None or seconds < best[0]:
                how = f"split over {op.projection.names[s.part[0]]}" if s.part else f"run {s.kind}"
                best = seconds, f"{how}: {', '.join(moves) or 'no collective'}, {duration(seconds)}"
    return best[1] if best else "none: the rule and the spec leave one way"


def needs_rule(op: Op, operand: str) -> Fault:
    """An operator without a rule would gather a split value."""
    draft = op.error.problems[0] if op.error else None
    return Fault(
        what=f"operator {op_name(op)} has no rule, and its operand {operand} is split",
        rule="an operator without a rule runs whole, only where that gathers no split value",
        fix=draft.fix if draft else "write a rule for it",
        where=f"{op.source or op.node.name} (module {op.module or '<root>'})",
    )


def of_data_size(op: Op, value: Value, axis: str) -> Fault:
    """An operator whose result is as large as the data tell, or none, would gather a split value."""
    name = next((r.name for r in sorted(value.regions, key=repr) if r.solved and r.name), "seq")
    mapped = f"; where {op.module} treats every position by itself, 'map {op.module} over {name}' runs it on shards"
    return Fault(
        what=f"operator {op_name(op)} gives as many elements as the data tell, and its operand {value.name} is split "
        f"over {axis}",
        rule="a size that only the data tell is the same on every rank, so the operator needs its operands whole, "
        "and a split value with a gradient is not gathered for that",
        fix="keep the size: torch.where or a product with the mask, in place of an index by it"
        + (mapped if op.module else ""),
        where=f"{op.source or op.node.name} (module {op.module or '<root>'})",
    )


def summary(plan: Solution) -> str:
    """A few lines: each kind of collective of each place, alike ones of repeated layers as one."""
    rows: dict[tuple, list] = {}
    for r in plan.reshards:
        if r.kind == "slice":
            continue
        place = re.sub(r"\.\d+(?=\.|$)", ".*", r.module) or "<model>"
        key = (r.kind, place, r.before, r.after)
        rows.setdefault(key, []).append(r)
    lines = [f"plan: {plan.axis}={plan.p}, attention {plan.attention}, {len(plan.problem.ops)} operators"]
    for (kind, place, before, after), reshards in rows.items():
        r = reshards[0]
        lines.append(f"  {len(reshards)} x {kind} at {place}: {size(r.bytes)} sent per rank, {duration(r.seconds)}")
        for b, a in zip(before, after):
            lines.append(f"      {b} -> {a}")
        lines.append(f"      why: {r.reason}")
    lines += [f"  note: {n}" for n in plan.notes]
    total = sum(r.bytes for r in plan.reshards)
    lines.append(f"  forward sends {size(total)} per rank")
    return "\n".join(lines)


def size(n: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(n) < 1024 or unit == "GiB":
            return f"{n:.0f} {unit}" if unit == "B" else f"{n:.1f} {unit}"
        n /= 1024
    raise AssertionError


def duration(seconds: float) -> str:
    if abs(seconds) < 1e-3:
        return f"{seconds * 1e6:.1f} us"
    return f"{seconds * 1e3:.2f} ms" if abs(seconds) < 1 else f"{seconds:.2f} s"


def memory_rows(memory: Memory) -> tuple[Row, ...]:
    """(what, bytes, remark) for each thing that is held at the peak, and their sum."""
    peak = f"{memory.phase}, at {memory.at}"
    return (
        ("parameters", size(memory.parameters), ""),
        ("gradients", size(memory.gradients), "live at the peak"),
        ("optimizer", size(memory.optimizer), ""),
        ("saved activations", size(memory.held), f"live at the peak, of {size(memory.saved_bytes)} saved"),
        ("transient", size(memory.transient), "everything else that is live then"),
        ("peak", size(memory.peak), peak),
    )


def saved_rows(memory: Memory) -> tuple[Row, ...]:
    """(kind of operator, bytes, part) for what crosses from forward to backward, the largest first."""
    kinds = sorted(memory.saved.items(), key=lambda item: (-item[1], item[0]))
    whole = max(memory.saved_bytes, 1)
    return tuple((kind, size(count), f"{100 * count / whole:.0f}%") for kind, count in kinds if count)


def verdict(plan: Solution) -> str:
    """Whether the peak fits, and by how much."""
    device, peak = plan.device, plan.peak_bytes
    room = f"{size(device.usable)} of {device.name} ({size(device.memory)} less {size(device.reserve)} reserved)"
    if plan.fits:
        return f"fits: {size(peak)} of the {room}"
    return f"does not fit: {size(peak)}, {size(peak - device.usable)} more than the {room}"


def seconds_text(plan: Solution) -> str:
    """The predicted step by what it is spent on."""
    parts = [f"compute {duration(plan.compute_seconds)}", f"collectives {duration(plan.communication_seconds)}"]
    parts += [f"recomputation {duration(plan.recompute_seconds)}"] if plan.recompute_seconds else []
    return f"{duration(plan.step_seconds)}: {', '.join(parts)}"


@attrs.frozen
class Section:
    """A title over rows, and lines of text."""

    title: str = ""
    rows: tuple[Row, ...] = ()
    text: tuple[str, ...] = ()


def sections(plan: Solution, *answers: str) -> Iterator[Section]:
    """What there is to say of a plan, in reading order; `answers` stand beside whether it fits."""
    yield Section(text=tuple(summary(plan).splitlines()))
    if plan.memory is None:
        return
    title = "memory of a rank" + (f" at length {plan.length:,}" if plan.length else "")
    yield Section(title, memory_rows(plan.memory))
    yield Section("saved for the backward", saved_rows(plan.memory))
    yield Section(text=(f"step {seconds_text(plan)}", f"{plan.recompute}: {plan.recomputed}", verdict(plan), *answers))
    yield Section("assumed", text=plan.memory.assumptions)


def explain(plan: Solution, *answers: str) -> str:
    """The sections as lines of text."""
    text: list[str] = []
    for section in sections(plan, *answers):
        text += [section.title] if section.title else []
        text += [*lines(section.rows), *(f"  {t}" if section.title else t for t in section.text)]
    return "\n".join(text)


def lines(rows: tuple[Row, ...]) -> Iterator[str]:
    """Rows as lines of two aligned columns and a remark."""
    widths = [max((len(row[i]) for row in rows), default=0) for i in (0, 1)]
    for what, count, remark in rows:
        yield f"  {what:<{widths[0]}}  {count:>{widths[1]}}  {remark}".rstrip()
