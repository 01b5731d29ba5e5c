import pickle
import time

import pytest

from autosp.errors import SpecError
from autosp.spec import (
    Axis,
    Constraint,
    DimFact,
    Input,
    Map,
    Output,
    Recompute,
    Spec,
    Tile,
    for_class,
    load,
    parse,
)
from autosp.syntax import parse_layout
from autosp.syntax.grammar import parser, tree_of
from autosp.syntax.read import good_layout

WHOLE = """
family  llama
match   LlamaForCausalLM, MistralForCausalLM   # class names it serves
mesh    [dp: local, sp]
dim     seq = 4096
dim     seq divides sp

input   input_ids       [batch@dp, seq@sp]
input   attention_mask  [batch@dp, seq]     optional
output  loss            []
output  logits          none
output  aux             local
attention gather
constrain model.layers.*.mlp  output [batch@dp,   # in several lines
                                      seq@sp, hidden]
map       model.layers.*.mlp.experts over seq
recompute sac budget 20GiB
tile      loss 8
tile      mlp auto
reduce    loss mean over [dp, sp]
"""


def test_every_statement():
    spec = parse(WHOLE)
    ids, mask = parse_layout("[batch@dp, seq@sp]"), parse_layout("[batch@dp, seq]")
    assert spec == Spec(
        family="llama",
        match=("LlamaForCausalLM", "MistralForCausalLM"),
        mesh=(Axis("dp", local=True), Axis("sp")),
        dims=(DimFact("seq", size=4096), DimFact("seq", axis="sp")),
        inputs=(Input("input_ids", ids), Input("attention_mask", mask, optional=True)),
        outputs=(Output("loss", parse_layout("[]")), Output("logits", mode="none"), Output("aux", mode="local")),
        attention="gather",
        constraints=(Constraint("model.layers.*.mlp", "output", parse_layout("[batch@dp, seq@sp, hidden]")),),
        maps=(Map("model.layers.*.mlp.experts", "seq"),),
        recompute=Recompute("sac", 20 * 2**30),
        tile=(Tile("loss", 8), Tile("mlp")),
        reduce=("dp", "sp"),
    )
    assert spec.axes == ("dp", "sp")
    assert spec.local_axes == ("dp",)
    assert spec.input("input_ids").layout == ids
    assert spec.input("labels") is None
    assert spec.output("loss").mode == "layout"


def test_defaults():
    spec = parse("mesh [dp: local, sp, tp]")
    assert spec.attention == "ulysses"
    assert spec.recompute == Recompute("none", None)
    assert spec.reduce == ("sp", "tp")
    assert (spec.family, spec.match, spec.inputs, spec.tile) == (None, (), (), ())


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("sac", None),
        ("sac budget auto", "auto"),
        ("sac budget 0.5", 0.5),
        ("sac budget 1.0", 1.0),
        ("sac budget 20GiB", 20 * 2**30),
        ("sac budget 1.5MiB", 3 * 2**19),
        ("sac budget 20GB", 20 * 10**9),
        ("sac budget 100B", 100),
    ],
)
def test_budgets(text, budget):
    assert parse(f"mesh [sp]\nrecompute {text}").recompute == Recompute("sac", budget)


def test_a_budget_goes_with_sac_and_is_a_fraction_or_bytes():
    with pytest.raises(ValueError, match="only recompute sac"):
        Recompute("full", 0.5)
    with pytest.raises(ValueError, match=r"from 0\.0001 to 1"):
        Recompute("sac", 2.0)


def test_offload():
    assert parse("mesh [sp]").offload == "none"
    spec = parse("mesh [sp]\noffload residual auto")
    assert spec.offload == "auto" and parse(str(spec)) == spec


def test_tiles():
    spec = parse("mesh [sp]\ntile mlp 4\ntile loss none")
    assert spec.tile == (Tile("mlp", 4), Tile("loss", "none"))
    assert parse(str(spec)) == spec
    with pytest.raises(ValueError, match="the loss, the mlp or the mask"):
        Tile("logits")
    for mode in (0, -1, "all"):
        with pytest.raises(ValueError, match="a number of tiles is from 1"):
            Tile("mlp", mode)


def test_places_are_kept_and_take_no_part_in_equality():
    spec = parse(WHOLE, "whole.spec")
    assert str(spec.input("attention_mask").at) == "whole.spec:9:9"
    assert str(spec.places["attention"]) == "whole.spec:13:1"
    assert spec == parse("\n\n" + WHOLE, "other.spec")
    assert hash(spec) == hash(parse(WHOLE))
    assert pickle.loads(pickle.dumps(spec)) == spec


def test_the_same_dim_may_be_split_in_one_input_and_whole_in_another():
    spec = parse("mesh [dp: local, sp]\ninput a [batch@dp, seq@sp]\ninput b [batch@dp, seq]")
    assert [i.layout.dim_of("sp") for i in spec.inputs] == [1, None]


def test_indentation_and_line_ends_of_windows_mean_nothing():
    assert parse("  mesh [sp]\r\n\tinput\ta [seq@sp]\r\n") == parse("mesh [sp]\ninput a [seq@sp]")


def test_a_match_goes_on_after_a_comma():
    assert parse("mesh [sp]\nmatch A,  # one\n      B\nattention auto").match == ("A", "B")


def test_a_spec_built_by_hand_is_checked_too():
    with pytest.raises(SpecError) as caught:
        Spec(mesh=(Axis("sp"),), inputs=(Input("a", parse_layout("[seq@ps]")),))
    assert caught.value.problems[0].what == "no axis 'ps' in mesh [sp]"
    assert caught.value.problems[0].fix == "did you mean 'sp'?"
    with pytest.raises(SpecError, match="the spec has no mesh"):
        Spec()
    with pytest.raises(ValueError, match="which is not a valid name"):
        Axis("s p")


def test_load_by_name_and_by_path(tmp_path):
    path = tmp_path / "mine.spec"
    path.write_text(str(load("llama")))
    assert load(path) == load(str(path)) == load("llama")


@pytest.mark.parametrize(
    ("name", "what", "fix"),
    [
        ("lama", "no spec 'lama'", "did you mean 'llama'?"),
        ("zzz", "no spec 'zzz'", "give a path that ends in .spec, or one of these names"),
        ("missing.spec", "'missing.spec' cannot be read: No such file or directory", "give the path of a spec file"),
    ],
)
def test_load_of_nothing(name, what, fix):
    with pytest.raises(SpecError) as caught:
        load(name)
    assert (caught.value.problems[0].what, caught.value.problems[0].fix) == (what, fix)


def test_load_of_a_file_that_is_no_text(tmp_path):
    path = tmp_path / "bad.spec"
    path.write_bytes(b"mesh [\xff\xfe]")
    with pytest.raises(SpecError, match="it is not UTF-8 text"):
        load(path)


def test_a_class_that_no_family_names_gets_the_general_spec():
    assert for_class("Qwen2ForCausalLM").family == "qwen2"
    assert for_class("SomethingNewForCausalLM") == load("causal_lm")


def long_spec(lines):
    head = "mesh [dp: local, sp]\n" + "".join(f"input x{i} [batch@dp, seq@sp, d{i}]\n" for i in range(20))
    body = "".join(f"constrain model.layers.{i}.mlp output [batch@dp, seq@sp, hidden]\n" for i in range(lines - 21))
    return head + body


def test_300_lines_are_read_within_50_ms(record_property):
    text = long_spec(300)
    assert text.count("\n") == 300
    parser("spec", "statement"), parser("terms", "layout")
    seconds = []
    for _ in range(7):
        tree_of.cache_clear()
        good_layout.cache_clear()
        begin = time.process_time()
        parse(text)
        seconds.append(time.process_time() - begin)
    record_property("seconds", min(seconds))
    assert min(seconds) < 0.05
