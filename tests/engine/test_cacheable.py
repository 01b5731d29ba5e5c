"""What keys a local graph in PyTorch's cache of compiled programs, beside its code."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from autosp.engine import cacheable, inner
from autosp.engine.inner import compile_inner
from autosp.lower.conversions import mean_over, scale_gradient
from autosp.rules import user
from autosp.rules.book import shipped_rules

NAME = "autosp.lower.conversions.scale_gradient"


def graph(*calls) -> fx.GraphModule:
    made = fx.Graph()
    x = made.placeholder("x")
    for call, *args in calls:
        x = made.call_function(call, (x, *args))
        x.meta["nn_module_stack"] = {"L": ("model.layers.0", torch.nn.Linear)}
    made.output(x)
    return fx.GraphModule({}, made)


def marked(gm: fx.GraphModule) -> dict[str, str] | None:
    return cacheable.marked(gm, [torch.ones(2)])


def key(gm: fx.GraphModule) -> str:
    (found,) = set(marked(gm).values())
    return found


def test_our_functions_are_named_and_torch_s_are_not():
    gm = graph((torch.ops.aten.relu.default,), (torch.sin,), (scale_gradient, 0.5), (mean_over, "0", 2))
    assert list(marked(gm)) == ["autosp", "autosp.lower.conversions.mean_over", NAME]
    assert list(marked(graph((torch.sin,)))) == ["autosp"], "metadata and sources key a graph without them too"


def test_a_function_that_was_made_for_a_model_is_not_kept():
    def scale_gradient(x, factor):
        return x * factor

    scale_gradient.__module__ = "autosp.lower.conversions"
    assert marked(graph((scale_gradient, 2.0))) is None, "it only has the other's name"


def test_an_operator_of_somebody_s_own_is_not_kept():
    """Its backward is in no key: changed, it would be the old one's."""

    @torch.library.custom_op("cacheable_test::doubled", mutates_args=())
    def doubled(x: torch.Tensor) -> torch.Tensor:
        return x * 2

    assert marked(graph((torch.ops.cacheable_test.doubled.default,))) is None


def test_what_a_graph_holds_of_its_own_is_not_looked_into():
    gm = graph((scale_gradient, 0.5))
    gm.add_submodule("body", graph((torch.sin,)))
    assert marked(gm) is None


def test_an_attribute_that_is_no_tensor_is_not_in_the_key():
    gm = graph((scale_gradient, 0.5))
    with gm.graph.inserting_before(gm.graph.output_node()):
        gm.constant = torch.ones(2)
        gm.graph.create_node("get_attr", "constant")
    assert marked(gm) is None
    del gm.constant
    gm.register_buffer("constant", torch.ones(2))
    assert list(marked(gm)) == ["autosp", NAME], "a buffer is an input of what is compiled"


def test_lengths_that_are_symbols_are_compiled_by_each_process():
    symbolic = FakeTensorMode(shape_env=ShapeEnv()).from_tensor(torch.ones(8, 2))
    gm = graph((scale_gradient, 0.5))
    assert isinstance(symbolic.shape[0], torch.SymInt)
    assert cacheable.marked(gm, [symbolic]) is cacheable.marked(gm, [symbolic.shape[0]]) is None


def test_what_may_not_be_kept_is_compiled_without_the_cache(monkeypatch):
    """A part's calls are not looked at by the cache, which would keep them by their names."""
    seen = []
    monkeypatch.setattr(inner, "inductor", lambda *args: seen.append(torch._functorch.config.enable_autograd_cache))
    gm = graph((scale_gradient, 0.5))
    compile_inner("inductor", gm, [torch.ones(2)])
    gm.add_submodule("body", graph((torch.sin,)))
    compile_inner("inductor", gm, [torch.ones(2)])
    assert seen == [True, False] and torch._functorch.config.enable_autograd_cache


@pytest.mark.parametrize(
    "name, value",
    [
        ("nn_module_stack", {"L": ("model.layers.1", torch.nn.Linear)}),  # a partitioner names what it saves by it
        ("custom", {"autosp_tile": ("loss", 1)}),
        ("recompute", torch.utils.checkpoint.CheckpointPolicy.MUST_RECOMPUTE),
    ],
)
def test_metadata_that_partitioners_read_is_part_of_the_key(name: str, value: object):
    gm = graph((scale_gradient, 0.5))
    before = key(gm)
    gm.graph.find_nodes(op="call_function", target=scale_gradient)[0].meta[name] = value
    assert key(gm) != before == key(graph((scale_gradient, 0.5)))


def test_rules_of_the_user_are_part_of_the_key(monkeypatch):
    monkeypatch.setattr(user, "REGISTERED", [])
    before = key(graph((scale_gradient, 0.5)))
    user.REGISTERED[:] = list(shipped_rules().rules[:1])
    assert key(graph((scale_gradient, 0.5))) != before


def test_our_sources_are_part_of_the_key(monkeypatch, tmp_path):
    package = tmp_path / "autosp"
    package.mkdir()
    (package / "a.py").write_text("x = 1\n")
    monkeypatch.setattr(cacheable, "PACKAGE", package)
    found = []
    for text in ("x = 1\n", "x = 2\n"):
        (package / "a.py").write_text(text)
        cacheable._sources.cache_clear()
        found.append(key(graph((scale_gradient, 0.5))))
    cacheable._sources.cache_clear()
    assert found[0] != found[1]


def test_the_key_is_alike_in_every_process():
    code = (
        "from tests.engine.test_cacheable import graph, key, scale_gradient\nprint(key(graph((scale_gradient, 0.5))))"
    )
    seeds = ({**os.environ, "PYTHONHASHSEED": seed, "DS_ACCELERATOR": "cpu"} for seed in ("1", "2"))
    runs = [subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True) for env in seeds]
    assert runs[0].stdout == runs[1].stdout != "", runs
