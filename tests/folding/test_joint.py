"""The joint graph of many equal layers, traced for a few and stamped, is the one that a trace of them all gives."""

from __future__ import annotations

from collections.abc import Hashable

import pytest
import torch
from torch import fx, nn

import autosp
from autosp.folding import find_repetitions, shortened, stretched
from autosp.recompute import decision
from autosp.recompute.joint import Joint, read_joint
from autosp.recompute.trace import KEPT, default_saved, joint_graph, trace_joint
from tests.execute.families import build


def deep(name: str, layers: int) -> nn.Module:
    config = build(name).config
    setattr(config, "n_layer" if hasattr(config, "n_layer") else "num_hidden_layers", layers)
    if getattr(config, "layer_types", None):
        config.layer_types = [config.layer_types[i % 2] for i in range(layers)]
    with torch.device("meta"):
        return type(build(name))(config).train()


def what_is_traced(model: nn.Module, sp: int, monkeypatch, spec: str | None = None, **inputs) -> tuple:
    """The local graph, the examples and the decompositions that a plan's decision traces."""

    class Asked(Exception):
        pass

    def asked(*args):
        raise Asked(args)

    monkeypatch.setattr(decision, "trace_joint", asked)
    ids = torch.zeros(1, 64, dtype=torch.long, device="meta")
    with pytest.raises(Asked) as raised:
        autosp.plan(model, {"input_ids": ids, "labels": ids, **inputs}, spec, sp=sp, device="cpu")
    return raised.value.args[0]


def told(joint: Joint) -> list[Hashable]:
    """All that the choice of what is saved reads of a joint graph, with nodes and storages by their place."""
    place = {n: i for i, n in enumerate(joint.nodes)}

    def call(n: fx.Node) -> Hashable:
        values = fx.map_arg((n.args, dict(n.kwargs)), lambda x: f"%{place[x]}")
        stacks = [str(list((n.meta.get(k) or {}).values())) for k in ("nn_module_stack", "fwd_nn_module_stack")]
        custom = {k: v for k, v in (n.meta.get("custom") or {}).items() if k != "autosp_part"}
        own = str(n.target) if n.op != "placeholder" else "input"
        return n.op, own, repr(values), *stacks, n.meta.get("stack_trace"), str(custom)

    def at(nodes) -> list[int]:
        return [place[n] for n in nodes]

    def storages(of) -> list:
        return sorted((place[n], [s.id for s in found]) for n, found in of.items())

    return [
        [call(n) for n in joint.nodes if n.op != "output"], *map(at, (joint.forward, joint.backward, joint.tangents)),
        *map(at, (joint.outputs, joint.results)), *map(storages, (joint.of, joint.makes, joint.needs)),
        [(s.id, place[s.maker], place[s.head], s.bytes, s.layer) for s in joint.storages],
        sorted(joint.gradients), sorted(at(joint.numbers)), joint.inputs,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "layers", "period"),
    [
        ("LlamaForCausalLM", 8, 1), ("MistralForCausalLM", 7, 1), ("GPT2LMHeadModel", 7, 1), ("Gemma2ForCausalLM", 14, 2),
        ("BertForMaskedLM", 7, 1),
    ],
)  # fmt: skip
def test_what_is_stamped_is_what_is_traced(name: str, layers: int, period: int, monkeypatch):
    assert_stamped(*what_is_traced(deep(name, layers), 2, monkeypatch), [layers // period])


def test_frozen_layers_are_of_another_kind(monkeypatch):
    model = deep("LlamaForCausalLM", 9)
    model.model.embed_tokens.requires_grad_(False)
    model.model.layers[:2].requires_grad_(False)
    assert_stamped(*what_is_traced(model, 2, monkeypatch), [7])


def test_layers_whose_results_are_all_read_at_the_end_are_traced_whole(monkeypatch):
    local, examples, _ = what_is_traced(deep("MixtralForCausalLM", 7), 2, monkeypatch)
    assert shortened(local, find_repetitions(local, examples), KEPT) is None


def assert_stamped(local: fx.GraphModule, examples, decompositions, parts: list[int]) -> None:
    """The joint graph is stamped from that of runs of so many parts, and is the one that is traced."""
    short = shortened(local, find_repetitions(local, examples), KEPT)
    assert [len(run) for run in short.runs] in (parts, [n - 1 for n in parts])  # where a part begins within a layer
    traced = joint_graph(short.graph, [examples[i] for i in short.of], decompositions)
    assert stretched(traced[0], short, local) is not None
    stamped, gm = trace_joint(local, examples, decompositions)
    flat, outputs = joint_graph(local, examples, decompositions)
    whole = read_joint(flat, outputs)
    for ours, expected in zip(told(stamped), told(whole), strict=True):
        assert ours == expected
    assert default_saved(stamped, gm, outputs) == default_saved(whole, flat, outputs)
