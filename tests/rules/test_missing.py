"""`autosp rules list --missing`: what a model's graph lacks, with a draft; the shipped families lack nothing."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from autosp.cli import main
from autosp.errors import RuleError
from autosp.rules import default_rules, read, user
from autosp.rules.book import RuleBook
from autosp.rules.call import make_call
from autosp.rules.draft import draft_rule

HERE = "tests.rules.own_operators"
needs_transformers = pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="needs transformers")


@pytest.fixture(autouse=True)
def no_rules_of_ones_own(tmp_path, monkeypatch):
    monkeypatch.setenv("AUTOSP_RULES", str(tmp_path / "rules"))


def missing(*args: str):
    return CliRunner().invoke(main, ["rules", "list", "--missing", *args])


def test_each_gap_has_its_calls_its_line_and_a_draft():
    result = missing("--model", f"{HERE}:Net")
    assert result.exit_code == 0
    assert result.output.splitlines() == [
        "own_ops.soft_cap.default  1 call  operator 'own_ops.soft_cap.default' has no rule",
        "  own_operators.py:54 in forward: logits = soft_cap(self.head(self.embed(input_ids)), 30.0)",
        "  rule own_ops.soft_cap.default(x[a, b, c]) -> [a, b, c]",
        "       whole a, b, c",
    ]


def test_a_factory_may_bring_its_own_inputs():
    gaps = json.loads(missing("--model", f"{HERE}:distances", "--json").output)
    assert [(g["operator"], g["calls"], g["module"]) for g in gaps] == [("aten._cdist_forward.default", 1, "")]
    assert gaps[0]["source"].startswith("own_operators.py:")
    (rule,) = read(gaps[0]["draft"])
    assert RuleBook((rule,)).names() == ("aten._cdist_forward.default",)


def test_a_draft_of_an_operator_with_tensors_that_the_call_leaves_out_is_installed(tmp_path: Path, monkeypatch):
    """Batch normalization without running statistics: its draft speaks of the tensors that are there."""
    text = "rule aten.batch_norm.default(input[a, b, c], weight[b], bias[b]) -> [a, b, c]\n     whole a, b, c\n"
    call = torch.ops.aten.batch_norm.default, (torch.randn(3, 4, 5), torch.ones(4), torch.zeros(4))
    args = (*call[1], None, None, True, 0.1, 1e-5, False)
    drafted = draft_rule("aten.batch_norm.default", make_call(call[0], args, {}, call[0](*args)))
    assert drafted + "\n" == text
    (tmp_path / "norm.rule").write_text(text)
    result = CliRunner().invoke(main, ["rules", "add", str(tmp_path / "norm.rule")])
    assert result.exit_code == 0, result.output
    (bound,) = [r for r in default_rules().by_name["aten.batch_norm.default"] if r.where.startswith("norm.rule")]
    running = (*call[1], torch.zeros(4), torch.ones(4), True, 0.1, 1e-5, False)
    with pytest.raises(RuleError, match="operand 'running_mean' is not in the rule"):
        RuleBook((bound,)).bind(call[0], running, {}, call[0](*running))


def test_nothing_missing_is_said():
    assert missing("--model", "torch.nn:Identity").exit_code == 1
    text = "rule own_ops.soft_cap.default(x[*]) -> [*]\n saves x"
    user.folder().mkdir()
    (user.folder() / "own.rule").write_text(text)
    assert missing("--model", f"{HERE}:Net").output == f"{HERE}:Net: every operator has a rule\n"


def test_what_goes_wrong_is_said_in_four_parts():
    assert missing().stderr == (
        "error: --missing without --model\n"
        "   = rule: what is missing is known of a model's graph\n"
        "   = fix: add --model CONFIG.json, --model HF-CLASS or --model pkg.mod:factory\n"
    )
    assert missing("--model", "torch.nn:Identity").stderr == (
        "error: the spec names input_ids, labels, position_ids, attention_mask, "
        "and the forward of Identity takes input\n"
        "   = rule: a model is traced on inputs that its spec describes\n"
        "   = fix: give a spec that names its inputs with --spec, or let pkg.mod:factory return (model, inputs)\n"
    )
    broken = missing("--model", f"{HERE}:Branching")
    assert broken.exit_code == 1 and broken.stderr.startswith("error: ") and "own_operators.py" in broken.stderr


TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 64, "intermediate_size": 48}
KV, IDS = {"num_key_value_heads": 2}, {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
FAMILIES = {
    "LlamaForCausalLM": TINY | KV,
    "MistralForCausalLM": TINY | KV,
    "Qwen2ForCausalLM": TINY | KV,
    "Qwen3ForCausalLM": TINY | KV | {"head_dim": 8},
    "Gemma2ForCausalLM": TINY | KV | IDS | {"head_dim": 8, "sliding_window": 8},
    "Gemma3ForCausalLM": TINY | KV | IDS | {"head_dim": 8, "sliding_window": 8},
    "Phi3ForCausalLM": TINY | KV | IDS,
    "Olmo2ForCausalLM": TINY | KV | IDS,
    "GPT2LMHeadModel": {"vocab_size": 64, "n_embd": 32, "n_layer": 2, "n_head": 4, **IDS},
    "GPTNeoXForCausalLM": TINY,
    "FalconForCausalLM": {k: v for k, v in TINY.items() if k != "intermediate_size"} | IDS,
    "Starcoder2ForCausalLM": TINY | KV | IDS,
    "MixtralForCausalLM": TINY | KV | {"num_local_experts": 4},
    "Qwen3MoeForCausalLM": TINY | KV | {
        "head_dim": 8, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16,
    },
    "BertForMaskedLM": TINY,
}  # fmt: skip
QUICK = ("GPT2LMHeadModel", "FalconForCausalLM", "MixtralForCausalLM")


@needs_transformers
@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in FAMILIES])
def test_the_families_lack_nothing(name: str, tmp_path: Path):
    import transformers

    config = getattr(transformers, name).config_class(**FAMILIES[name])
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**config.to_dict(), "architectures": [name]}, default=str))
    assert missing("--model", str(path)).output == f"{path}: every operator has a rule\n"


@needs_transformers
def test_without_a_map_the_experts_are_missing(tmp_path: Path):
    import transformers

    config = transformers.MixtralConfig(**FAMILIES["MixtralForCausalLM"])
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**config.to_dict(), "architectures": ["MixtralForCausalLM"]}, default=str))
    gaps = json.loads(missing("--model", str(path), "--spec", "causal_lm", "--json").output)
    assert [(g["operator"], g["calls"]) for g in gaps] == [("transformers.grouped_mm_fallback.default", 4)]
    assert gaps[0]["module"] == "model.layers.0.mlp.experts"
    assert not default_rules().by_name.get("transformers.grouped_mm_fallback.default")
