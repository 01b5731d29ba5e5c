"""How often a model is compiled: twice for any number of lengths or counts, more often never silently, and what is said
when Dynamo compiles no further names the argument that changed. One process; on two ranks see paths.py."""

from __future__ import annotations

import warnings

import pytest
import torch
import torch.distributed as dist

import autosp
from autosp.engine import compiles
from tests.engine import golden
from tests.engine.tiny import Out, Tiny, batch

pytestmark = pytest.mark.usefixtures("world_of_one")


@pytest.fixture
def mesh() -> dist.device_mesh.DeviceMesh:
    torch._dynamo.reset()  # models of one class share what Dynamo counts
    return dist.init_device_mesh("cpu", (1, 1), mesh_dim_names=("dp", "sp"))


class Scaled(Tiny):
    def forward(self, input_ids, labels=None, attention_mask=None, scale=1.0):
        loss, logits = super().forward(input_ids, labels, attention_mask)
        return Out(loss * scale, logits)


@pytest.mark.parametrize("what", ["lengths", "numbers"])
def test_the_argument_that_changed_is_named_where_no_more_is_compiled(mesh, monkeypatch, what):
    monkeypatch.setattr(compiles, "LIMIT", 2)
    lengths = what == "lengths"
    model = autosp.compile(Scaled(), "causal_lm", mesh=mesh, backend="eager", dynamic=False if lengths else None)

    def call(n: int):
        return model(**batch(length=n)) if lengths else model(**batch(), scale=n / 16)

    with torch._dynamo.config.patch(recompile_limit=2, accumulated_recompile_limit=2):
        call(16), call(24)
        with pytest.raises(autosp.CaptureError) as raised:
            call(20)
        golden.expect("compiles", f"too_many_{what}", str(raised.value))
        exec(raised.value.problems[0].fix.rpartition("both limits: ")[2])  # the advice
        call(20), call(28)


def test_no_cap_of_dynamos_lies_below_our_limit(mesh):
    model = autosp.compile(Scaled(), "causal_lm", mesh=mesh, backend="eager")
    with torch._dynamo.config.patch(accumulated_recompile_limit=2):
        losses = [model(**batch(), scale=1.0 + n).loss for n in range(4)]
    torch.testing.assert_close(torch.stack(losses), losses[0] * torch.arange(1.0, 5.0))


def test_the_programs_of_a_model_are_counted_apart_from_what_others_used_up(mesh, monkeypatch):
    monkeypatch.setattr(compiles, "LIMIT", 2)
    with torch._dynamo.config.patch(recompile_limit=2, accumulated_recompile_limit=2):
        other = autosp.compile(Scaled(), "causal_lm", mesh=mesh, backend="eager")
        other(**batch(), scale=1.0), other(**batch(), scale=2.0)
        model = autosp.compile(Scaled(), "causal_lm", mesh=mesh, backend="eager")
        with pytest.raises(autosp.CaptureError, match="Scaled was compiled 0 times"):
            model(**batch())


def test_many_compilations_are_said_once_and_end_nothing(mesh):
    """More than Dynamo's own limit of eight; given as a tensor, as the error advises, the number needs one program."""
    model = autosp.compile(Scaled(), "causal_lm", mesh=mesh, backend="eager")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for n in range(10):
            model(**batch(), scale=1.0 + n)
    told = [str(w.message) for w in said if "was compiled" in str(w.message)]
    assert told == ["autosp: Scaled was compiled 9 times. What changed: 'scale' was 6.0, 7.0, 8.0, 9.0 (9 in all)"]
    assert len(model._compiled_call_impl.backend.plans) == 10
    other = autosp.compile(Scaled(), "causal_lm", mesh=mesh, backend="eager")
    for n in range(10):
        other(**batch(), scale=torch.tensor(1.0 + n))
    assert len(other._compiled_call_impl.backend.plans) == 1


def test_what_cannot_be_planned_for_all_lengths_is_planned_for_each(mesh):
    """A length that the forward turns into a number is no symbol any more; nobody asked for one."""
    model = autosp.compile(Fixed(), "causal_lm", mesh=mesh, backend="eager")
    reference = Fixed()
    for n in (16, 20, 24, 28):
        assert torch.equal(model(**batch(length=n)).loss, reference(**batch(length=n)).loss)
    assert len(model._compiled_call_impl.backend.plans) == 4


class Fixed(Tiny):
    def loss(self, logits, labels):
        length = logits.shape[1]
        return super().loss(logits, labels) * {16: 1.0, 20: 2.0, 24: 3.0, 28: 4.0}[length]


def test_no_text_is_left_over():
    assert golden.names("compiles") == {"too_many_lengths", "too_many_numbers"}
