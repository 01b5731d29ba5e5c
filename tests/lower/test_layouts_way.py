"""One layout followed from the text of a spec to the collective, value by value, as docs/architecture.md names them."""

from autosp.lower import Rank, convert, lower
from autosp.sharding import INVARIANT, PARTIAL, Sharding, Split, transition
from autosp.sharding.transitions import ALL_TO_ALL
from autosp.solve.candidates import Region
from autosp.solve.solver import seeds
from autosp.syntax import parse_layout
from tests.architecture import WAY
from tests.lower.models import Toy, captured, planned


def test_in_eight_hops_from_text_to_collective():
    assert len(WAY) == 8
    layout = parse_layout("[batch@dp, seq@sp, hidden]")
    program = Toy("fused")
    graph, _ = captured(program)
    x = next(p.node for p in graph.placeholders if p.name == "x")
    assert graph.layouts[x] == layout
    plan = planned(program, 2)
    given = next(v for v in plan.problem.values if v.node.name == x)
    (region,) = [r for r in seeds(plan.problem, graph.layouts)[given] if "sp" in r.axes]
    assert region == Region(Split(1, 1, 12, 1), ("sp",), "seq", solved=True)

    attention = next(op for op in plan.chosen if "attention" in str(op.node.target))
    query, need = attention.operands[0], plan.chosen[attention].needs[0]
    assert need == Sharding.alone("sp", Split(1, 1, 2, 2)) and region.name in {r.name for r in query.regions}
    (change,) = [c for c in plan.changes if c.value == query.id]
    assert (change.src, change.dst) == (Sharding.alone("sp", Split(2, 1, 2, 6)), need)

    local = lower(plan, Rank(1, "group"))
    calls = [n for n in local.graph.nodes if n.target is convert]
    (call,) = [n for n in calls if change.src.on("sp") in n.args[1] and need.on("sp") in n.args[2]]
    row = transition(call.args[1][0], call.args[2][0])
    assert row.forward.wire is row.backward.wire is ALL_TO_ALL
    last = transition(PARTIAL, INVARIANT)
    assert (last.forward.kind, last.backward.kind) == ("all_reduce", "none")
