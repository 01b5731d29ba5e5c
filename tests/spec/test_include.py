import attrs
import pytest

from autosp.errors import SpecError
from autosp.spec import load, parse

BASE = """\
family  base
match   BaseModel
mesh    [dp: local, sp]
input   ids   [batch@dp, seq@sp]
input   mask  [batch@dp, seq]     optional
output  loss  []
attention ulysses
"""


@pytest.fixture
def write(tmp_path):
    def at(name, text):
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return at


def fails(path):
    with pytest.raises(SpecError) as caught:
        load(path)
    return caught.value.problems


def test_own_lines_win_and_names_are_not_inherited(write):
    write("base.spec", BASE)
    spec = load(write("mine.spec", "family mine\ninclude base.spec\nattention gather\ninput mask [batch@dp, seq@sp]\n"))
    assert spec == parse(
        "family mine\nmesh [dp: local, sp]\ninput ids [batch@dp, seq@sp]\n"
        "input mask [batch@dp, seq@sp]\noutput loss []\nattention gather"
    )
    assert "include" not in str(spec)


def test_included_files_include_others(write):
    write("a.spec", "mesh [sp]\n")
    write("b.spec", "include a.spec\ninput x [seq@sp]\n")
    assert load(write("c.spec", "include b.spec\n")) == parse("mesh [sp]\ninput x [seq@sp]")


def test_an_error_in_an_included_file_names_that_file(write):
    write("base.spec", "mesh [dp, sp]\ninput x [a b]\n")
    problems = fails(write("mine.spec", "include base.spec\ninput y [c@ps]\n"))
    assert [p.where.rsplit("/", 1)[-1] for p in problems] == ["base.spec:2:12", "mine.spec:2:12"]


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("../base.spec", "include of '../base.spec', which is outside the spec's folder"),
        ("/etc/passwd", "include of '/etc/passwd', which is outside the spec's folder"),
        ("..", "include of '..', which is outside the spec's folder"),
        ("bsae.spec", "no file 'bsae.spec' beside the spec"),
        ("mine.spec", "files include each other: mine.spec -> mine.spec"),
    ],
)
def test_what_may_not_be_included(write, name, what):
    write("base.spec", BASE)
    assert [p.what for p in fails(write("mine.spec", f"mesh [sp]\ninclude {name}\n"))] == [what]


def test_a_link_out_of_the_folder_is_refused(tmp_path):
    (tmp_path / "out.spec").write_text("mesh [sp]\n")
    inner = tmp_path / "inner"
    inner.mkdir()
    (inner / "link.spec").symlink_to(tmp_path / "out.spec")
    (inner / "mine.spec").write_text("include link.spec\n")
    (problem,) = fails(inner / "mine.spec")
    assert problem.what == "include of 'link.spec', which is outside the spec's folder"


def test_a_circle_is_named(write):
    write("a.spec", "include b.spec\nmesh [sp]\n")
    problems = fails(write("b.spec", "include a.spec\n"))
    assert problems[0].what == "files include each other: b.spec -> a.spec -> b.spec"


def test_a_near_miss_is_suggested(write):
    write("base.spec", BASE)
    assert fails(write("mine.spec", "include bsae.spec\n"))[0].fix == "did you mean 'base.spec'?"


def test_a_shipped_spec_is_included_from_anywhere(write):
    spec = load(write("opt.spec", "family opt\nmatch OPTForCausalLM\ninclude causal_lm.spec\nattention auto\n"))
    assert spec == attrs.evolve(load("causal_lm"), family="opt", match=("OPTForCausalLM",), attention="auto")


def test_a_file_beside_the_spec_goes_before_a_shipped_one(write):
    write("causal_lm.spec", "mesh [sp]\ninput x [seq@sp]\n")
    assert load(write("mine.spec", "include causal_lm.spec\n")) == parse("mesh [sp]\ninput x [seq@sp]")
    assert fails(write("causal_lm.spec", "include causal_lm.spec\n"))[0].what == (
        "files include each other: causal_lm.spec -> causal_lm.spec"
    )


def test_what_a_shipped_spec_says_is_named_by_its_own_file(write):
    spec = load(write("mine.spec", "include mixtral.spec\n"))
    assert {str(each.at).split(":")[0] for each in spec.outputs} == {"mixtral.spec", "causal_lm.spec"}


def test_a_near_miss_of_a_shipped_one_is_suggested(write):
    assert fails(write("mine.spec", "include casual_lm.spec\n"))[0].fix == "did you mean 'causal_lm.spec'?"
