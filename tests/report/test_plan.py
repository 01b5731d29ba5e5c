"""A plan with memory, as text, as tables and as fields."""

import io
import json

import attrs
import pytest
from rich.console import Console

from autosp.errors import PlanError
from autosp.recompute.tiling import Tiled
from autosp.report import Report
from autosp.solve.memory import Memory
from tests import expected
from tests.failures import without_counts
from tests.lower.models import Llama, planned

GIB = 2**30
MEMORY = Memory(
    parameters=15 * GIB,
    gradients=GIB // 2,
    optimizer=11 * GIB,
    saved={"residual": 4 * GIB, "attention": 2 * GIB, "loss": 4, "norm": 0},
    held=6 * GIB,
    transient=3 * GIB,
    phase="backward",
    at="mm in model.layers.*.mlp (llama.py:7 in forward: x[0])",
    assumptions=("the first thing", "[the second] thing"),
)


def with_memory():
    """A plan, and the same for a longer sequence."""
    plan = attrs.evolve(
        planned(Llama(layers=1), 4, "ulysses"), memory=MEMORY, length=8192, recompute="recompute sac budget auto",
        recomputed="the least time that fits", recompute_seconds=0.25,
        tiled=(Tiled("loss", "lm_head", 32, 32 * GIB, GIB, "llama.py:9"),),
    )  # fmt: skip
    return plan, attrs.evolve(plan, length=65536)


@pytest.fixture(scope="module")
def both():
    return with_memory()


@pytest.fixture
def plan(both):
    return both[0]


@pytest.fixture
def longer(both):
    return both[1]


def text(plan, longer) -> str:
    large = attrs.evolve(plan, memory=attrs.evolve(MEMORY, transient=60 * GIB))
    pages = {
        "it fits": Report(plan, longer).text(),
        "it does not fit, and no length does": Report(large).text(),
        "no gradient": Report(attrs.evolve(plan, memory=None), searched=False).text(),
    }
    return "\n".join(f"# {title}\n{page}\n" for title, page in pages.items())


def test_the_text(plan, longer):
    expected.expect("report/plan.txt", text(plan, longer), same=without_counts)


def test_a_plan_explains_itself_in_the_same_words(plan):
    assert plan.explain() == Report(plan, searched=False).text()


def test_a_terminal_gets_tables_with_the_same_words(plan, longer):
    console = Console(file=io.StringIO(), width=100, force_terminal=False)
    Report(plan, longer).draw(console)
    drawn = console.file.getvalue()
    words = {w for w in Report(plan, longer).text().split() if w.isalnum()}
    assert "│ residual" in drawn
    assert words <= set(drawn.replace("│", " ").split())
    assert "[the second] thing" in drawn


def test_the_fields_are_those_of_the_plan(plan, longer):
    found = json.loads(json.dumps(Report(plan, longer).fields()))
    own = {f.name for f in attrs.fields(type(plan)) if not f.name.startswith("_")}
    # told by reshards and the fingerprint
    inner = {"problem", "shardings", "chosen", "changes", "groups", "outputs", "answer"}
    assert own - inner <= set(found)
    assert found["mesh"] == {"sp": 4}
    assert (found["peak_bytes"], found["max_seq_len"], found["fits"]) == (plan.peak_bytes, 65536, True)
    assert found["memory"]["saved"]["residual"] == 4 * GIB
    assert found["memory"]["saved_bytes"] == 6 * GIB + 4
    assert found["step_seconds"] == pytest.approx(plan.compute_seconds + plan.communication_seconds + 0.25)
    assert found["tiled"][0]["tiles"] == 32
    assert [r["kind"] for r in found["reshards"]] == [r.kind for r in plan.reshards]


def test_no_length_and_no_search(plan):
    assert Report(plan).fields()["max_seq_len"] == 0
    assert Report(plan, searched=False).fields()["max_seq_len"] is None


@pytest.mark.parametrize("ask", ("peak_bytes", "max_seq_len"))
def test_a_plan_without_memory_says_where_to_get_one(plan, ask):
    bare = attrs.evolve(plan, memory=None)
    with pytest.raises(PlanError) as caught:
        bare.peak_bytes if ask == "peak_bytes" else bare.max_seq_len()
    assert str(caught.value) == (
        f"error: no memory was predicted for this plan, so it has no {ask}\n"
        f"  --> plan.{ask}\n"
        "   = rule: memory is predicted by autosp.plan, which knows the optimizer, the ZeRO stage and the device\n"
        "   = fix: ask autosp.plan(model, inputs, spec, sp=...)"
    )
