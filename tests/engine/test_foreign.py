"""Exceptions that are not autosp's come in four parts, with the user's line; the user's own keep their type."""

from __future__ import annotations

import pickle

import pytest
import torch

import autosp
from autosp.errors import CaptureError

SPEC = """
mesh    [dp: local, sp]
input   x  [batch@dp, seq@sp, hidden]
"""


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = torch.nn.Linear(4, 4)

    def forward(self, x):
        return self.mix(self.inner(x)).mean()


class Raises(Net):
    def mix(self, x):
        raise ValueError("no good: 'x' is too short")


class Guards(Net):
    def mix(self, x):
        torch._assert((x > 0).all(), "positive")
        return x


class Branches(Net):
    def mix(self, x):
        return x * 2 if x.sum() > 0 else x


class Fails(Net):
    def mix(self, x):
        return x @ x


class Covaries(Net):
    def mix(self, x):
        return torch.cov(x.flatten(0, 1).T)


class CovariesWritten(Net):
    """What the refusal of `Covaries` says to write."""

    def mix(self, x):
        rows = x.flatten(0, 1)
        rows = rows - rows.mean(0)
        return rows.T @ rows / (rows.shape[0] - 1)


class Counts(Net):
    """Experts as loops over the rows of each: Dynamo's error leaves it bare."""

    def mix(self, x):
        rows, expert = x.flatten(0, 1), x.flatten(0, 1).argmax(-1)
        order = expert.argsort(stable=True)
        return torch.cat([*rows[order].split(torch.bincount(expert, minlength=4).tolist())])


def refusal(model: Net) -> CaptureError:
    with pytest.raises(CaptureError) as caught:
        autosp.plan(model, {"x": torch.ones(2, 8, 4)}, SPEC, sp=2, device="cpu", dtype=torch.float32)
    text = str(caught.value)
    for part in ("error: ", "\n  --> test_foreign.py:", "\n   = rule: ", "\n   = fix: "):
        assert part in text, text
    assert len(text.splitlines()) == 4
    return caught.value


def test_an_operator_that_reads_values_is_written_in_others():
    (problem,) = refusal(Covaries()).problems
    assert problem.what == "the model breaks the graph: Data dependent operator"
    assert "products and sums for a covariance" in problem.fix
    written, own = CovariesWritten(), Covaries()
    own.load_state_dict(written.state_dict())
    x = torch.randn(2, 8, 4, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(written(x), own(x), rtol=1e-5, atol=1e-7)
    plan = autosp.plan(written, {"x": x}, SPEC, sp=2, device="cpu", dtype=torch.float32)
    assert plan.reshards


def test_an_operator_that_fails_is_told_once(caplog):
    """PyTorch logs what it raises, with its own frames, and would print that above the error."""
    refusal(Fails())
    assert not [record for record in caplog.records if "failed while attempting" in record.getMessage()]


def test_an_exception_of_the_forward_keeps_its_type_and_message():
    error = refusal(Raises())
    assert isinstance(error, ValueError) and isinstance(error, CaptureError)
    assert error.problems[0].what == "the forward raises ValueError: no good: 'x' is too short"
    assert type(error.__cause__) is ValueError and str(error.__cause__) == "no good: 'x' is too short"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


@pytest.mark.parametrize(
    ("model", "what"),
    [
        (Counts, "the model breaks the graph: it needs u0 in Python, a number that only the data tell"),
        (Branches, "the model breaks the graph: Data-dependent branching"),
        (Fails, "an operator of the model fails on these inputs: RuntimeError: "),
    ],
)
def test_what_dynamo_raises(model, what):
    assert refusal(model()).problems[0].what.startswith(what)


def test_an_assertion_that_guards_on_data():
    """From torch 2.15 on Dynamo keeps it as one that runs; the ranks then agree on what it sees."""
    if tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 15):
        plan = autosp.plan(Guards(), {"x": torch.ones(2, 8, 4)}, SPEC, sp=2, device="cpu", dtype=torch.float32)
        assert any("aten.eq.Scalar needs it whole" in each.reason for each in plan.reshards)
    else:
        what = "the model breaks the graph: it decides by Eq(u0, 1), a number that only the data tell"
        assert refusal(Guards()).problems[0].what.startswith(what)


def test_what_a_compiler_raises():
    from autosp.compat.torch import BackendCompilerFailed
    from autosp.engine.failures import as_raised

    inner = KeyError("a kernel")
    raised = as_raised(BackendCompilerFailed(lambda gm, x: gm, inner, None), Net())
    assert isinstance(raised, CaptureError) and raised.__cause__ is inner
    assert raised.problems[0].what == "the compiler fails on the program: KeyError: 'a kernel'"
