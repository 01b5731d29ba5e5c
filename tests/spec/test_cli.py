import importlib.util
import json

import pytest
from click.testing import CliRunner

from autosp.cli.check import check
from autosp.cli.fmt import fmt
from autosp.errors import AutospError
from autosp.spec import load, parse

BAD = "mesh [dp: local, sp]\ninput ids [batch@dp seq@sp]\ninput mask [batch@dp, seq@ps]\n"


def invoke(command, *args):
    result = CliRunner().invoke(command, [str(a) for a in args])
    if isinstance(result.exception, AutospError):
        return 1, result.stdout, str(result.exception)
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "llama.spec").write_text(str(load("llama")))
    (tmp_path / "bad.spec").write_text(BAD)
    return tmp_path


def test_check_says_one_line_for_a_good_file(files):
    assert invoke(check, "llama.spec") == (0, "llama.spec: ok (4 inputs, 2 outputs, mesh [dp: local, sp])\n", "")
    assert invoke(check, "gpt2")[:2] == (0, "gpt2: ok (5 inputs, 2 outputs, mesh [dp: local, sp])\n")


def test_check_says_every_error_on_stderr(files):
    code, out, err = invoke(check, "llama.spec", "bad.spec", "none.spec")
    assert code == 1
    assert out == "llama.spec: ok (4 inputs, 2 outputs, mesh [dp: local, sp])\n"
    assert [line for line in err.splitlines() if "-->" in line] == ["  --> bad.spec:2:21", "  --> bad.spec:3:27"]
    assert "'none.spec' cannot be read" in err


def test_check_for_a_machine(files):
    code, out, _ = invoke(check, "--json", "llama.spec", "bad.spec")
    good, bad = json.loads(out)
    assert code == 1
    assert parse(good["spec"]) == load("llama")
    assert (good["file"], good["ok"], good["problems"]) == ("llama.spec", True, [])
    assert bad["ok"] is False
    assert [p["where"] for p in bad["problems"]] == ["bad.spec:2:21", "bad.spec:3:27"]
    assert set(bad["problems"][0]) == {"what", "rule", "fix", "where", "excerpt"}


def test_check_against_a_factory(files):
    (files / "mine_for_check.py").write_text(
        "import torch\nclass Net(torch.nn.Module):\n    def forward(self, input_ids, labels):\n        return labels\n"
        "def make():\n    return Net()\n"
    )
    code, out, _ = invoke(check, "llama.spec", "--model", "mine_for_check:make")
    assert (code, out) == (0, "llama.spec: ok (4 inputs, 2 outputs, mesh [dp: local, sp], fits Net)\n")
    (files / "odd.spec").write_text("mesh [sp]\ninput ids [seq@sp]\nmap net over seq\n")
    code, out, err = invoke(check, "odd.spec", "--model", "mine_for_check:make")
    assert (code, out) == (1, "")
    assert "the forward of Net takes no 'ids'" in err
    assert "no module of Net is 'net'" in err


@pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="needs transformers")
def test_check_against_transformers(files):
    from transformers import LlamaConfig

    config = LlamaConfig(num_hidden_layers=1, architectures=["LlamaForCausalLM"])
    (files / "config.json").write_text(config.to_json_string())
    assert invoke(check, "llama", "--model", "config.json")[1].endswith("fits LlamaForCausalLM)\n")
    code, _, err = invoke(check, "llama", "--model", "LamaForCausalLM")
    assert code == 1
    assert "did you mean 'LlamaForCausalLM'?" in err


@pytest.mark.parametrize("name", ["nowhere_at_all:make", "missing.json"])
def test_check_against_no_model(files, name):
    code, _, err = invoke(check, "llama.spec", "--model", name)
    assert code == 1
    assert "a model is a config.json" in err


def test_fmt_rewrites_and_then_leaves_alone(files):
    path = files / "untidy.spec"
    path.write_text("mesh   [ sp ]   # one\r\ninput x [ seq@sp ]\n")
    assert invoke(fmt, "--check", "untidy.spec") == (1, "untidy.spec: would change\n", "")
    assert invoke(fmt, "untidy.spec") == (0, "untidy.spec: rewritten\n", "")
    assert path.read_text() == "mesh    [sp]  # one\ninput   x  [seq@sp]\n"
    assert invoke(fmt, "--check", "untidy.spec") == (0, "untidy.spec: unchanged\n", "")


def test_fmt_leaves_a_file_that_it_cannot_read(files):
    code, out, err = invoke(fmt, "bad.spec", "llama.spec")
    assert (code, out) == (1, "llama.spec: unchanged\n")
    assert "no comma between 'dp' and 'seq'" in err
    assert (files / "bad.spec").read_text() == BAD
