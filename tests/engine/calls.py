"""What users and trainers call a compiled model with, by name, on two ranks; each rank gives figures against plain
eager PyTorch on whole batches."""

from __future__ import annotations

import copy
import pickle
import re
import warnings
from collections.abc import Callable

import torch
import torch.distributed as dist
from torch.nn import functional as F

import autosp
from tests.engine.paths import compiled, figures, plans
from tests.engine.tiny import RATE, Out, Tiny, batch, train
from tests.execute.reference import compare, loss_error, snapshot

CALLS: dict[str, Callable[[], dict]] = {}
LENGTHS = [33, 40, 64, 37, 48, 55, 41, 35, 52, 60, 47, 39]


def call(function: Callable[[], dict]) -> Callable[[], dict]:
    CALLS[function.__name__] = function
    return function


def run(name: str) -> dict:
    return CALLS[name]()


def llama(**config) -> torch.nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    shape = dict(vocab_size=64, hidden_size=32, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2)
    more = dict(intermediate_size=48, max_position_embeddings=64, initializer_range=0.06, pad_token_id=0)
    return LlamaForCausalLM(LlamaConfig(**shape, **more, eos_token_id=None, **config)).train()


def said(act: Callable) -> tuple[object, list[str]]:
    """What an act gives, and autosp's warnings meanwhile."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = act()
    return found, [str(w.message) for w in caught if str(w.message).startswith("autosp:")]


def gap(expected: torch.nn.Module, model: torch.nn.Module) -> float:
    return compare(snapshot(expected), snapshot(model)).ratio


def outside(model: torch.nn.Module, batches: list[dict], loss_of: Callable, call=None) -> list[float]:
    """SGD on a loss that is computed from what the model returns."""
    optimizer, losses = torch.optim.SGD(model.parameters(), lr=RATE), []
    for each in batches:
        optimizer.zero_grad()
        loss = loss_of((call or model)(**each), each)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


class Counted(Tiny):
    """A trainer divides the sum by the number of tokens of all its micro-batches."""

    def forward(self, input_ids, labels=None, attention_mask=None, num_items_in_batch=None):
        loss, logits = super().forward(input_ids, labels, attention_mask)
        if num_items_in_batch is not None:
            loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), reduction="sum")
            loss = loss / num_items_in_batch
        return Out(loss, logits)


def counted(lengths: list[int], **options) -> dict:
    batches = [batch(i, n) | {"num_items_in_batch": 50 + 7 * i} for i, n in enumerate(lengths)]
    eager, model = Counted(), compiled(Counted(), **options)
    found = figures(eager, train(eager, batches), model, train(model, batches))
    return found | {"plans": plans(model)}


@call
def twelve_lengths_and_counts() -> dict:
    return counted(LENGTHS)


@call
def twelve_counts_of_one_length() -> dict:
    return counted([33] * 12)


@call
def lengths_that_grow() -> dict:
    """Memory was decided for the sizes at hand: from a power of two to the next a program is made anew."""
    return counted([16, 20, 30, 36, 44, 64, 70])


@call
def generation() -> dict:
    """By all ranks, then by one alone, between training steps; the model's configuration has its cache on."""
    ids, mask = batch(5, 12)["input_ids"], torch.ones(2, 12, dtype=torch.long)
    mask[0, :5] = 0
    ask = dict(input_ids=ids, attention_mask=mask, max_new_tokens=6, do_sample=False)
    eager, model = llama(), compiled(llama(), spec=None)
    losses, got = train(eager, [batch(0)]), train(model, [batch(0)])
    eager.eval(), model.eval()
    expected = eager.generate(**ask).tolist()
    with torch.no_grad():
        everywhere, told = said(lambda: model.generate(**ask).tolist())
        alone = model.generate(**ask).tolist() if dist.get_rank() == 0 else expected
        again = said(lambda: model.generate(**ask))[1]
        eval_loss, eager_loss = model(**batch(7, 41)).loss, eager(**batch(7, 41)).loss
        cached = model(input_ids=ids, use_cache=True)
        step = model(input_ids=ids[:, :1], past_key_values=cached.past_key_values)
        eager_cached = eager(input_ids=ids, use_cache=True)
        eager_step = eager(input_ids=ids[:, :1], past_key_values=eager_cached.past_key_values)
    eager.train(), model.train()
    losses, got = losses + train(eager, [batch(1)]), got + train(model, [batch(1)])
    return figures(eager, losses, model, got) | {
        "same tokens": everywhere == expected and alone == expected,
        "said": [sum("run as the uncompiled model" in text for text in texts) for texts in (told, again)],
        "eval_loss": abs(float(eval_loss - eager_loss)) / float(eager_loss) / 1e-5,
        "step": float((step.logits - eager_step.logits).abs().max()) / 1e-5,
    }


@call
def a_cache_in_training() -> dict:
    """Asked for, it is left out, once said; given, it is refused; the losses are those without."""
    eager, model = llama(use_cache=False), compiled(llama(use_cache=False), spec=None)
    losses = train(eager, [batch(i) for i in range(3)])
    (first, told), (second, again) = (
        said(lambda i=i: train(model, [batch(i) | {"use_cache": True}])) for i in range(2)
    )
    model.config.use_cache = True  # as some scripts do before they generate
    third, switched = said(lambda: train(model, [batch(2)]))
    with torch.no_grad():
        past = model.eval()(input_ids=batch(0, 4)["input_ids"], use_cache=True).past_key_values
    try:
        model.train()(**batch(0), past_key_values=past)
    except autosp.InputError as e:
        refused = str(e)
    return figures(eager, losses, model, first + second + third) | {
        "said": [len(told), len(again), len(switched), "use_cache=False instead" in told[0]],
        "refused": refused,
    }


def two_documents(step: int) -> dict:
    return batch(step) | {"position_ids": torch.cat([torch.arange(20), torch.arange(12)]).expand(2, 32).contiguous()}


@call
def packed_rows() -> dict:
    """In eager PyTorch the cache decides whether documents see each other; so does a mask of ones, here too."""
    batches = [two_documents(i) for i in range(2)]
    masked = [each | {"attention_mask": torch.ones(2, 32, dtype=torch.long)} for each in batches]
    together, apart = llama(), llama(use_cache=False)
    joined, separate = train(together, batches), train(apart, batches)
    model, other = compiled(llama(), spec=None), compiled(llama(), spec=None)
    got, told = said(lambda: train(model, batches))
    masked_losses, quiet = said(lambda: train(other, masked))
    return figures(apart, separate, model, got) | {
        "another loss": abs(joined[0] - separate[0]) / separate[0] > 1e-4,
        "together": max(loss_error(tuple(joined), tuple(masked_losses)) / 1e-5, gap(together, other)),
        "said": [sum("position_ids that restart" in text for text in texts) for texts in (told, quiet)],
    }


def preferred(out, given: dict) -> torch.Tensor:
    """DPO: the first row was chosen, the second rejected; log-probabilities by token outside of the model."""
    at = given["input_ids"][:, 1:, None]
    scores = out.logits[:, :-1].log_softmax(-1).gather(-1, at)[..., 0].sum(-1)
    return -F.logsigmoid(0.1 * (scores[0] - scores[1] - 0.5))


@call
def a_loss_outside_from_whole_logits() -> dict:
    """Every rank computes the same loss; its gradient is not multiplied by the number of ranks."""
    batches = [{"input_ids": batch(i)["input_ids"]} for i in range(2)]
    eager, model = llama(), compiled(llama(), spec=None)
    return figures(eager, outside(eager, batches, preferred), model, outside(model, batches, preferred))


@call
def a_loss_outside_from_local_logits() -> dict:
    """Each rank computes its own tokens' part; the loss of the step is the sum of the ranks'."""
    batches = [{"input_ids": batch(i, 37)["input_ids"]} for i in range(2)]
    spec = re.sub("logits +none", "logits local", str(autosp.load("llama")))
    eager, model = llama(), compiled(llama(), spec=spec)

    def shifted(given: dict) -> torch.Tensor:
        return F.pad(given["input_ids"], (0, 1), value=-100)[:, 1:]

    def mean(out, given: dict) -> torch.Tensor:
        return F.cross_entropy(out.logits.flatten(0, 1), shifted(given).flatten())

    def part(out, given: dict) -> torch.Tensor:
        own = shifted(given).tensor_split(dist.get_world_size(), dim=1)[dist.get_rank()]
        total = (shifted(given) != -100).sum()
        return F.cross_entropy(out.logits.flatten(0, 1), own.flatten(), reduction="sum") / total

    losses, got = outside(eager, batches, mean), torch.tensor(outside(model, batches, part))
    dist.all_reduce(got)
    return figures(eager, losses, model, got.tolist())


@call
def logits_that_are_left_out() -> dict:
    """Read, they say which line leaves them out; passed through the code around a model, they are left alone."""
    model = compiled(llama(), spec=None)
    out = model(**batch())
    out.loss.backward()
    try:
        out.logits.argmax(-1)
    except autosp.SpecError as e:
        met = str(e)
    from accelerate.utils.operations import convert_to_fp32

    through = [pickle.loads(pickle.dumps(out)), copy.copy(out), convert_to_fp32(out)]
    left = [type(each.logits).__name__ for each in through] + [len(out.to_tuple()), hasattr(out.logits, "dtype")]
    left += [type(copy.deepcopy(out.logits)).__name__]
    advised = re.sub("logits +none", "logits whole", str(autosp.load("llama")))  # as the error says
    other, eager = compiled(llama(), spec=advised), llama()
    whole, expected = other(**batch()), eager(**batch())
    with torch.no_grad():
        again = model(**batch())
    expected.loss.backward()
    return {
        "met": met, "left": left, "parameter": gap(eager, model), "loss": 0.0, "losses": [],
        "gradients": compare(_gradients(eager), _gradients(model)).ratio,
        "logits": max(float((x.logits - expected.logits).abs().max()) for x in (whole, again)) / 1e-5,
    }  # fmt: skip


def _gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.grad for name, p in model.named_parameters()}
