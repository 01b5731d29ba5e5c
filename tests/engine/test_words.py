"""Faults that one process can meet alone, each by its exact text: specs, meshes, graphs that break, the store."""

from __future__ import annotations

import datetime

import pytest
import torch
import torch.distributed as dist

import autosp
from autosp.engine import agree, messages
from autosp.engine.agree import Agreement
from autosp.engine.failures import broken_graph
from autosp.engine.mesh import Mesh, axis_size_problem
from autosp.errors import AutospError, CaptureError, EngineError, RankError, SpecError
from tests.engine import golden
from tests.engine.tiny import Tiny, batch

pytestmark = pytest.mark.usefixtures("world_of_one")


@pytest.fixture
def mesh() -> dist.device_mesh.DeviceMesh:
    return dist.init_device_mesh("cpu", (1, 1), mesh_dim_names=("dp", "sp"))


def fault(kind: type[AutospError], act) -> str:
    with pytest.raises(kind) as caught:
        act()
    assert type(caught.value) is kind
    for problem in caught.value.problems:
        assert problem.where and problem.what and problem.rule and problem.fix
    return str(caught.value)


def test_a_family_that_does_not_exist(mesh):
    text = fault(SpecError, lambda: autosp.compile(Tiny(), "lama", mesh=mesh))
    first, *_, rule, fix = text.splitlines()
    assert first == "error: no spec 'lama'"
    assert rule.startswith("   = rule: a spec is a path to a file, or one of ") and " llama," in rule
    assert fix == "   = fix: did you mean 'llama'?"


SPECS = {
    "spec_names_no_axis": "mesh [dp: local, sp]\ninput input_ids [batch@dp, seq@ps]\n",
    "spec_does_not_parse": "mesh [dp: local, sp]\ninput input_ids [batch@dp seq@sp]\n",
    "spec_names_no_argument": "mesh [dp: local, sp]\ninput inputs_ids [batch@dp, seq@sp]\n",
    "spec_names_no_module": "mesh [dp: local, sp]\ninput input_ids [batch@dp, seq@sp]\n"
    "constrain qkw output [batch@dp, seq@sp, hidden]\n",
    "spec_has_two_axes_to_split": "mesh [dp, sp]\ninput input_ids [batch@dp, seq@sp]\n",
}


@pytest.mark.parametrize("name", SPECS)
def test_a_wrong_spec(name, mesh):
    kind = EngineError if name == "spec_has_two_axes_to_split" else SpecError
    golden.expect("words", name, fault(kind, lambda: autosp.compile(Tiny(), SPECS[name], mesh=mesh)))


def other_mesh(names: tuple[str, ...] | None) -> dist.device_mesh.DeviceMesh:
    return dist.init_device_mesh("cpu", (1, 1), mesh_dim_names=names)


def wrapped() -> torch.nn.Module:
    return torch.nn.parallel.DistributedDataParallel(Tiny())


WRONG = {
    "no_mesh": lambda mesh: autosp.compile(Tiny(), "causal_lm"),
    "mesh_without_the_axis": lambda mesh: autosp.compile(Tiny(), "causal_lm", mesh=other_mesh(("dp", "ps"))),
    "mesh_without_names": lambda mesh: autosp.compile(Tiny(), "causal_lm", mesh=other_mesh(None)),
    "unknown_backend": lambda mesh: autosp.compile(Tiny(), "causal_lm", mesh=mesh, backend="aot-eager"),
    "unknown_grad_reduce": lambda mesh: autosp.compile(Tiny(), "causal_lm", mesh=mesh, grad_reduce="sum"),
    "wrapped_before": lambda mesh: autosp.compile(wrapped(), "causal_lm", mesh=mesh),
}


@pytest.mark.parametrize("name", WRONG)
def test_compiled_wrongly(name, mesh):
    golden.expect("words", name, fault(EngineError, lambda: WRONG[name](mesh)))


class Branching(Tiny):
    def attend(self, x, attention_mask):
        if x.sum() > 0:
            x = x + 1
        return super().attend(x, attention_mask)


class Misshapen(Tiny):
    def loss(self, logits, labels):
        return torch.nn.functional.cross_entropy(logits.view(7, -1), labels.flatten())


class Starred(Tiny):
    def forward(self, *inputs):
        return super().forward(*inputs)


BREAKS = {
    "branch": Branching,
    "shape": Misshapen,
}


@pytest.mark.parametrize("name", BREAKS)
def test_a_model_that_breaks_the_graph(name, mesh):
    model = autosp.compile(BREAKS[name](), "causal_lm", mesh=mesh, backend="aot_eager")
    golden.expect("words", f"graph_{name}", fault(CaptureError, lambda: model(**batch())))


def test_a_break_that_we_have_no_words_for():
    """Dynamo's explanation stands for ours; its hints and its debug text are left out."""
    message = "Unsupported thing\n  Explanation: Dynamo cannot trace it.\n  Hint: no.\n\n  Developer debug context: x"
    golden.expect("words", "graph_of_unknown_break", str(broken_graph(message, [], Tiny())))


def test_a_forward_without_names(mesh):
    model = autosp.compile(Starred(), mesh=mesh, backend="aot_eager")
    ids = batch()["input_ids"]
    golden.expect("words", "forward_without_names", fault(autosp.errors.InputError, lambda: model(ids, ids)))


def test_a_timeout_that_is_no_number(monkeypatch):
    monkeypatch.setenv("AUTOSP_TIMEOUT", "10m")
    golden.expect("words", "timeout_is_no_number", fault(EngineError, agree.timeout_seconds))


def test_an_axis_that_does_not_divide_the_world():
    golden.expect("words", "axis_does_not_divide", str(axis_size_problem("sp", 3, 4)))
    assert all(axis_size_problem("sp", n, 4) is None for n in (1, 2, 4))


def test_a_store_that_is_gone():
    """The process that holds the store has ended: an error at once, and no wait for the timeout."""
    server = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    client = dist.TCPStore("127.0.0.1", server.port, is_master=False, timeout=datetime.timedelta(seconds=5))
    agreement = Agreement(Mesh("sp", {"sp": 2}, 0, None, "", (0, 1), (0, 1)))
    del server
    text = fault(RankError, lambda: agreement._wait(client, "autosp/1/1", 1, "batch", deadline=0.0))
    golden.expect("words", "store_is_gone", text)


def test_a_failure_in_one_line():
    assert messages.reason(ValueError("a\nb")) == "ValueError: a"
    assert messages.reason(KeyboardInterrupt()) == "KeyboardInterrupt"


def test_no_text_is_left_over():
    wrong = {f"graph_{name}" for name in BREAKS} | set(SPECS) | set(WRONG)
    alone = {"forward_without_names", "timeout_is_no_number", "axis_does_not_divide"}
    alone |= {"store_is_gone", "graph_of_unknown_break"}
    assert golden.names("words") == wrong | alone
