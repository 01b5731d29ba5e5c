"""`autosp plan`, by its command line: what it prints, to people and to machines, and what it refuses."""

import json

import pytest
from click.testing import CliRunner

from autosp.cli.plan import plan
from autosp.errors import AutospError
from autosp.spec.presets import PRESETS, model_named
from tests.engine import golden

CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 16, "intermediate_size": 16,
    "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 4, "vocab_size": 32,
    "max_position_embeddings": 64,
}  # fmt: skip
DEVICE = """device small
peak fp32 1e9
efficiency 1
memory 24MiB
reserve 1MiB
bandwidth 1e9
node 8
link inside 1e9 1e-5
link across 1e9 1e-5
"""


def invoke(*args):
    result = CliRunner().invoke(plan, [str(a) for a in args])
    if isinstance(result.exception, AutospError):
        return 1, result.stdout, str(result.exception)
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("plan")
    (path / "config.json").write_text(json.dumps(CONFIG))
    (path / "small.device").write_text(DEVICE)
    return path


@pytest.fixture(scope="module")
def plain_args(folder):
    return "--model", folder, "--sp", 2, "--zero", 0, "--dtype", "fp32", "--device", folder / "small.device"


@pytest.fixture(scope="module")
def found(plain_args):
    """The longest length, for a machine."""
    code, out, err = invoke(*plain_args, "--recompute", "sac budget auto", "--json")
    assert code == 0
    return json.loads(out), err


def test_without_a_length_the_longest_is_planned(found):
    told, err = found
    assert told["max_seq_len"] == told["length"] > 0 and told["length"] % 1024 == 0
    assert told["fits"] and told["peak_bytes"] <= 23 * 2**20 == told["device"]["memory"] - told["device"]["reserve"]
    assert told["recompute"] == "recompute sac budget auto"
    lines = err.splitlines()
    assert all(line.startswith("autosp: length ") and line.endswith(" s)") for line in lines) and len(lines) > 1


def test_a_machine_reads_what_the_memory_is_made_of(found):
    memory = found[0]["memory"]
    parts = [memory[name] for name in ("parameters", "gradients", "optimizer", "held", "transient")]
    assert sum(parts) == found[0]["peak_bytes"]
    assert memory["saved_bytes"] == sum(memory["saved"].values()) >= memory["held"]
    assert memory["phase"] in ("forward", "backward") and memory["at"] and len(memory["assumptions"]) >= 4
    assert {r["kind"] for r in found[0]["reshards"]} >= {"all_to_all", "all_reduce"}


def test_a_length_that_does_not_fit_exits_with_1(plain_args, found):
    length = 2 * found[0]["length"]
    code, out, err = invoke(*plain_args, "--seq", length, "--no-max")
    assert (code, err) == (1, "")
    lines = out.splitlines()
    assert lines[0].startswith("plan: sp=2, attention ulysses")
    assert f"memory of a rank at length {length:,}" in lines
    assert [line for line in lines if line.startswith("does not fit: ")]
    assert "longest sequence that fits" not in out and "│" not in out and "\x1b" not in out


def test_rows_of_the_batch_and_groups(plain_args):
    code, out, _ = invoke(*plain_args, "--seq", 256, "--batch", 3, "--dp", 2, "--zero", 1, "--no-max", "--json")
    told = json.loads(out)
    assert code == 1 and not told["fits"]  # DeepSpeed's bucket is larger than this device
    assert told["max_seq_len"] is None and told["memory"]["phase"] == "step"
    assert "ZeRO-1 over 4 ranks (dp x sp)" in told["memory"]["assumptions"][0]
    assert "[3, seq@sp, " in json.dumps(told["reshards"]) or "[batch@dp, " in json.dumps(told["reshards"])


# As published with the weights.
PARAMETERS = {"llama-3.2-3b": 3_212_749_824, "llama-3.1-8b": 8_030_261_248, "llama-2-13b": 13_015_864_320}


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_has_the_published_number_of_parameters(name):
    model, given = model_named(name)
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name] and given is None
    assert {p.device.type for p in model.parameters()} == {"meta"}


WRONG = {
    "model": ("--model", "llama-3.1-8"),
    "model_file": ("--model", "none.json"),
    "spec": ("--model", "llama-2-13b", "--spec", "lama"),
    "ranks": ("--model", "llama-2-13b", "--sp", 0),
    "device": ("--model", "llama-2-13b", "--device", "a100"),
    "settings": ("--model", "llama-2-13b", "--zero", 4, "--optimizer", "adm"),
    "recompute": ("--model", "llama-2-13b", "--recompute", "sac budget 1.5"),
}


@pytest.mark.parametrize("name", WRONG)
def test_asked_wrongly(name):
    code, out, err = invoke(*WRONG[name])
    assert (code, out) == (1, "")
    golden.expect("plan_command", name, err)
