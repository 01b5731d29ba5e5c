"""`autosp demo` as a launcher, around a training script of a few lines that needs no DeepSpeed."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from autosp.cli import demo, main

SCRIPT = """
import argparse, os, sys, time, torch

def build_model(args):
    torch.manual_seed(0)
    return Model()

class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(4, 1)
    def forward(self, x):
        return argparse.Namespace(loss=self.linear(x).square().mean())

def build_optimizer(model): return torch.optim.Adam(model.parameters())
def read_windows(args): return torch.arange(4.0)
def batch_of(windows, args, step, dp_rank): return {"x": windows + step}

def arguments(argv=None):
    parser = argparse.ArgumentParser()
    for name in ("sp", "dp", "seq", "zero", "steps"):
        parser.add_argument("--" + name, type=int)
    for name in ("backend", "model", "text", "save"):
        parser.add_argument("--" + name)
    return parser.parse_args(argv)

if __name__ == "__main__":
    args, rank = arguments(), int(os.environ["RANK"])
    model, windows = build_model(args), read_windows(args)
    optimizer = build_optimizer(model)
    print("DeepSpeed some_op built successfully")
    print("the plan", flush=True)
    for step in range(args.steps):
        FAULT
        optimizer.zero_grad()
        loss = model(**batch_of(windows, args, step, 0)).loss
        loss.backward()
        optimizer.step()
        if rank == 0:
            print(f"step {step + 1}/{args.steps}  loss {loss.item():.6f}  {10} tokens/s", flush=True)
    if rank == 0:
        torch.save(model.state_dict(), args.save)
"""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Runs the demo around the script, with a fault in each rank's loop."""

    def run(*flags: str, fault: str = "pass") -> Result:
        script = tmp_path / "train.py"
        script.write_text(SCRIPT.replace("FAULT", fault))
        monkeypatch.setattr(demo, "example", lambda name: script)
        return CliRunner().invoke(main, ["demo", "--steps", "3", *flags])

    return run


def test_the_command_is_listed():
    assert re.search(r"^  demo +Train a small model", CliRunner().invoke(main, ["--help"]).output, re.MULTILINE)


def test_a_line_a_step_and_the_gap_at_the_end(run):
    result = run()
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert lines[0].startswith("llama, windows of 512 bytes, 2 processes (dp 1 x sp 2) on gloo, ZeRO-1")
    assert lines[1] == "the plan" and "built successfully" not in result.output
    assert [line[:8] for line in lines[2:5]] == ["step 1/3", "step 2/3", "step 3/3"]
    assert lines[-1] == "the sharded run equals the unsharded one"


def test_no_check_ends_after_the_last_step(run):
    assert run("--no-check").output.splitlines()[-1].startswith("step 3/3")


def test_a_difference_is_a_miss_and_a_failure(run):
    result = run(fault="model.linear.weight.data += 1e-3")
    assert result.exit_code == 1
    assert "MISS" in result.output and "linear.weight" in result.output


def test_a_failing_rank_is_named_and_the_others_do_not_hang(run):
    begin = time.monotonic()
    result = run(fault="rank == 1 and 1 / 0; time.sleep(100)")
    assert result.exit_code == 1 and time.monotonic() - begin < 60
    assert "rank 1 failed with exit code 1" in result.output and "ZeroDivisionError" in result.output


def test_an_error_of_autosp_is_shown_without_its_traceback(run):
    result = run(fault='from autosp.errors import *; raise EngineError(Problem("it broke", "r", "f"))')
    assert "rank 0 failed with exit code 1:\nerror: it broke\n   = rule: r\n   = fix: f" in result.output
    assert "Traceback" not in result.output


def test_a_text_shorter_than_a_window_is_refused(run, tmp_path):
    text = tmp_path / "short.txt"
    text.write_text("too short")
    result = run("--text", str(text))
    assert result.exit_code == 2 and "holds 9 bytes, less than one window of 512" in result.output
