"""One rank of several, run in this process: its collectives go to a group that sends nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import attrs
import torch
import torch.distributed as dist
from torch import fx, nn

from autosp.engine.inner import compile_inner, compiler_of
from autosp.engine.traced import planned
from autosp.lower import Rank, band, lower
from autosp.recompute import Decision, decide, tile
from autosp.recompute.trace import trace_joint
from autosp.solve import Plan
from autosp.spec import parse
from autosp.spec.policies import as_recompute
from tests.recompute.measured import Bytes, step

SPEC = """
mesh [sp]
input input_ids [batch, seq@sp]
input labels [batch, seq@sp]
output loss []
output logits none
attention ulysses
"""
SP = 4


@contextmanager
def silent_group(size: int = SP) -> Iterator[str]:
    """The name of a process group of `size` whose collectives do nothing: values are wrong, sizes right."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=size)
    try:
        yield dist.init_device_mesh("cpu", (size,), mesh_dim_names=("sp",)).get_group("sp").group_name
    finally:
        dist.destroy_process_group()


@attrs.frozen(eq=False, slots=False)
class One:
    """The first rank's program of a model."""

    model: nn.Module
    plan: Plan
    local: fx.GraphModule
    examples: tuple
    inner: str

    @cache  # noqa: B019  # of a few values, for a process
    def joint(self):
        return trace_joint(self.local, self.examples, compiler_of(self.inner, ()).decompositions())[0]

    @cache  # noqa: B019
    def decide(self, setting: str, limit: int | None = None) -> Decision:
        return decide(
            self.local, self.examples, as_recompute(setting, None, "test"), device=self.plan.device, p=self.plan.p,
            limit=limit, plan=self.plan.fingerprint(), compiler=compiler_of(self.inner, ()),
        )  # fmt: skip

    def measure(self, decision: Decision) -> Bytes:
        """What a step holds, the second one: the first compiles."""
        run = compile_inner(self.inner, self.local, self.examples, decision.choice)

        def forward() -> torch.Tensor:
            (loss,) = (x for x in run(*self.examples) if isinstance(x, torch.Tensor))
            return loss

        forward().backward()
        for p in self.model.parameters():
            p.grad = None
        return step(forward)


def one_rank(model: nn.Module, inputs: dict, group: str, spec: str = SPEC, inner: str = "aot_eager", tiles=()) -> One:
    torch._dynamo.reset()
    plan, _, examples = planned(model, inputs, parse(spec), sp=SP)[:3]
    local = lower(plan, Rank(0, group, complete=False))
    band(local)
    return One(model, plan, tile(local, tiles)[0], examples, inner)


def causal_lm(kind: str, length: int = 1024, **sizes) -> tuple[nn.Module, dict]:
    """A model of transformers by its configuration's name, without weights from anywhere, and a batch."""
    import transformers

    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(vocab_size=512, use_cache=False, **sizes)
    ids = torch.randint(512, (1, length))
    return transformers.AutoModelForCausalLM.from_config(config).train(), {"input_ids": ids, "labels": ids}


def llama(layers: int = 4, length: int = 1024, **config) -> tuple[nn.Module, dict]:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = dict(vocab_size=512, hidden_size=128, intermediate_size=352, num_attention_heads=8, num_key_value_heads=4)
    model = LlamaForCausalLM(LlamaConfig(**sizes, num_hidden_layers=layers, use_cache=False, **config)).train()
    ids = torch.randint(512, (1, length))
    return model, {"input_ids": ids, "labels": ids}
