"""Grouped heads: keys and values are as few as the model has, the numbers the unsharded program's, and faults found."""

from __future__ import annotations

from collections.abc import Callable

import attrs
import pytest
import torch
from torch import fx, nn
from torch.nn import functional as F

from autosp.capture.copies import copy_graph
from autosp.engine.traced import planned
from autosp.errors import CheckError
from autosp.lower import Rank, check, check_groups, group, lower
from autosp.parity.judging import judge
from autosp.parity.messages import page
from autosp.parity.trial import Trial
from autosp.passes import Context, Program, run
from autosp.solve import load_device
from autosp.spec import load, parse
from tests.execute.families import build

aten = torch.ops.aten
SDPA = aten.scaled_dot_product_attention.default

LLAMA = Trial("tests.execute.families:LlamaForCausalLM", sp=2, lengths=(32,), lr=0.1)  # 8 heads, 4 of keys
TRIALS = {
    "llama": LLAMA,
    "one rank": attrs.evolve(LLAMA, sp=1),
    "3 ranks have 2, 1 and 1 heads of keys": attrs.evolve(LLAMA, sp=3, lengths=(29,)),
    "a mask of data": attrs.evolve(LLAMA, mask="right", batch=2),
    "windows": attrs.evolve(LLAMA, model="tests.execute.families:Gemma3ForCausalLM"),
    "all lengths": attrs.evolve(LLAMA, lengths=(32, 40), dynamic=True),
    "heads behind positions": attrs.evolve(LLAMA, model="tests.lower.test_grouped:Swapped", spec="causal_lm"),
    "one head of queries": attrs.evolve(LLAMA, model="tests.lower.test_grouped:OneQuery", spec="causal_lm"),
    "no heads": attrs.evolve(LLAMA, model="tests.lower.test_grouped:NoHeads", spec="causal_lm", sp=1),
    "positions in the place of heads": attrs.evolve(
        LLAMA, model="tests.lower.test_grouped:Learned", spec="causal_lm", lengths=(16,)
    ),
}


@pytest.mark.parametrize("name", TRIALS)
def test_numbers_of_the_unsharded_program(name: str) -> None:
    verdict = judge(TRIALS[name], simulate=True)
    assert verdict.exact, page(verdict)


class Attends(nn.Module):
    """An attention of 8 heads on 2 of keys and values, which `repeat` makes 8."""

    def __init__(self, repeat: Callable = lambda x, n: wide(x, n), dropout: float = 0.0, **how):
        super().__init__()
        self.repeat, self.how = repeat, {"dropout_p": dropout, **how}

    def forward(self, q, k, v):
        return F.scaled_dot_product_attention(q, self.repeat(k, 4), self.repeat(v, 4), **self.how).sum()


def wide(x: torch.Tensor, times: int) -> torch.Tensor:
    b, h, s, d = x.shape
    return x[:, :, None].expand(b, h, times, s, d).reshape(b, h * times, s, d)


def swapped(x: torch.Tensor, times: int) -> torch.Tensor:
    """As Meta's Llama does it, heads behind positions."""
    x = x.transpose(1, 2)
    b, s, h, d = x.shape
    return x.unsqueeze(3).expand(b, s, h, times, d).reshape(b, s, h * times, d).transpose(1, 2)


def interleaved(x: torch.Tensor, times: int) -> torch.Tensor:
    return x.repeat_interleave(times, 1)


def interleaved_last(x: torch.Tensor, times: int) -> torch.Tensor:
    return x.transpose(1, 2).repeat_interleave(times, dim=-2).transpose(1, 2)


def permuted(x: torch.Tensor, times: int) -> torch.Tensor:
    b, h, s, d = x.shape
    x = x.permute(0, 2, 1, 3).unsqueeze(3).expand(b, s, h, times, d).reshape(b, s, h * times, d)
    return x.permute(0, 2, 1, 3)


def in_another_order(x: torch.Tensor, times: int) -> torch.Tensor:
    """All heads, then all heads again: another attention."""
    b, h, s, d = x.shape
    return x[:, None].expand(b, times, h, s, d).reshape(b, times * h, s, d)


def of_positions(x: torch.Tensor, times: int) -> torch.Tensor:
    """Heads beside the repeated dim change places with it by their sizes: 2 x 4 read as 4 x 2."""
    b, h, s, d = x.shape
    return x[:, :, None].expand(b, h, times, s, d).transpose(1, 2).reshape(b, h * times, s, d)


class Decoder(nn.Module):
    """A decoder of one layer; `attend` gives what its attention adds, of width 32."""

    def __init__(self, queries: int = 64):
        super().__init__()
        self.tokens, self.head = nn.Embedding(64, 32), nn.Linear(32, 64)
        self.q, self.kv = nn.Linear(32, queries), nn.Linear(32, 32)

    def forward(self, input_ids, labels):
        x = self.tokens(input_ids)
        logits = self.head(x + self.attend(x))
        return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())

    def heads(self, x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(-1, (-1, 8)).transpose(1, 2)

    def keys_and_values(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Two heads each."""
        return [self.heads(part) for part in self.kv(x).chunk(2, -1)]


class Swapped(Decoder):
    """Its keys are repeated as Meta's Llama repeats them."""

    def attend(self, x):
        k, v = (swapped(each, 4) for each in self.keys_and_values(x))
        y = F.scaled_dot_product_attention(self.heads(self.q(x)), k, v, is_causal=True)
        return y.transpose(1, 2).flatten(2)[..., :32]


class OneQuery(Decoder):
    """One head of queries is broadcast to eight of keys: it is no group of theirs."""

    def __init__(self):
        super().__init__(queries=8)

    def attend(self, x):
        k, v = (interleaved(each, 4) for each in self.keys_and_values(x))
        return F.scaled_dot_product_attention(self.heads(self.q(x)), k, v, is_causal=True).sum(1).repeat(1, 1, 4)


class NoHeads(Decoder):
    """An attention of three dims: what is repeated are positions."""

    def __init__(self):
        super().__init__(queries=32)

    def attend(self, x):
        k, v = (F.pad(part, (0, 16)).repeat_interleave(2, dim=1) for part in self.kv(x).chunk(2, -1))
        return F.scaled_dot_product_attention(self.q(x), k, v, is_causal=True)


class Learned(Decoder):
    """Keys and values of a head are the same at all positions; `expand` adds the batch in front."""

    def __init__(self):
        super().__init__(queries=128)
        self.k, self.v = nn.Parameter(torch.randn(1, 16, 8)), nn.Parameter(torch.randn(1, 16, 8))

    def attend(self, x):
        b = x.shape[0]
        k, v = (p.unsqueeze(2).expand(b, 1, 16, 16, 8).reshape(b, 16, 16, 8) for p in (self.k, self.v))
        return F.scaled_dot_product_attention(self.heads(self.q(x)), k, v).transpose(1, 2).flatten(2)[..., :32]


def local_of(model: nn.Module, dtype: torch.dtype = torch.float32, sp: int = 2) -> fx.GraphModule:
    spec = parse(
        "mesh [sp]\ninput q [batch, heads, seq@sp, dim]\ninput k [batch, kv, seq@sp, dim]\n"
        "input v [batch, kv, seq@sp, dim]\noutput loss []\n"
    )
    q, k = torch.randn(1, 8, 16, 8, dtype=dtype), torch.randn(1, 2, 16, 8, dtype=dtype)
    inputs = {"q": q, "k": k, "v": k.clone()}
    plan, *_ = planned(model, {n: x.requires_grad_() for n, x in inputs.items()}, spec, sp=sp)
    return lower(plan, Rank(0, "none"))


@pytest.mark.parametrize("repeat", [wide, swapped, permuted, interleaved, interleaved_last])
def test_what_was_repeated_is_read_as_it_is(repeat: Callable) -> None:
    before = local_of(Attends(repeat, is_causal=True), sp=1)
    after = copy_graph(before)
    assert group(after, on_gpu=False) == 1
    check_groups(before, after)
    (node,) = after.graph.find_nodes(op="call_function", target=SDPA)
    assert node.kwargs == {"enable_gqa": True}
    q, k, v = (torch.randn(1, heads, 16, 8) for heads in (8, 2, 2))
    expected = Attends(repeat, is_causal=True)(q, k, v)
    torch.testing.assert_close(after(k, v, q)[0], expected)  # in the order in which the model reads them


def test_a_second_time_changes_nothing() -> None:
    local = local_of(Attends())
    assert group(local, on_gpu=False) == 1
    text = str(local.graph)
    assert group(local, on_gpu=False) == 0 and str(local.graph) == text


LEFT = {
    "another order of heads": (Attends(in_another_order), torch.float32, False),
    "heads that change places": (Attends(of_positions), torch.float32, False),
    "one head for each": (Attends(lambda x, n: wide(torch.cat([x] * n, 1), 1)), torch.float32, False),
    "positions repeated": (Attends(lambda x, n: wide(x, n).repeat_interleave(2, 2)), torch.float32, False),
    "dropout": (Attends(dropout=0.5), torch.float32, False),
    "what is changed after it was repeated": (Attends(lambda x, n: wide(x, n) * 1.0), torch.float32, False),
    "fp32 on a GPU": (Attends(), torch.float32, True),
    "a mask on a GPU": (Attends(attn_mask=torch.ones(16, 16, dtype=torch.bool)), torch.bfloat16, True),
}


@pytest.mark.parametrize("name", LEFT)
def test_what_is_no_repetition_or_has_no_kernel_stays(name: str) -> None:
    model, dtype, on_gpu = LEFT[name]
    local = local_of(model, dtype, sp=1)
    text = str(local.graph)
    assert group(local, on_gpu) == 0 and str(local.graph) == text


def test_half_precision_without_a_mask_has_a_kernel_on_a_gpu() -> None:
    assert group(local_of(Attends(is_causal=True), torch.bfloat16), on_gpu=True) == 1


@pytest.fixture(scope="module")
def before() -> fx.GraphModule:
    """A Llama's local graph on 2 ranks."""
    ids = torch.zeros(1, 64, dtype=torch.long)
    plan, *_ = planned(build("LlamaForCausalLM").train(), {"input_ids": ids, "labels": ids}, load("llama"), sp=2)
    local = lower(plan, Rank(0, "none"))
    check(plan, local)
    return local


@pytest.mark.parametrize("device, grouped", [("cpu", 2), ("h100-80gb", 0)])
def test_the_pass_asks_for_the_kernel_of_the_device(device: str, grouped: int) -> None:
    ids = torch.zeros(1, 64, dtype=torch.long)
    plan, *_ = planned(build("LlamaForCausalLM").train(), {"input_ids": ids, "labels": ids}, load("llama"), sp=2)
    context = Context(rank=Rank(0, "none"), device=load_device(device))
    assert run(Program.of(plan), context, until="group_heads").grouped == grouped


def attention(gm: fx.GraphModule) -> fx.Node:
    return gm.graph.find_nodes(op="call_function", target=SDPA)[0]


def set_arg(node: fx.Node, i: int, value: object) -> None:
    node.args = (*node.args[:i], value, *node.args[i + 1 :])


def values_for_keys(gm):
    node = attention(gm)
    set_arg(node, 1, node.args[2])


def keys_of_another_layer(gm):
    one, other = gm.graph.find_nodes(op="call_function", target=SDPA)
    with gm.graph.inserting_before(other):
        set_arg(other, 1, gm.graph.node_copy(one.args[1], lambda n: n))


def no_mask(gm):
    set_arg(attention(gm), 5, False)


def another_scale(gm):
    node = attention(gm)
    node.kwargs = {**node.kwargs, "scale": 1.0}


def queries_of_another(gm):
    node = attention(gm)
    set_arg(node, 0, node.args[1])


def not_told_of_groups(gm):
    attention(gm).kwargs = {}


def another_dim_squeezed(gm):
    set_arg(attention(gm).args[1].args[0], 1, 0)


def another_size(gm):
    node = attention(gm).args[2]
    set_arg(node, 1, [*node.args[1][:2], 32, node.args[1][3]])


def keys_turned(gm):
    node = attention(gm)
    with gm.graph.inserting_before(node):
        set_arg(node, 1, gm.graph.call_function(aten.transpose.int, (node.args[1], 1, 2)))


def dropout(gm):
    set_arg(attention(gm), 4, 0.1)


def another_call_changed(gm):
    node = next(n for n in gm.graph.nodes if n.target is aten.mul.Tensor)
    node.target = aten.add.Tensor


def a_result_that_is_gone(gm):
    node = next(n for n in gm.graph.nodes if n.target is aten.silu.default)
    node.replace_all_uses_with(node.args[0])
    gm.graph.erase_node(node)


FAULTS = [
    values_for_keys, keys_of_another_layer, no_mask, another_scale, queries_of_another, not_told_of_groups,
    another_dim_squeezed, another_size, keys_turned, dropout, another_call_changed, a_result_that_is_gone,
]  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found(fault: Callable, before: fx.GraphModule) -> None:
    after = copy_graph(before)
    assert group(after, on_gpu=False) == 2
    check_groups(before, after)
    fault(after)
    with pytest.raises(CheckError, match=r"in grouped heads: .*\n(?s:.*)AUTOSP_SKIP=group_heads"):
        check_groups(before, after)


def test_a_repetition_of_more_than_was_said_is_none(before: fx.GraphModule) -> None:
    """What the attention read before is looked at, not what the pass says of it."""
    wrong = copy_graph(before)
    for node in wrong.graph.find_nodes(op="call_function", target=aten.unsqueeze.default):
        if len(node.args[0].args) and node.args[1] == 2:
            set_arg(node, 1, 1)
    after = copy_graph(before)
    group(after, on_gpu=False)
    with pytest.raises(CheckError, match="keys and values are not repeated"):
        check_groups(wrong, after)
