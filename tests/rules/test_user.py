"""Rules of one's own: installed from a file, registered in code; both are held against the schema and proved."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

import autosp.rules
from autosp.cli import main
from autosp.errors import RuleError
from autosp.rules import default_rules, user
from autosp.rules.verify import verify

from . import own_operators

HERE = own_operators.__name__
CAP = "rule own_ops.soft_cap.default(x[*]) -> [*]\n     saves x\n"
WRONG = "rule own_ops.soft_cap.default(x[*]) -> [*]\n     linear x\n"


@pytest.fixture(autouse=True)
def own(tmp_path, monkeypatch):
    """A folder of rules that is empty, and nothing registered."""
    monkeypatch.setenv("AUTOSP_RULES", str(tmp_path / "rules"))
    monkeypatch.setattr(user, "REGISTERED", [])
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    user.CASES.clear()


def rules(*args: str):
    return CliRunner().invoke(main, ["rules", *args])


def test_a_good_file_is_proved_installed_and_read_from_then_on(own: Path):
    (own / "cap.rule").write_text(CAP)
    result = rules("add", "cap.rule")
    assert result.exit_code == 0
    proved, installed = result.output.splitlines()
    assert re.fullmatch(r"proved  own_ops\.soft_cap\.default  \d+ checks  error 0\.0e\+00  pass \*0, .*", proved)
    assert installed == f"installed {own / 'rules' / 'cap.rule'}"
    assert default_rules().by_name["own_ops.soft_cap.default"][0].where == "cap.rule:1:1"
    assert "own_ops.soft_cap.default  pass *" in rules("list").output.splitlines()
    assert rules("verify", "own_ops.soft_cap").exit_code == 0
    assert rules("add", "cap.rule").output.splitlines()[-1] == f"replaced {own / 'rules' / 'cap.rule'}"


def test_a_wrong_rule_is_not_installed(own: Path):
    (own / "wrong.rule").write_text(WRONG)
    result = rules("add", "wrong.rule")
    assert result.exit_code == 1 and result.output.startswith("WRONG   own_ops.soft_cap.default  ")
    assert result.stderr == (
        "error: own_ops.soft_cap.default: the rule is wrong, as the lines above show\n"
        "  --> wrong.rule\n"
        "   = rule: a rule is installed that gives the whole call's results under every split it allows\n"
        "   = fix: correct the file and add it again; nothing was installed\n"
    )
    assert not (own / "rules").exists()


def test_an_operator_that_is_not_loaded_is_installed_unproved(own: Path):
    (own / "far.rule").write_text("rule far.away.default(x[*]) -> [*]\n")
    result = rules("add", "far.rule")
    assert result.exit_code == 0
    assert result.output.splitlines()[0] == "unproved far.away.default  no operator of that name is loaded"
    absent = "absent  far.away.default  no operator of that name is loaded; name its module with --import"
    (own / "rules" / "far.rule").write_text("rule far.away.default(x[*]) -> [*]\n")
    assert absent in _verify_all_but_shipped().splitlines()


def _verify_all_but_shipped() -> str:
    """`autosp rules verify` with a book that holds nothing but one's own rules."""
    from unittest import mock

    from autosp.rules.book import RuleBook

    with mock.patch("autosp.rules.book.shipped_rules", lambda: RuleBook(())):
        return rules("verify").output


def test_a_module_that_makes_operators_is_imported(own: Path):
    (own / "late_ops.py").write_text(
        "import torch\n"
        "@torch.library.custom_op('late_ops::twice', mutates_args=())\n"
        "def twice(x: torch.Tensor) -> torch.Tensor:\n    return x * 2\n"
        "twice.register_fake(torch.empty_like)\n"
        "twice.register_autograd(lambda ctx, grad: grad * 2)\n"
    )
    (own / "late.rule").write_text("rule late_ops.twice.default(x[*]) -> [*]\n     linear x\n")
    result = rules("add", "late.rule", "--import", "late_ops")
    assert result.output.startswith("proved  late_ops.twice.default  ")
    assert rules("add", "late.rule", "--import", "no_such_ops").stderr == (
        "error: module 'no_such_ops' cannot be imported: No module named 'no_such_ops'\n"
        "   = rule: --import names a Python module that registers operators\n"
        "   = fix: run the command where the module can be imported, or set PYTHONPATH\n"
    )


SCHEMA = "names are those of the operator's schema: own_ops::soft_cap(Tensor x, float cap) -> Tensor"
FAULTS = {
    "rule own_ops.soft_cap.default(y[*]) -> [*]": f"""\
error: 'y' is not an argument of own_ops.soft_cap.default
  --> own.rule:1:1
   = rule: {SCHEMA}
   = fix: use one of x, cap

error: 'x' of own_ops.soft_cap.default is a tensor, and the rule does not say its dims
  --> own.rule:1:1
   = rule: {SCHEMA}
   = fix: add 'x[...]' with its dims to the operands
""",
    "rule own_ops.soft_cap.default(x[*]) -> [*]\n     whole at cpa": f"""\
error: 'cpa' is not an argument of own_ops.soft_cap.default
  --> own.rule:1:1
   = rule: {SCHEMA}
   = fix: did you mean 'cap'?
""",
    "rule own_ops.soft_cap.default(x[*]) -> [*], [*]": f"""\
error: own_ops.soft_cap.default gives 1 results, and the rule 2
  --> own.rule:1:1
   = rule: {SCHEMA}
   = fix: write the dims of each result after '->'
""",
}


@pytest.mark.parametrize("text", FAULTS)
def test_a_file_is_held_against_the_schema(own: Path, text: str):
    (own / "own.rule").write_text(text)
    result = rules("add", "own.rule")
    assert (result.exit_code, result.stderr) == (1, FAULTS[text])


def test_a_file_that_is_none():
    assert rules("add", "none.rule").stderr == (
        "error: 'none.rule' cannot be read: No such file or directory\n"
        "   = rule: autosp rules add takes a file of rules\n"
        "   = fix: name a file such as mylib.rule\n"
    )


def test_the_folder(own: Path, monkeypatch: pytest.MonkeyPatch):
    assert user.folder() == own / "rules"
    monkeypatch.delenv("AUTOSP_RULES")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(own / "config"))
    assert user.folder() == own / "config" / "autosp" / "rules"
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.setenv("HOME", str(own))
    assert user.folder() == own / ".config" / "autosp" / "rules"


def test_an_installed_file_that_breaks_says_where(own: Path):
    (own / "rules").mkdir()
    (own / "rules" / "bad.rule").write_text("rule own_ops.soft_cap.default(x[*])")
    with pytest.raises(RuleError, match=re.escape(f"--> {own / 'rules' / 'bad.rule'}:1:36")):
        default_rules()


def test_a_rule_registered_in_code_is_tried_first_and_proved():
    x = torch.randn(3, 4)
    call = (torch.ops.own_ops.soft_cap.default, (x, 2.0), {}, x)
    with pytest.raises(RuleError, match="has no rule"):
        default_rules().bind(*call)
    autosp.rules.rule(CAP)
    bound = default_rules().bind(*call)
    assert bound.kinds == ("pass", "pass") and re.fullmatch(r"test_user\.py:\d+ rule:1:1", bound.rule)
    (report,) = verify(default_rules(), ["own_ops.soft_cap.default"])
    assert report.ok and report.checks > 0
    autosp.rules.rule(WRONG)
    assert len(default_rules().by_name["own_ops.soft_cap.default"]) == 1
    (report,) = verify(default_rules(), ["own_ops.soft_cap.default"])
    assert not report.ok


def test_a_shipped_rule_gives_way_to_ones_own():
    autosp.rules.rule("rule aten.relu.default(self[*]) -> [*]\n whole *")
    x = torch.ones(2, 3)
    assert set(default_rules().bind(torch.ops.aten.relu.default, (x,), {}, x).kinds) == {"whole"}
    (report,) = verify(default_rules(), ["aten.relu.default"])
    assert report.ok


def test_calls_that_no_random_tensors_make_are_given_as_cases():
    text = "rule own_ops.bump.default(x[n, d], at[m]) -> [n, d]\n whole n, m"

    def cases():
        yield torch.randn(5, 4), torch.tensor([1, 1, 3])

    autosp.rules.rule(text)
    (report,) = verify(default_rules(), ["own_ops.bump.default"])
    assert not report.called
    autosp.rules.rule(text, cases=cases)
    (report,) = verify(default_rules(), ["own_ops.bump.default"])
    assert report.ok and report.splits == ("pass d",)


def test_as_a_decorator():
    @autosp.rules.rule("rule own_ops.half.default(x[*]) -> [*]\n linear x")
    @torch.library.custom_op("own_ops::half", mutates_args=())
    def half(x: torch.Tensor) -> torch.Tensor:
        return x / 2

    half.register_fake(torch.empty_like)
    half.register_autograd(lambda ctx, grad: grad / 2)
    assert isinstance(half, torch.library.CustomOpDef)
    (report,) = verify(default_rules(), ["own_ops.half.default"])
    assert report.ok and "linear x" in report.splits


def test_a_decorator_that_speaks_of_another_operator_is_refused():
    with pytest.raises(RuleError) as caught:
        autosp.rules.rule("rule own_ops.soft_kap.default(x[*]) -> [*]")(own_operators.soft_cap)
    assert re.sub(r":\d+ rule", ":N rule", str(caught.value)) == (
        "error: the rule speaks of own_ops.soft_kap.default, and decorates own_ops.soft_cap\n"
        "  --> test_user.py:N rule:1:1\n"
        "   = rule: a rule that decorates an operator speaks of that operator\n"
        "   = fix: write 'rule own_ops.soft_cap.default(...)'"
    )
    assert user.REGISTERED == []


def test_text_that_is_no_rule_is_refused_in_code():
    with pytest.raises(RuleError, match=r"--> test_user\.py:\d+ rule:1:36"):
        autosp.rules.rule("rule own_ops.soft_cap.default(x[*])")
    with pytest.raises(RuleError, match=r"'y' is not an argument of own_ops\.soft_cap\.default"):
        autosp.rules.rule("rule own_ops.soft_cap.default(y[*]) -> [*]")
    assert user.REGISTERED == []
