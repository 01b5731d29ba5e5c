"""An independent witness: the published type checker of meta-pytorch/spmd_types infers every value's kind.

A rank's local graph is run operator by operator over a fake process group, under `spmd_types.checker.typecheck`.
Inputs and the results of our changes of placement (whose pairs are spmd_types' own) are given their kinds; for
every other operator spmd_types infers the kind from its operands' alone, and it has to be the one that we recorded.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from torch import fx
from torch.nn import functional as F

from autosp.engine.planning import planned
from autosp.engine.resolve import spec_for
from autosp.lower import Note, Rank, convert, lower
from autosp.parity.trial import Trial, batches, build
from tests.execute.matrix import trial

spmd = pytest.importorskip("spmd_types")
from spmd_types.checker import typecheck  # noqa: E402

aten = torch.ops.aten
KINDS = {"split": spmd.V, "partial": spmd.P, "replicate": spmd.R, "invariant": spmd.I}
REDUCTIONS = ("none", "mean", "sum")

# What spmd_types calls otherwise, or takes other arguments for.
SAID_OTHERWISE = {
    aten.cross_entropy_loss.default: lambda x, t, w=None, r=1, i=-100, s=0.0: F.cross_entropy(
        x, t, w, ignore_index=i, reduction=REDUCTIONS[r], label_smoothing=s
    ),
    aten.embedding.default: lambda w, i, padding=-1, *_: F.embedding(i, w, None if padding < 0 else padding),
    aten.slice.Tensor: lambda x, dim=0, a=None, b=None, step=1: x[
        (slice(None),) * (dim % x.ndim) + (slice(a, b, step),)
    ],
    aten.select.int: lambda x, dim, i: x.select(dim, i),
    aten.index.Tensor: lambda x, at: x[tuple(slice(None) if i is None else i for i in at)],
    aten.alias.default: lambda x: x.view_as(x),
    aten.new_ones.default: lambda x, size, **_: x.new_ones(size, dtype=torch.bool),
    # Of the dtype that it has, a partial sum stays one; spmd_types takes any cast for non-linear.
    aten.to.dtype_layout: lambda x, **kw: x.view_as(x) if kw["dtype"] is x.dtype else x.to(kw["dtype"]),
    aten.to.device: lambda x, device, dtype, *_, **__: x.to(dtype),
    aten.arange.default: lambda n, **kw: torch.arange(n),
}

# Where the two systems differ: a sum over a dim that is split is V to spmd_types, which knows no dims in its local
# mode, and its user says with `reinterpret(x, V, P)` that it is a partial sum; our rule says so (`reduce`).
SUMS = {
    "LlamaForCausalLM": ["aten.cross_entropy_loss.default"],
    "MixtralForCausalLM": ["aten.cross_entropy_loss.default", "aten.sum.dim_IntList"],
}


def kind_of(note: Note):
    return KINDS[note.sharding.on("sp").word]


class Witness(fx.Interpreter):
    """Runs a local graph under the checker; `found` holds every difference, `agreed` counts the rest."""

    def __init__(self, graph: fx.GraphModule, group):
        super().__init__(graph)
        self.group, self.found, self.agreed = group, [], 0

    def run_node(self, node: fx.Node):
        value = super().run_node(node)
        note = node.meta.get("autosp")
        if isinstance(value, torch.Tensor) and isinstance(note, Note):
            self._hold(node, value, note)
        return value

    def call_function(self, target, args, kwargs):
        if target is convert or getattr(target, "__module__", "").startswith("autosp"):
            with spmd.no_typecheck():
                return super().call_function(target, args, kwargs)
        return said(target)(*args, **kwargs) if isinstance(target, torch._ops.OpOverload) else target(*args, **kwargs)

    def _hold(self, node: fx.Node, value: torch.Tensor, note: Note) -> None:
        kind = kind_of(note)
        if node.op != "call_function" or _ours(node):
            spmd.assert_type(value, {self.group: kind})
            return
        inferred = spmd.maybe_get_axis_local_type(value, self.group)
        if inferred is kind:
            self.agreed += 1
            return
        self.found.append((str(node.target), str(inferred), str(kind)))
        spmd.mutate_type(value, self.group, src=inferred, dst=kind)


def _ours(node: fx.Node) -> bool:
    source = node.args[0] if node.target.__name__ == "getitem" else node
    return getattr(source.target, "__module__", "").startswith("autosp")


def said(target: torch._ops.OpOverload):
    """The function of torch that an ATen operator is, as TorchFunction modes see it."""
    if target in SAID_OTHERWISE:
        return SAID_OTHERWISE[target]
    name = target._schema.name.split("::")[1]
    for place in (F, torch, torch.Tensor):
        if hasattr(place, name) and not (place is F and name in ("relu",)):
            return getattr(place, name)
    return target


@pytest.fixture
def group() -> Iterator:
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", rank=0, world_size=2, store=FakeStore())
    mesh = dist.init_device_mesh("cpu", (2,), mesh_dim_names=("sp",))
    with spmd.set_current_mesh(mesh):
        yield mesh.get_group("sp")
    dist.destroy_process_group()


@pytest.mark.parametrize("row", ["LlamaForCausalLM", "MixtralForCausalLM"])
def test_spmd_types_infers_the_kinds_that_we_recorded(row: str, group) -> None:
    case: Trial = trial(row, "right")
    model, given = build(case)
    spec = spec_for(None, model)
    plan, _, examples = planned(model, batches(case, spec, model, given)(0, 0, 0), spec, sp=2)
    local = lower(plan, Rank(0, group.group_name))
    inputs = [x.node.hint if isinstance(x, torch.SymInt) else x for x in examples]
    witness = Witness(local, group)
    with typecheck():
        witness.run(*inputs)
    assert set(witness.found) == {(name, str(spmd.V), str(spmd.P)) for name in SUMS[row]}
    assert witness.agreed > 100
