"""The plan in words: layouts, reasons, alternatives, and the few lines that a user reads first."""

from __future__ import annotations

import re

from ..errors import Problem as Fault
from ..layout import PARTIAL, Placement, Split
from .cost import conversion, sent
from .problem import Op, Problem, Value, hint_of


def layout_text(value: Value, placement: Placement, axis: str, hints: dict) -> str:
    """Canonical layout text of a value: `[batch@dp, heads, seq@sp]`; unnamed dims are sizes."""
    dims = [_dim_text(value, d, placement, axis, hints) for d in range(len(value.shape))]
    return f"[{', '.join(dims)}]" + (f" sum@{axis}" if placement is PARTIAL else "")


def _dim_text(value: Value, d: int, placement: Placement, axis: str, hints: dict) -> str:
    ours = isinstance(placement, Split) and placement.dim == d
    regions = sorted((r for r in value.regions if r.split.dim == d), key=lambda r: hint_of(r.split.outer, hints))
    parts, split_shown = [], False
    for r in regions:
        here = ours and hint_of(r.split.outer, hints) == hint_of(placement.outer, hints) and axis in r.axes
        split_shown |= here
        outside = [a for a in r.axes if a != axis]
        axes = outside + ([axis] if here else [])
        mark = f"@{axes[0]}" if len(axes) == 1 else f"@({' '.join(axes)})" if axes else ""
        parts.append(f"{r.name or hint_of(r.split.units, hints)}{mark}")
    if not parts:
        parts = [str(value.hint[d])]
    if ours and not split_shown:
        parts[-1] += f"@{axis}"
    return parts[0] if len(parts) == 1 else f"({' '.join(parts)})"


def explain_groups(problem: Problem, groups, ways, chosen, placements, costs):
    """One entry per message of the forward, in order."""
    from .plan import Reshard

    users = _users(problem, chosen)
    entries = []
    for group in groups:
        kind, backward = conversion(group[0].src, group[0].dst)
        if kind == "none" and backward == "none":
            continue
        values = [problem.values[c.value] for c in group]
        asker = users.get((group[0].value, group[0].dst))
        first = values[0]
        entries.append(
            Reshard(
                kind=kind,
                backward=backward if first.diff else "none",
                module=_module(asker, first),
                source=_source(asker, first),
                before=tuple(layout_text(v, c.src, costs.axis, problem.hints) for v, c in zip(values, group)),
                after=tuple(layout_text(v, c.dst, costs.axis, problem.hints) for v, c in zip(values, group)),
                bytes=sum(int(sent(kind, v.bytes, costs.p)) for v in values),
                seconds=sum(costs.change(c) for c in group),
                reason=_reason(asker, chosen, group[0]),
                alternative=_alternative(problem, asker, ways, chosen, placements, costs),
                values=tuple(v.name for v in values),
            )
        )
    return tuple(e for e in entries if e.kind != "none")


def _users(problem: Problem, chosen) -> dict:
    users: dict = {}
    for op, s in chosen.items():
        for v, need in zip(op.operands, s.needs):
            users.setdefault((v.id, need), op)
    return users


def _module(op: Op | None, v: Value) -> str:
    from ..capture import module_path

    return op.module if op is not None else module_path(v.node)


def _source(op: Op | None, v: Value) -> str:
    from ..capture import source_line

    return op.source if op is not None else source_line(v.node)


def _reason(op: Op | None, chosen, change) -> str:
    if op is None:
        return "the spec's output asks for the whole value"
    s = chosen[op]
    name = op_name(op)
    if s.part is None:
        return f"{name} runs {s.kind}"
    pr = op.projection
    what = pr.names[s.part[0]]
    whole = [n for n, k in zip(pr.names, pr.kinds) if k == "whole"]
    rule = f"; its rule wants {', '.join(whole)} whole" if whole else ""
    return f"{name} is split over its factor {what}{rule}"


def op_name(op: Op) -> str:
    return str(op.node.target)


def _alternative(problem: Problem, op: Op | None, ways, chosen, placements, costs) -> str:
    """The best other strategy of the operator that asked, from where its operands are now."""
    if op is None:
        return "none: the output's mode decides"
    best = None
    for s in ways[op]:
        if s == chosen[op]:
            continue
        seconds, moves = costs.operator(op, s) - costs.operator(op, chosen[op]), []
        for v, need in zip(op.operands, s.needs):
            r = costs.reshard(v, placements[v.id], need)
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


def needs_rule(op: Op, values: list[Value]) -> Fault:
    """An operator without a rule would gather a split value."""
    draft = op.error.problems[0] if op.error else None
    return Fault(
        what=f"operator {op_name(op)} has no rule, and its operand {values[0].name} is split",
        rule="an operator without a rule runs whole, only where that gathers no split value",
        fix=draft.fix if draft else "write a rule for it",
        where=f"{op.source or op.node.name} (module {op.module or '<root>'})",
    )


def summary(plan) -> str:
    """A few lines: each kind of collective of each place, alike ones of repeated layers as one."""
    rows: dict[tuple, list] = {}
    for r in plan.reshards:
        if r.kind == "slice":
            continue
        place = re.sub(r"\.\d+(?=\.|$)", ".*", r.module) or "<model>"
        key = (r.kind, place, r.before, r.after)
        rows.setdefault(key, []).append(r)
    lines = [f"plan: {plan.axis}={plan.p}, attention {plan.attention}, {len(plan.problem.ops)} operators"]
    for (kind, place, before, after), found in rows.items():
        r = found[0]
        lines.append(f"  {len(found)} x {kind} at {place}: {size(r.bytes)} sent by a rank each, {duration(r.seconds)}")
        for b, a in zip(before, after):
            lines.append(f"      {b} -> {a}")
        lines.append(f"      why: {r.reason}")
    lines += [f"  note: {n}" for n in plan.notes]
    total = sum(r.bytes for r in plan.reshards)
    lines.append(f"  forward sends {size(total)} a rank")
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
