"""`autosp.plan`: a plan from fake tensors, and what is predicted of it."""

import attrs
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoModelForCausalLM, LlamaConfig

import autosp
from autosp.engine.planning import planned, request
from autosp.errors import AutospError, InputError, PlanError, SpecError
from autosp.solve import load_device
from autosp.spec import parse
from tests.engine import golden
from tests.engine.tiny import HEADS, Tiny, batch
from tests.execute.families import checkpointed
from tests.execute.odd import SPEC as ODD
from tests.execute.odd import Mixing


def _planned(config: LlamaConfig):
    with FakeTensorMode():
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).train()
        ids = torch.zeros(1, 131072, dtype=torch.long)
        inputs = {"input_ids": ids, "labels": ids.clone()}
    return planned(model, inputs, "llama", sp=8)[0]


def test_an_eight_billion_shape_is_planned_without_a_weight() -> None:
    config = LlamaConfig(
        hidden_size=4096, intermediate_size=14336, num_hidden_layers=2, num_attention_heads=32,
        num_key_value_heads=8, vocab_size=128256, max_position_embeddings=131072, use_cache=False,
    )  # fmt: skip
    plan = _planned(config)
    sent = [r for r in plan.reshards if r.kind != "slice"]
    assert [r.kind for r in sent] == ["all_to_all"] * 4 + ["all_reduce"]
    qkv, out = sent[0], sent[1]
    # bytes that one rank sends: elements x 2 bytes x (P - 1) / P^2, of q, k and v, and of the output
    assert qkv.bytes == 131072 * (32 + 2 * 8) * 128 * 2 * 7 // 64
    assert out.bytes == 131072 * 32 * 128 * 2 * 7 // 64
    assert qkv.module == "model.layers.0.self_attn"
    assert "its rule needs t (seq) whole" in qkv.reason


def test_a_model_with_its_own_gradient_checkpointing_is_told_what_becomes_of_it() -> None:
    ids = torch.zeros(2, 32, dtype=torch.long)
    model, inputs = checkpointed().train(), {"input_ids": ids, "labels": ids}
    layers = model.config.num_hidden_layers
    plan, *_ = planned(model, inputs, "llama", sp=2)
    (note,) = [n for n in plan.notes if "gradient checkpointing" in n]
    assert note == (
        f"the model's own gradient checkpointing ({layers} calls) gives way to the spec's 'recompute', which decides "
        "what runs twice; 'recompute full' keeps what enters a layer, as checkpointed layers do"
    )
    assert not [n for n in planned(model.eval(), inputs, "llama", sp=2)[0].notes if "checkpointing" in n]


def test_more_ranks_than_kv_heads_gather_keys_and_values_before_they_are_repeated() -> None:
    config = LlamaConfig(
        hidden_size=4096, intermediate_size=14336, num_hidden_layers=1, num_attention_heads=32,
        num_key_value_heads=1, vocab_size=1024, max_position_embeddings=131072, use_cache=False,
    )  # fmt: skip
    plan = _planned(config)
    gathered = next(r for r in plan.reshards if r.kind == "all_gather")
    assert len(gathered.values) == 2
    assert gathered.bytes == 2 * 131072 * 128 * 2 * 7 // 8


class Scored(Mixing):
    """Without targets it gives the logits."""

    def forward(self, idx, targets=None):
        return self.head(self.mix(self.embed(idx))) if targets is None else super().forward(idx, targets)


def test_outside_training_no_input_is_owed_as_in_a_compiled_call() -> None:
    inputs = {"idx": torch.zeros(2, 8, dtype=torch.long)}
    assert planned(Scored().eval(), inputs, parse(ODD), sp=2)[0].p == 2
    with torch.no_grad():
        assert planned(Scored().train(), inputs, parse(ODD), sp=2)[0].p == 2
    with pytest.raises(InputError, match="targets"):
        planned(Scored().train(), inputs, parse(ODD), sp=2)


def test_a_plan_for_inputs_that_the_spec_does_not_know_is_refused_as_a_compiled_call_is() -> None:
    with pytest.raises(InputError, match="no input of the call is known: tokens"):
        planned(Scored().train(), {"tokens": torch.zeros(2, 8)}, parse(ODD), sp=2)


SMALL = attrs.evolve(load_device("cpu"), name="small", memory=10 * 2**20, reserve=2**20)
PLAIN = {"sp": 2, "zero": 0, "dtype": torch.float32, "device": SMALL}


class Causal(Tiny):
    """Without a mask, whose size is the square of the length."""

    def attend(self, x, attention_mask):
        q, k, v = (t.unflatten(-1, (HEADS, -1)).transpose(1, 2) for t in self.qkv(x).chunk(3, dim=-1))
        y = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(y.transpose(1, 2).flatten(2))


def tiny_plan(model=None, **said):
    return autosp.plan(model or Tiny(), batch(length=64), **(PLAIN | said))


@pytest.fixture(scope="module")
def tiny():
    return tiny_plan()


def fake_tiny():
    with FakeTensorMode():
        return Tiny()


def meta_tiny():
    with torch.device("meta"):
        return Tiny()


def test_memory_is_the_states_and_the_activations(tiny):
    count = sum(p.numel() for p in Tiny().parameters())
    memory = tiny.memory
    assert (memory.parameters, memory.optimizer) == (4 * count, 8 * count)
    assert memory.peak == tiny.peak_bytes == 12 * count + memory.gradients + memory.held + memory.transient
    assert 0 < memory.held <= memory.saved_bytes and memory.phase == "backward" and "tiny.py" in memory.at
    assert tiny.length == 64 and tiny.fits


@pytest.mark.parametrize("make", (meta_tiny, fake_tiny, lambda: Tiny, lambda: Tiny().bfloat16()))
def test_it_is_the_same_plan_however_the_model_is_given(tiny, make):
    other = tiny_plan(make())
    assert (other.fingerprint(), other.memory) == (tiny.fingerprint(), tiny.memory)


def test_the_model_is_left_as_it_is():
    config = LlamaConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2,
        vocab_size=32, max_position_embeddings=8,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config).eval()
    before = {name: (id(x), x.dtype, type(x)) for name, x in model.state_dict(keep_vars=True).items()}
    plan = autosp.plan(model, batch(length=64), sp=2)
    assert {name: (id(x), x.dtype, type(x)) for name, x in model.state_dict(keep_vars=True).items()} == before
    assert model.config.use_cache and not model.training
    count = sum(p.numel() for p in model.parameters())
    assert plan.memory.assumptions[0].startswith(f"{count:,} trained elements in bf16, ZeRO-1 over 2 ranks")
    assert plan.memory.phase == "step"  # DeepSpeed's bucket is more than all that a toy holds
    assert plan.memory.assumptions[-1] == "64 positions are used as they are; the model's configuration says 8"


def test_zero_partitions_over_all_ranks():
    asked = {zero: request(Tiny(), batch(length=64), sp=2, dp=4, zero=zero).state for zero in (0, 1, 2, 3)}
    count = sum(p.numel() for p in Tiny().parameters())
    assert [s.optimizer for s in asked.values()] == [12 * count, *[12 * count // 8] * 3]
    assert [s.gradients for s in asked.values()] == [2 * count] * 2 + [2 * count // 8] * 2


def test_the_longest_fits_and_the_next_does_not(capfd):
    asked = request(Causal(), batch(length=64), **PLAIN, recompute="sac budget auto")
    plan = asked.plan()
    length = plan.max_seq_len()
    assert length % 1024 == 0 and plan.longest().length == length
    assert plan.longest().fits and plan.longest().peak_bytes <= SMALL.usable
    told = [line for line in capfd.readouterr().err.splitlines() if line.startswith("autosp: length ")]
    assert f" {length:,}:" in " ".join(told)
    assert not asked.at(length + 1024).fits


def test_what_is_recomputed_is_not_saved(tiny):
    full = tiny_plan(recompute="full")
    assert full.recompute == "recompute full"
    assert full.memory.saved_bytes < tiny.memory.saved_bytes and full.recompute_seconds > tiny.recompute_seconds
    assert full.step_seconds == full.compute_seconds + full.communication_seconds + full.recompute_seconds


MESH = "mesh [dp: local, sp]\n"


def test_states_that_do_not_fit_leave_no_length():
    device = attrs.evolve(SMALL, memory=2**20 + 100_000)
    plan = tiny_plan(device=device)
    assert not plan.fits and plan.longest() is None and plan.max_seq_len() == 0


def test_more_rows_are_more_activations(tiny):
    more = autosp.plan(Tiny(), batch(length=64, rows=4), **PLAIN)
    assert more.memory.saved_bytes > 1.8 * tiny.memory.saved_bytes


def not_sequences():
    spec = f"{MESH}input input_ids [batch@dp, 64@sp]\ninput labels [batch@dp, 64@sp]\n"
    return autosp.plan(Tiny(), batch(length=64), spec, **PLAIN).max_seq_len()


WRONG = {
    "plan_of_no_ranks": (PlanError, lambda: tiny_plan(sp=0, dp=-1, optimizer="adamax", zero=4, dtype=torch.int8)),
    "plan_on_no_device": (SpecError, lambda: tiny_plan(device="h100")),
    "plan_with_no_policy": (SpecError, lambda: tiny_plan(recompute="sack budget auto")),
    "plan_with_half_a_policy": (SpecError, lambda: tiny_plan(recompute="sac budget 12")),
    "plan_of_no_model": (PlanError, lambda: tiny_plan(model="llama")),
    "plan_of_no_inputs": (InputError, lambda: autosp.plan(Tiny(), {"labels": batch()["labels"]}, **PLAIN)),
    "plan_of_no_length": (PlanError, not_sequences),
}


@pytest.mark.parametrize("name", WRONG)
def test_asked_wrongly(name):
    kind, act = WRONG[name]
    with pytest.raises(AutospError) as caught:
        act()
    assert type(caught.value) is kind
    golden.expect("planning", name, str(caught.value))
