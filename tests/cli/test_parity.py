"""`autosp parity` as its users call it: words, exit codes, errors."""

from __future__ import annotations

import json
import re

import pytest
import torch
from click.testing import CliRunner

from autosp.cli import main
from autosp.parity.messages import as_fields, page
from autosp.parity.trial import Trial, build
from autosp.parity.trial import run as train
from autosp.parity.verdict import Distance, Verdict
from tests.execute.odd import SPEC

MODEL = "tests.execute.odd"


@pytest.fixture
def spec(tmp_path):
    path = tmp_path / "odd.spec"
    path.write_text(SPEC)
    return str(path)


def run(*args: str):
    return CliRunner().invoke(main, ["parity", "--simulate", "--lr", "0.1", "--seq", "12", *args])


def test_an_exact_model(spec):
    result = run("--model", f"{MODEL}:Mixing", "--spec", spec, "--sp", "3")
    assert result.exit_code == 0, result.output
    head, loss, parameters, gradients, end = result.output.strip().splitlines()
    assert head == (
        "tests.execute.odd:Mixing: 3 steps of sgd, dp 1 x sp 3, batch 2, length 12, mask none, labels full, fp32, "
        "a DeviceMesh"
    )
    assert loss.endswith("(bar 1e-05)") and parameters.endswith("(bar 1e-05)") and gradients.startswith("  gradients ")
    assert end == "the sharded run equals the unsharded one"


def test_for_a_machine(spec):
    found = json.loads(run("--model", f"{MODEL}:Mixing", "--spec", spec, "--json").output)
    assert found["exact"] and found["gap"]["ratio"] <= 1 and found["trial"]["sp"] == 2 and found["refusal"] is None


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_model_that_is_tested_is_the_users(precision):
    """Casting it to a precision leaves complex numbers complex, and whole ones whole."""
    model, _ = build(Trial(f"{MODEL}:Rotated", precision=precision))
    found = {name: x.dtype for name, x in (*model.named_parameters(), *model.named_buffers())}
    low = torch.bfloat16 if precision == "bf16" else torch.float32
    own = {"turn": torch.complex64, "freqs": torch.complex64, "counts": torch.int64}
    assert found == own | dict.fromkeys(("embed.weight", "head.weight", "head.bias"), low)


def test_complex_buffers_and_parameters_are_exact(spec):
    result = run("--model", f"{MODEL}:Rotated", "--spec", spec, "--sp", "3", "--seq", "13")
    assert result.exit_code == 0, result.output


def test_a_refusal_is_a_failure_in_four_parts(spec):
    result = run("--model", f"{MODEL}:Fourier", "--spec", spec)
    assert result.exit_code == 1
    assert "refused:\nerror: operator aten.fft_fft.default has no rule" in result.output
    assert "  --> odd.py" in result.output and "= rule: " in result.output and "= fix: " in result.output


def test_a_forward_that_takes_what_no_spec_names():
    result = run("--model", f"{MODEL}:Mixing")
    assert result.exit_code == 1
    assert "the forward of Mixing takes idx, targets" in result.output
    assert "or let pkg.mod:factory return (model, inputs)" in result.output


def test_a_model_that_fails_without_autosp_says_so_in_four_parts(tmp_path):
    """`x` is made with another width than the model's."""
    path = tmp_path / "wide.spec"
    path.write_text("mesh    [dp: local, sp]\ninput   x  [batch@dp, seq@sp, hidden]\n")
    result = run("--model", "tests.engine.test_foreign:Branches", "--spec", str(path))
    assert result.exit_code == 1 and isinstance(result.exception, SystemExit)
    lines = result.output.strip().splitlines()
    what = r"error: Branches fails unsharded, in plain PyTorch, on a made-up batch: RuntimeError: (addmm: )?mat1 and mat2 .*"
    assert re.fullmatch(what, lines[0])  # addmm: from torch 2.15 on
    assert re.fullmatch(r"  --> linear.py:\d+ in forward: return F.linear\(.*\) \(inner, a Linear\)", lines[1])
    assert lines[2:] == [
        "   = rule: a sharded run is compared with the unsharded one",
        "   = fix: let pkg.mod:factory return (model, inputs) with a batch that it takes, or mend that line",
    ]


@pytest.mark.parametrize("kind", ["Raises", "Branches"])
def test_what_no_graph_can_hold_is_refused_in_four_parts(kind, tmp_path):
    path = tmp_path / "net.spec"
    path.write_text("mesh    [dp: local, sp]\ninput   x  [batch@dp, seq@sp, hidden]\n")
    result = run("--model", f"tests.cli.foreign:{kind}", "--spec", str(path), "--steps", "1")
    assert result.exit_code == 1
    parts = [
        line
        for line in result.output.splitlines()
        if re.match(r"error: |  --> test_foreign.py:|   = (rule|fix): ", line)
    ]
    assert len(parts) == 4, result.output


def test_attention_is_that_of_a_model_inside_and_of_no_model_of_anothers(spec):
    model, _ = build(Trial("tests.execute.families:LlamaDistilled", attn="eager"))
    assert {model.student.config._attn_implementation, model.teacher.config._attn_implementation} == {"eager"}
    result = run("--model", f"{MODEL}:Mixing", "--spec", spec, "--attn", "eager")
    assert result.exit_code == 1 and result.output.strip() == (
        "error: Mixing neither is nor holds a transformers model, whose attention may be chosen\n"
        "   = rule: --attn names an implementation of transformers' own\n"
        "   = fix: drop --attn: the model's attention is what its forward says"
    )


def test_a_loss_of_few_bits_is_held_to_no_less_than_it_resolves():
    """Two rows' loss in bf16: the unsharded program's own rounding may be small by luck."""
    apart, lucky = Distance(loss=0.0096, parameters=0.0037), Distance(loss=0.0030, parameters=0.0036)
    assert apart.share(lucky, torch.finfo(torch.bfloat16).eps) < 1 < apart.share(lucky, 0.0)
    model, batch = torch.nn.Linear(4, 1), {"input": torch.ones(2, 4)}
    trial = Trial("none", steps=1)
    found = train(
        trial,
        model.bfloat16(),
        lambda *_: {"input": batch["input"].bfloat16()},
        [0],
        call=lambda input: model(input).mean(),
    )
    assert found.resolution == torch.finfo(torch.bfloat16).eps


def test_packed_rows_are_compared_without_a_cache_which_is_said():
    """To people and to machines; of other rows nothing is said."""
    for mask, told in (("packed", True), ("none", False)):
        verdict = Verdict(Trial(model="LlamaForCausalLM", mask=mask), failure="not run")
        assert ("\n  use_cache is off in both runs" in page(verdict)) == told == bool(as_fields(verdict)["notes"])


def test_what_the_simulator_cannot_do():
    result = run("--model", f"{MODEL}:Mixing", "--zero", "1")
    assert result.exit_code == 2 and "--simulate runs no autocast and no DeepSpeed engine" in result.output


def test_another_number_of_ranks_is_planned_as_the_first_one():
    """What a spec maps is tried for each, on one trace: half of 12 tokens is an even number, a quarter is not."""
    from autosp.parity.sharded import Refusal, Simulator
    from autosp.spec import parse

    simulator, spec = Simulator(), parse(SPEC + "map part over seq\n")
    trials = (Trial(f"{MODEL}:Alternating", sp=sp, lengths=(12,), steps=1) for sp in (2, 4))
    two, four = (simulator.run(trial, spec) for trial in trials)
    assert not isinstance(two, Refusal)
    assert isinstance(four, Refusal) and four.what.startswith("positions along 'seq' mix in module 'part': run in 4 ")
    assert len(simulator._planners) == 1
