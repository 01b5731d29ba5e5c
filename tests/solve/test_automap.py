"""Modules around operators without a rule: mapped where a run proves it, else refused with the true reason."""

from __future__ import annotations

import attrs
import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

import autosp
from autosp.engine.planning import planned
from autosp.errors import PlanError, RuleError
from autosp.parity.judging import judge
from autosp.parity.messages import page
from autosp.parity.trial import Trial
from autosp.passes import Context, NeedsSymbols, Program, fixed_lengths, sharded
from autosp.rules import default_rules, read, user
from autosp.rules.book import RuleBook
from autosp.solve import automap, positionwise
from autosp.solve.trial_graph import compared_with
from autosp.spec import parse
from tests.execute import experts

LINE = "map mixture.experts over seq"


def plan_of(model: torch.nn.Module, spec: str = experts.SPEC, sp: int = 3, length: int = 14, batch: int = 2):
    idx = torch.randint(0, 64, (batch, length), generator=torch.Generator().manual_seed(1))
    return planned(model.train(), {"idx": idx, "targets": idx.roll(1, 1)}, parse(spec), sp=sp)


def refusal_of(model: torch.nn.Module, **kw) -> RuleError:
    with pytest.raises(RuleError) as error:
        plan_of(model, **kw)
    return error.value


def parity(name: str, spec: str = experts.SPEC, **fields):
    trial = Trial(f"tests.execute.experts:{name}", **{"spec": spec, "sp": 3, "lengths": (14,), "lr": 0.1} | fields)
    return judge(trial, simulate=True)


@pytest.mark.parametrize(("sp", "length"), [(3, 14), (4, 3)], ids=["uneven", "some ranks hold nothing"])
def test_experts_that_nobody_mapped_are_exact_with_a_balance_over_all_tokens(sp: int, length: int):
    verdict = parity("Dropless", sp=sp, lengths=(length,), steps=2)
    assert verdict.exact, page(verdict)


@pytest.mark.parametrize("dynamic", [False, True])
def test_what_an_own_backward_gives_the_experts_is_split_with_them(dynamic: bool):
    """The program for one length has numbers for its symbols, in the bodies of an autograd.Function too."""
    lengths = (14, 17) if dynamic else (14,)
    verdict = parity("Sparse", steps=2, dynamic=dynamic, lengths=lengths)
    assert verdict.exact, page(verdict)


@pytest.mark.parametrize("counts", [False, True], ids=["a loss of its own", "how often a token occurs"])
@pytest.mark.parametrize("claimed", [False, True], ids=["found", "claimed by a map line"])
def test_a_small_dependence_on_all_positions_is_seen(counts: bool, claimed: bool):
    """A gradient of 1e-4 beside those of the results; a number that random ones hardly hit."""
    spec = experts.SPEC + "map mixture over seq\n" if claimed else experts.SPEC
    with pytest.raises((RuleError, PlanError)) as error:
        plan_of(experts.Inside(counts), spec, sp=2, length=64)
    assert "mix" in error.value.problems[0].what and "its result differs by" in str(error.value)


def test_only_they_run_per_shard_and_the_plan_says_so():
    model = experts.Net()
    before = {name: x.clone() for name, x in model.state_dict().items()}
    torch.manual_seed(7)
    state = torch.get_rng_state()
    plan, *_ = plan_of(model)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())
    (said,) = [note for note in plan.notes if "map " in note]
    assert said.startswith(f"{LINE}: found, and proved on random data in ") and said.endswith(" s")
    named = [op for op in plan.problem.ops if automap.KEY in op.node.meta]
    assert [op.node.meta[automap.KEY].path for op in named] == ["mixture.experts"]
    assert not [r for r in plan.reshards if r.kind != "slice" and "experts" in r.module]


def test_a_mapped_plan_is_the_plan_of_the_spec_that_maps():
    ours, theirs = (plan_of(experts.Net(), spec)[0] for spec in (experts.SPEC, f"{experts.SPEC}\n{LINE}\n"))
    assert ours.fingerprint() == theirs.fingerprint()


def test_experts_with_room_for_so_many_tokens_mix_them_and_are_refused():
    error = refusal_of(experts.Net(experts.Limited))
    (problem,) = error.problems
    assert problem.what.startswith(
        "operator autosp_tests.grouped.default has no rule, and its operand index is split; positions along 'seq' mix "
        "in module mixture.experts around it: run in 3 shards on random data, its result differs by "
    )
    assert problem.rule == automap.RULE and "experts.py" in problem.where
    (rule,) = read(problem.fix.partition("\n")[2])
    assert RuleBook((rule,)).names() == ("autosp_tests.grouped.default",)


def test_a_limit_that_the_length_never_reaches_is_none():
    """On 14 positions it is right, forward and backward; a plan for all lengths would not be."""
    plan, *_ = plan_of(experts.Net(experts.Unlimited))
    assert any(LINE in note for note in plan.notes)
    (op,) = [op for op in plan.problem.ops if automap.KEY in op.node.meta]
    said = op.node.meta[automap.KEY]
    op.node.meta[automap.KEY] = attrs.evolve(said, hints={})  # as where the lengths stay symbols
    assert positionwise.positionwise(op, dict(said.hints), 3).mixes


def test_what_random_data_cannot_tell_is_refused_with_the_line_that_works():
    (problem,) = refusal_of(experts.Net(experts.Checked)).problems[:1]
    assert (
        "was not found out: it does not run on random data: ValueError: values from -1 to 1 are wanted" in problem.what
    )
    assert problem.fix == f"if none there depends on another, add a line to the spec: {LINE}"
    verdict = parity("Unproved", f"{experts.SPEC}\n{LINE}\n", steps=1)
    assert verdict.exact, page(verdict)


def test_a_module_that_is_called_twice_is_two_calls():
    verdict = parity("Twice", steps=1)
    assert verdict.exact, page(verdict)


def test_a_model_too_large_to_run_is_proved_in_a_smaller_size():
    with torch.device("meta"):
        model = experts.Net(width=1 << 14)
    ids = torch.zeros(1, 4096, dtype=torch.long, device="meta")
    plan = autosp.plan(model, {"idx": ids, "targets": ids}, parse(experts.SPEC), sp=8)
    assert any(note.startswith(LINE) for note in plan.notes)


def test_lengths_that_a_caller_traced_as_numbers_are_named_with_what_to_do():
    from autosp.capture import trace
    from autosp.engine.dynamo_backend import ends
    from autosp.engine.marks import layout_of
    from autosp.sharding import MeshAxis
    from autosp.solve import load_device

    spec = parse(experts.SPEC)
    idx = torch.zeros(2, 14, dtype=torch.long)
    captured, _ = trace(experts.Net(), {"idx": idx, "targets": idx}, layout_of=lambda n, x: layout_of(spec, n, x))
    with pytest.raises(NeedsSymbols) as needed:
        context = Context(ends=lambda c: ends(spec, c), axis=MeshAxis("sp", 2), device=load_device("cpu"))
        sharded(Program(captured), context)
    (problem,) = fixed_lengths(needed.value).problems
    assert "torch._dynamo.maybe_mark_dynamic(tensor, dim)" in problem.fix and "mixture.experts" in problem.fix


def test_the_rule_that_an_error_drafts_can_be_added_and_then_the_model_is_exact(tmp_path, monkeypatch):
    from click.testing import CliRunner

    from autosp.cli import main

    monkeypatch.setenv("AUTOSP_RULES", str(tmp_path / "rules"))
    model = experts.Net(experts.Limited)
    draft = refusal_of(model).problems[0].fix.partition("\n")[2]
    file = tmp_path / "mine.rule"
    file.write_text(draft)
    result = CliRunner().invoke(main, ["rules", "add", str(file), "--import", "tests.execute.experts"])
    assert result.exit_code == 0 and "installed" in result.output
    assert default_rules().by_name["autosp_tests.grouped.default"] and user.folder().exists()
    verdict = parity("DropsSome", steps=1)
    assert verdict.exact, page(verdict)


def test_only_numbers_that_a_value_is_compared_with_are_drawn():
    """An index of experts is compared with nothing: one that is too large reads what no one wrote."""

    def module(ids, index):
        chosen = (ids.view(-1).to(torch.int64) == 7) | (ids.view(-1) > 31)
        return index.view(-1).sort().values * chosen, index.clamp(max=3)

    graph = make_fx(module)(torch.zeros(2, 4, dtype=torch.int32), torch.zeros(8, dtype=torch.long))
    ids, index = graph.graph.find_nodes(op="placeholder")
    assert compared_with(ids) == {7, 31} and compared_with(index) == set()
