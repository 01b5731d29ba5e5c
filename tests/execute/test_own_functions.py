"""autograd.Functions with a backward of their own: split where both of their graphs allow it, else whole or refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from autosp.cli import main
from autosp.engine.resolve import spec_for
from autosp.engine.traced import planned
from autosp.errors import PlanError
from autosp.lower import Rank, lower
from autosp.parity.judging import judge
from autosp.parity.launch import launch
from autosp.parity.messages import page
from autosp.parity.trial import Trial
from autosp.parity.verdict import of_outcomes, references
from autosp.rules import RuleBook, default_rules, user
from autosp.sharding import Split
from autosp.solve.missing import gaps
from autosp.spec import parse
from tests.execute import own_functions as own

# The dims that operands and results are split over: 1 is the tokens' of [batch, tokens, features], None whole.
HOW = {
    "Activation": (1, 1),
    "Checkpointed": (1, 1),
    "StraightThrough": (1, 1),
    "ClippedGradient": (1, 1),
    "ClippedGradientNorm": (None, None),
    "ScaledGradient": (1, 1),
    "AuxiliaryLoss": (1, None, 1),
    "OwnLinear": (1, None, None, 1, "sum"),
    "FrozenLinear": (1, None, None, 1, "sum"),
    "AmpLinear": (None, 1, 1),
    "OwnNorm": (1, None, 1),
    "Rotary": (2, 2),  # of [batch, heads, tokens, features]
    "RunningSum": (2, 2),
    "Centring": (2, 2),
    "FusedLoss": (1, 1, None, "sum"),
    "FusedLossInChunks": (None, None, None, None),
    "Broadcast": (1, 1, None, 1),
    "FlatTokens": (0, 0),
    "TwoResults": (1, 1, 1),
    "Attributes": (1, 1, 1),
}

LIKE_OTHERS = "Checkpointed StraightThrough ScaledGradient FrozenLinear OwnNorm Centring TwoResults Attributes".split()


def trial(name: str, **fields) -> Trial:
    return Trial(f"tests.execute.own_functions:{name}", **{"spec": own.SPEC, "lr": 0.1, "labels": "prompt", **fields})


def plan_of(name: str, spec: str = own.SPEC):
    ids = torch.zeros(2, 9, dtype=torch.long)
    return planned(getattr(own, name)(), {"idx": ids, "targets": ids}, parse(spec), sp=2)[0]


@pytest.mark.parametrize("name", HOW)
def test_gradients_are_those_of_the_function_itself(name: str):
    """Nine tokens over two ranks: uneven, and the first rank has no valid label."""
    verdict = judge(trial(name, lengths=(9,)), simulate=True)
    assert verdict.exact, page(verdict)


@pytest.mark.parametrize("name", [name for name in HOW if name not in LIKE_OTHERS])
def test_it_is_split_where_both_graphs_allow_it(name: str):
    plan = plan_of(name)
    calls = [op for op in plan.chosen if op.own is not None]
    assert calls
    for op in calls:
        ends = [at.on(plan.axis) for at in (*plan.chosen[op].needs, *plan.chosen[op].gives)]
        assert (
            tuple(e.dim if isinstance(e, Split) else "sum" if e.value == "partial" else None for e in ends) == HOW[name]
        )


@pytest.mark.parametrize("name", ["ClippedGradientNorm", "FusedLossInChunks"])
def test_a_plan_says_why_a_function_runs_whole(name: str):
    word = {"ClippedGradientNorm": "aten.linalg_vector_norm", "FusedLossInChunks": "aten.split"}[name]
    (note,) = [n for n in plan_of(name).notes if "autograd.Function" in n]
    assert "runs whole on every rank: " + word in note


REFUSED = {
    "WritesItsInput": (
        ("an autograd.Function writes to its input", "'aten.mul_.Tensor' writes to the input"),
        "WritesNothing",
    ),
    "DrawsInside": ("the forward of an autograd.Function draws random numbers", "DrawsOutside"),
    "UnderVmap": ("Tripled, an autograd.Function, is called in a vmap", "BesideVmap"),
    "UnderScan": ("Tripled, an autograd.Function, is called in a vmap", "DetachedUnderScan"),
    "Branching": ("the forward of an autograd.Function holds 'cond'", "Choosing"),
    "Unmaterialised": (
        "an autograd.Function with several results, beside a call of ctx.set_materialize",
        "Materialised",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_no_graph_can_say_is_refused_and_the_fix_works(name: str):
    what, mended = REFUSED[name]
    verdict = judge(trial(name), simulate=True)
    assert verdict.refusal and verdict.refusal.what.startswith(what), page(verdict)
    for part in ("error: ", "\n  --> own_functions.py:", "\n   = rule: ", "\n   = fix: "):
        assert part in verdict.refusal.text
    verdict = judge(trial(mended), simulate=True)
    assert verdict.exact, page(verdict)


@pytest.mark.parametrize(("refused", "mended"), [("UnderVmap", "BesideVmap"), ("UnderScan", "DetachedUnderScan")])
def test_what_the_fix_says_is_the_same_function(refused: str, mended: str):
    ids, grads = torch.arange(18).view(2, 9), []
    for name in (refused, mended):
        torch.manual_seed(0)
        model = getattr(own, name)()
        model(ids, ids).backward()
        grads.append([p.grad for p in model.parameters() if p.grad is not None])
    torch.testing.assert_close(*grads)


RULES = ["x[*]) -> [*]\n     linear x", "x[a, b, c]) -> [a, b, c]\n     whole a, b, c"]


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("OwnOperator", RULES[0]),
        ("OwnOperator", RULES[1]),
        ("CustomOperator", RULES[0]),
        ("OperatorOfParts", RULES[0]),
        ("OperatorOfParts", RULES[1]),
    ],
)
def test_an_operator_without_a_rule_is_named_and_a_rule_mends_it(name: str, rule: str, tmp_path: Path, monkeypatch):
    """In a backward and by itself; one rule that splits, and one that is the draft of the error: whole."""
    monkeypatch.setenv("AUTOSP_RULES", str(tmp_path / "rules"))
    monkeypatch.setattr(user, "REGISTERED", [])
    operator = "autosp_tests.doubled.default"
    inside = f"the backward of an autograd.Function calls {operator}, which has no rule, and its operand"
    verdict = judge(trial(name), simulate=True)
    what = inside if name == "OwnOperator" else f"operator {operator} has no rule, and its operand"
    assert verdict.refusal.what.startswith(what)
    assert "'autosp rules add FILE.rule" in verdict.refusal.text
    (tmp_path / "own.rule").write_text(f"rule {operator}({rule}\n")
    added = CliRunner().invoke(main, ["rules", "add", str(tmp_path / "own.rule")])
    assert added.exit_code == 0, added.output
    verdict = judge(trial(name), simulate=True)
    assert verdict.exact, page(verdict)


def test_the_operators_of_both_bodies_are_missed():
    """As `autosp check --model` lists them."""
    plan = plan_of("Activation")
    assert not gaps(plan.problem.captured, default_rules())
    found = gaps(
        plan.problem.captured, RuleBook(tuple(r for r in default_rules().rules if "aten.tanh.default" not in r.targets))
    )
    assert [(g.operator, g.calls) for g in found if g.operator == "aten.tanh.default"] == [("aten.tanh.default", 4)]


def test_a_backward_that_is_not_linear_is_refused_where_gradients_are_weighed():
    plan = plan_of("ClippedGradient", own.SPEC + "reduce loss mean over [dp, sp]\n")
    mean = torch.ops.autosp.mean_over.default
    graph = plan.problem.captured.graph.graph
    loss = next(n for n in graph.nodes if n.op == "output").args[0][0]
    with graph.inserting_after(loss):
        graph.call_function(mean, (loss, "dp"))
    lower(plan, Rank(0, "none", others={"dp": ("none", 1)}))
    with pytest.raises(PlanError, match="is not linear in the gradient"):
        lower(plan, Rank(0, "none", others={"dp": ("none", 2)}))


TRIALS = [
    trial("Together", lengths=(9, 12), recompute="sac"),
    trial("Together", lengths=(9,), zero=1, lr=None, optimizer="adam", recompute="full"),
    *(
        pytest.param(each, marks=pytest.mark.slow)
        for each in (
            trial("Together", lengths=(12,), dynamic=True, recompute="sac budget 0.6"),
            trial("AmpLinear", precision="autocast"),
        )
    ),
    pytest.param(
        trial("Together", backend="inductor", recompute="sac"), marks=[pytest.mark.slow, pytest.mark.inductor]
    ),
]


@pytest.fixture(scope="module")
def verdicts(request: pytest.FixtureRequest) -> dict:
    """All selected trials, in one launch of two ranks."""
    items = [i for i in request.session.items if i.path == request.path and "run" in i.fixturenames]
    trials = [i.callspec.params["run"] for i in items]
    specs = [spec_for(t.spec, own.Together()) for t in trials]
    expected = [references(t, s) for t, s in zip(trials, specs, strict=True)]
    outcomes = launch(2, "autosp.parity.sharded:on_rank", list(zip(trials, specs, strict=True)), 240.0, deepspeed=True)
    return {t: of_outcomes(t, e, o) for t, e, o in zip(trials, expected, outcomes, strict=True)}


@pytest.mark.parametrize("run", TRIALS, ids=lambda t: f"{t.recompute or t.precision}-{t.backend}")
def test_in_real_processes(run: Trial, verdicts: dict):
    assert verdicts[run].exact, page(verdicts[run])
