"""What stands for an output that a spec leaves out: passed on it is quiet, used it says which line leaves it out."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch.utils import _pytree as pytree

import autosp
from autosp.engine.absent import Absent, AbsentOutput, not_produced

SPEC = autosp.load("llama")
USES = {
    "method": lambda x: x.argmax(-1),
    "size": lambda x: x.shape,
    "slice": lambda x: x[..., :-1, :],
    "function": lambda x: F.log_softmax(x, -1),
    "keyword": lambda x: F.cross_entropy(input=x, target=torch.zeros(1)),
    "in a list": lambda x: torch.cat([x, x]),
    "sum": lambda x: x + 1,
    "reflected": lambda x: torch.ones(2) * x,
    "comparison": lambda x: x > 0,
    "truth": lambda x: bool(x),
    "loop": lambda x: list(x),
    "length": lambda x: len(x),
    "number": lambda x: float(x),
    "numpy": lambda x: np.asarray(x),
    "write": lambda x: x.__setitem__(0, 1),
}


@pytest.fixture
def absent() -> Absent:
    return Absent("logits", not_produced(SPEC.output("logits"), SPEC.family))


@pytest.mark.parametrize("name", USES)
def test_a_use_names_the_line_of_the_spec(name: str, absent: Absent):
    with pytest.raises(autosp.SpecError) as raised:
        USES[name](absent)
    (problem,) = raised.value.problems
    assert problem == absent.problem and problem.where == "causal_lm.spec:12:9" and "logits" in problem.excerpt


def test_what_walks_through_outputs_passes_it_over(absent: Absent):
    from accelerate.utils.operations import convert_to_fp32, recursively_apply
    from transformers.modeling_outputs import CausalLMOutputWithPast

    out = CausalLMOutputWithPast(loss=torch.tensor(1.0, dtype=torch.bfloat16), logits=absent)
    assert out.to_tuple()[1] is absent and out["logits"] is absent and out[1] is absent
    assert convert_to_fp32(out).logits is absent and convert_to_fp32(out).loss.dtype is torch.float32
    assert recursively_apply(torch.neg, {"logits": absent})["logits"] is absent
    assert pytree.tree_map_only(torch.Tensor, torch.neg, out)["logits"] is absent
    assert not hasattr(absent, "dtype") and getattr(absent, "device", None) is None
    assert not torch.is_tensor(absent) and absent is not None and absent == absent and absent in [absent]
    for copied in (copy.copy(absent), copy.deepcopy(absent), pickle.loads(pickle.dumps(out)).logits):
        assert isinstance(copied, Absent) and copied.problem == absent.problem
    assert repr(absent) == "<logits: not produced, causal_lm.spec:12:9 leaves it out>"
    assert pickle.loads(pickle.dumps(AbsentOutput(absent.problem))).problems == (absent.problem,)


def test_an_output_of_a_spec_that_is_no_file():
    text = str(autosp.load("llama")).replace("family  llama\n", "")
    problem = not_produced(autosp.parse(text).output("logits"), None)
    assert "the spec's text" in problem.fix and problem.where.startswith("<spec>:")
