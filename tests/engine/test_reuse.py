"""A saved plan: what it serves, and what is refused because it was made for something else. One rank; two: paths.py."""

from __future__ import annotations

import json
import logging
import os
import pickle
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from click.testing import CliRunner

import autosp
from autosp.cli import main
from autosp.engine.compiles import Compiles
from autosp.engine.planning import planned
from autosp.recompute import Choice, Partitioner
from autosp.solve import solver
from tests.engine import golden
from tests.engine.tiny import Out, Tiny, batch

pytestmark = pytest.mark.usefixtures("world_of_one")


@pytest.fixture
def run(tmp_path):
    """Compiles a model, by the plan that was saved, and calls it once."""
    mesh = dist.init_device_mesh("cpu", (1, 1), mesh_dim_names=("dp", "sp"))

    def compiled(model=None, spec="causal_lm", inputs=None, plan=True, **options):
        torch._dynamo.reset()
        file = tmp_path / "plan.json" if plan else None
        made = autosp.compile(model or Tiny(), spec, mesh=mesh, **{"backend": "aot_eager", **options}, plan=file)
        made(**(inputs or batch()))
        return made

    return compiled


@pytest.fixture
def saved(run, tmp_path) -> Path:
    run(plan=False).autosp_plan.save(tmp_path / "plan.json")
    return tmp_path / "plan.json"


def test_a_plan_is_text_that_a_reader_and_a_differ_can_use(saved) -> None:
    fields = json.loads(saved.read_text())
    assert fields["autosp plan"] == 1
    assert fields["conditions"]["input 'input_ids'"] == "int64[2, 32]"
    assert fields["conditions"]["the axis"] == "sp=1"
    assert fields["conditions"]["autosp"] == autosp.__version__
    assert len(fields["answer"]) > 20 and fields["summary"]
    assert os.listdir(saved.parent) == ["plan.json"], "nothing half written is left"


def test_evaluation_and_other_lengths_are_planned_anew(run, saved, monkeypatch) -> None:
    searches = []
    real = solver._choose
    monkeypatch.setattr(solver, "_choose", lambda *args: searches.append(1) or real(*args))
    model = run()
    assert not searches
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        other, whole = model(**batch(length=40)), Tiny()(**batch(length=40))
        model(**batch(length=44))
    torch.testing.assert_close(other.loss, whole.loss)
    golden.expect("reuse", "other_lengths", without_path(str(caught[0].message), saved))
    assert len(caught) == len(searches) == 1
    with torch.no_grad():
        torch.testing.assert_close(model(**batch()).loss, Tiny()(**batch()).loss)
    assert len(searches) == 2


def for_all_lengths(run, saved, **options) -> None:
    model = run(plan=False, **options)
    model(**batch(length=40)).loss.backward()
    model.autosp_plan.save(saved)


def test_a_plan_for_all_lengths_waits_for_the_second(run, saved, monkeypatch) -> None:
    for_all_lengths(run, saved)
    with pytest.warns(UserWarning, match="is not for what is compiled now, which is planned anew"):
        model = run()
    monkeypatch.setattr(solver, "_choose", None)
    torch.testing.assert_close(model(**batch(length=44)).loss, Tiny()(**batch(length=44)).loss)


def test_what_is_saved_under_a_budget_is_for_lengths_up_to_the_next_power_of_two(run, saved) -> None:
    for_all_lengths(run, saved, recompute="sac budget 2MiB")
    with pytest.warns(UserWarning, match=r"planned anew: input 'input_ids'.*\[2, n up to 64\]' then"):
        model = run(recompute="sac budget 2MiB")
    assert model(**batch(length=44)).loss.isfinite()
    with pytest.warns(UserWarning, match="the least peak is"):  # decided for these lengths
        model(**batch(length=1000))


def test_a_stale_plan_for_all_lengths_is_refused_and_no_reason_to_compile_each(run, saved) -> None:
    for_all_lengths(run, saved)
    with pytest.warns(UserWarning, match="planned anew"):
        model = run(model=Wider())
    for length in (40, 44):
        with pytest.raises(autosp.PlanError, match="is stale: the model's program"):
            model(**batch(length=length))


def test_a_constant_that_has_changed_is_seen(run, saved) -> None:
    """It changes no shape."""
    run(model=Constant(1), plan=False).autosp_plan.save(saved)
    run(model=Constant(1))
    with pytest.raises(autosp.PlanError, match="is stale: the model's program"):
        run(model=Constant(2))


class Constant(Tiny):
    def __init__(self, dim: int):
        super().__init__()
        self.dim = dim

    def attend(self, x, attention_mask):
        return super().attend(x, attention_mask) + x.softmax(self.dim)


def test_a_pass_that_is_left_out_makes_another_plan(run, saved, monkeypatch) -> None:
    monkeypatch.setenv("AUTOSP_SKIP", "tile")
    with pytest.raises(autosp.PlanError, match="passes left out: 'none' then, 'tile' now"):
        run()


def test_the_plan_of_an_evaluation_is_not_saved(run, saved) -> None:
    model = run()
    with torch.no_grad():
        model(**batch())
    with pytest.raises(autosp.PlanError, match="this plan is of no training step"):
        model.autosp_plan.save(saved)


def test_what_is_no_path_is_refused_before_anything_is_compiled(run, saved) -> None:
    mesh = dist.init_device_mesh("cpu", (1, 1), mesh_dim_names=("dp", "sp"))
    with pytest.raises(autosp.PlanError) as raised:
        autosp.compile(Tiny(), "causal_lm", mesh=mesh, plan=run().autosp_plan)
    golden.expect("reuse", "no_path", str(raised.value))


def test_where_a_plan_cannot_be_written(run, saved) -> None:
    with pytest.raises(autosp.PlanError) as raised:
        run().autosp_plan.save("absent/plan.json")
    golden.expect("reuse", "unwritable", str(raised.value))
    asked = ["plan", "--model", "llama-3.1-8b", "--save", "absent/plan.json"]
    assert "there is no folder 'absent'" in CliRunner().invoke(main, asked).output


def test_a_saved_plan_has_the_mode_of_any_new_file(saved) -> None:
    other = saved.with_name("other")
    other.write_text("")
    assert saved.stat().st_mode == other.stat().st_mode


class Wider(Tiny):
    """Another program of the same inputs and weights."""

    def forward(self, input_ids, labels=None, attention_mask=None):
        loss, logits = super().forward(input_ids, labels, attention_mask)
        return Out(loss * 2, logits)


class Frozen(Tiny):
    """On one rank its layouts are those of the whole."""

    def __init__(self):
        super().__init__()
        self.embed.requires_grad_(False), self.norm.requires_grad_(False)


Wider.__name__ = Frozen.__name__ = "Tiny"


STALE = {
    "recompute": {"recompute": "full"},
    "device": {"device": "h100-80gb"},
    "backend": {"backend": "inductor"},
    "spec": {"spec": str(autosp.load("causal_lm")).replace("attention ulysses", "attention gather")},
    "inputs": {"inputs": {**batch(), "attention_mask": torch.ones(2, 32, dtype=torch.long)}},
    "dtype": {"model": Tiny().bfloat16()},
    "program": {"model": Wider()},
    "frozen": {"model": Frozen()},
}


@pytest.mark.parametrize("what", STALE)
def test_a_stale_plan_is_refused_by_what_differs(run, saved, what) -> None:
    with pytest.raises(autosp.PlanError) as raised:
        run(**STALE[what])
    golden.expect("reuse", f"stale_{what}", without_path(str(raised.value), saved))
    run(**STALE[what], plan=False).autosp_plan.save(saved)  # the advice
    run(**STALE[what])


DAMAGED = {
    "absent": None,
    "no_json": "a plan",
    "another_json": '{"fingerprint": 1}',
    "a_list": "[1]",
    "another_format": '{"autosp plan": 2}',
    "fields_missing": '{"autosp plan": 1, "answer": []}',
    "a_field_of_another_type": '{"autosp plan": 1, "decision": 3}',
    "an_answer_of_words": '{"autosp plan": 1, "decision": null, "answer": ["a"]}',
    "conditions_in_a_list": '{"autosp plan": 1, "decision": null, "answer": [], "conditions": []}',
}


@pytest.mark.parametrize("what", DAMAGED)
def test_a_file_that_holds_no_plan_is_refused_when_the_model_is_compiled(run, saved, what) -> None:
    saved.unlink() if DAMAGED[what] is None else saved.write_text(DAMAGED[what])
    with pytest.raises(autosp.PlanError) as raised:
        run()
    golden.expect("reuse", f"file_{what}", without_path(str(raised.value), saved))


def test_an_answer_to_another_program_is_refused(run, saved) -> None:
    fields = json.loads(saved.read_text())
    fields["answer"] = fields["answer"][:-1]
    saved.write_text(json.dumps(fields))
    with pytest.raises(autosp.PlanError, match=r"an answer of .* choices, found by .*, names strategies"):
        run()


def test_a_plan_that_holds_more_than_there_is_room_for_is_refused(run, saved) -> None:
    run(plan=False, recompute="sac budget 50MiB", inputs=batch(length=512)).autosp_plan.save(saved)
    fields = json.loads(saved.read_text())
    fields["decision"] |= {"held": 2**30, "limit": 2**31}  # as on a device with more memory
    saved.write_text(json.dumps(fields))
    with pytest.raises(autosp.PlanError) as raised:
        run(recompute="sac budget 50MiB", inputs=batch(length=512))
    golden.expect("reuse", "too_large", without_path(str(raised.value), saved))


def test_a_plan_of_the_solver_alone_is_not_saved(tmp_path) -> None:
    plan, *_ = planned(Tiny(), batch(), "causal_lm", sp=2)
    with pytest.raises(autosp.PlanError) as raised:
        plan.save(tmp_path / "plan.json")
    golden.expect("reuse", "nothing_to_save", str(raised.value))
    assert not os.listdir(tmp_path)


def test_the_command_line_saves_one(tmp_path, run, monkeypatch) -> None:
    file = tmp_path / "plan.json"
    asked = ["plan", "--model", "tests.engine.tiny:Tiny", "--spec", "causal_lm", "--sp", "1", "--seq", "32"]
    settings = ["--batch", "2", "--device", "cpu", "--dtype", "fp32", "--recompute", "sac", "--no-max"]
    outcome = CliRunner().invoke(main, [*asked, *settings, "--save", str(file)])
    assert outcome.exit_code == 0, outcome.output
    monkeypatch.setattr(solver, "_choose", None)
    run(backend="inductor", device="cpu", recompute="sac")


def test_each_recompilation_is_a_line_with_its_reason(run, caplog) -> None:
    with caplog.at_level(logging.WARNING, "autosp"):
        model = run(plan=False)
        assert not caplog.messages
        model(**batch(length=40)), model(**batch(length=44)), model(**batch(length=48))
        with torch.no_grad():
            model(**batch(length=40))
    assert caplog.messages == [
        "autosp: Tiny is compiled for the 2nd time: 'input_ids' was int64[2, 32] and is int64[2, 40]; "
        "'labels' was int64[2, 32] and is int64[2, 40]",
        "autosp: Tiny is compiled for the 3rd time: the mode was training and is evaluation",
    ]


def test_what_no_argument_tells_of_a_recompilation(caplog) -> None:
    calls = Compiles("Tiny")
    with caplog.at_level(logging.WARNING, "autosp"):
        calls.note(batch(), True), calls.note(batch(), True), calls.note(batch(), False), calls.note(batch(), True)
    assert [text.split(": ", 2)[2] for text in caplog.messages] == [
        "nothing of its arguments; TORCH_LOGS=recompiles names what it was that changed",
        "the mode was training and is evaluation",
        "the mode was evaluation and is training",
    ]


def test_a_choice_is_pickled_alike_in_every_process() -> None:
    """Inductor keys its caches on the pickled partitioner."""
    code = (
        "import hashlib, pickle; from autosp.recompute import Choice, Partitioner\n"
        "keys = [(f'model.layers.{i}', 'mm', i, 0) for i in range(20)]\n"
        "print(hashlib.sha256(pickle.dumps(Partitioner(Choice(frozenset(keys), frozenset(keys[:9]))))).hexdigest())"
    )
    seeds = ({**os.environ, "PYTHONHASHSEED": seed, "DS_ACCELERATOR": "cpu"} for seed in ("1", "2"))
    hashes = [subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True) for env in seeds]
    assert hashes[0].stdout == hashes[1].stdout != "", hashes
    choice = Choice(frozenset({("a", "mm", 0, 0)}), frozenset(), "plan", True)
    assert pickle.loads(pickle.dumps(Partitioner(choice))).choice == choice


@pytest.mark.slow
def test_a_warm_start_solves_nothing_and_compiles_nothing(tmp_path) -> None:
    """In a process of its own each: the second finds the program, and both graphs, in PyTorch's caches."""
    environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache"), "DS_ACCELERATOR": "cpu"}
    runs = [
        subprocess.run([sys.executable, "-c", START, *last], env=environment, capture_output=True, text=True)
        for last in ([str(tmp_path / "plan.json")], [str(tmp_path / "plan.json"), "again"])
    ]
    cold, warm = (run.stdout.strip().splitlines()[-1] for run in runs)
    assert "(solved)" in cold and cold.endswith("Inductor's cache: 0 hits, 2 misses since"), runs[0]
    assert "plan.json')" in warm and "Inductor's cache: 2 hits, 0 misses since; " in warm, runs[1]
    assert warm.endswith("; the whole was in PyTorch's cache"), runs[1]


START = """
import sys, torch.distributed as dist, autosp
from tests.engine.tiny import Tiny, batch
dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
mesh = dist.init_device_mesh("cpu", (1, 1), mesh_dim_names=("dp", "sp"))
file = sys.argv[1] if sys.argv[2:] else None
model = autosp.compile(Tiny(), "causal_lm", mesh=mesh, recompute="sac", plan=file)
for _ in range(3):
    model(**batch()).loss.backward()
model.autosp_plan.save(sys.argv[1])
print(autosp.measure(model).compiled)
"""


def without_path(text: str, file: Path) -> str:
    return re.sub(r"\b[0-9a-f]{8,16}\b", "DIGEST", text.replace(str(file), "plan.json"))
