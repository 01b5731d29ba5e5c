"""autosp rules: list, explain, verify."""

from __future__ import annotations

import json

from click.testing import CliRunner

from autosp.cli import main


def run(*args: str):
    return CliRunner().invoke(main, ["rules", *args])


def test_list_is_one_operator_a_line():
    lines = run("list").output.splitlines()
    assert "aten.linear.default  pass *, o  reduce i" in lines
    assert "aten.sum.dim_IntList  pass *  reduce at dim" in lines
    assert "aten.view.default  by view" in lines
    assert lines == sorted(lines)


def test_list_for_machines():
    listed = {entry["operator"]: entry for entry in json.loads(run("list", "--json").output)}
    assert listed["aten.mm.default"]["rules"][0]["text"].startswith("rule aten.mm.default(self[m, k], mat2[k, n])")


def test_verify_proves_all_overloads_of_a_name():
    result = run("verify", "aten.linear", "aten.arange")
    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert lines[0].startswith("proved  aten.linear.default  ")
    assert "whole   aten.arange.start" in lines
    assert "1 operators proved, 3 whole, 0 wrong" in lines[-1]


def test_verify_for_machines():
    found = json.loads(run("verify", "aten.relu.default", "--json").output)
    assert found["operators"][0]["ok"] and found["operators"][0]["checks"] > 0


def test_a_wrong_name_is_said_with_the_likely_one():
    result = run("verify", "aten.liner")
    assert result.exit_code == 1
    assert "operator 'aten.liner' has no rule" in result.output + result.stderr
    assert "did you mean 'aten.linear'?" in result.output + result.stderr


def test_explain_shows_the_layout_of_every_tensor_under_each_split():
    text = run("explain", "aten.linear").output
    assert "reduce i" in text
    assert "sum i" in text and "[o] sum@sp" in text
    heads = run("explain", "aten.scaled_dot_product_attention.default").output
    assert "(k@sp g)" in heads and "(k g@sp)" in heads
    assert "whole on every rank" in run("explain", "aten.arange.start").output
