import pytest

from autosp.errors import SpecError
from autosp.spec import format_text, parse

UNTIDY = """\


# A family.
family llama
match LlamaForCausalLM,   # one
   MistralForCausalLM     # and another


mesh [ dp:local,sp ]
input input_ids [batch@dp,seq@sp]
#   the mask stays whole
input attention_mask   [ batch@dp , seq ]   optional#aside
output loss [ ]
constrain model.layers.*.mlp output [batch@dp, seq@(sp), hidden]
map model.layers.*.mlp.experts over seq   # per shard
recompute sac budget 2048MiB # tight
tile loss auto
"""

TIDY = """\
# A family.
family  llama
# one
match   LlamaForCausalLM, MistralForCausalLM  # and another

mesh      [dp: local, sp]
input     input_ids       [batch@dp, seq@sp]
#   the mask stays whole
input     attention_mask  [batch@dp, seq]     optional  #aside
output    loss            []
constrain model.layers.*.mlp          output [batch@dp, seq@sp, hidden]
map       model.layers.*.mlp.experts  over seq          # per shard
recompute sac budget 2GiB                               # tight
tile      loss auto
"""

CANONICAL = """\
family  llama
match   LlamaForCausalLM, MistralForCausalLM

mesh    [dp: local, sp]

input   input_ids       [batch@dp, seq@sp]
input   attention_mask  [batch@dp, seq]     optional

output  loss            []

attention ulysses

constrain model.layers.*.mlp          output [batch@dp, seq@sp, hidden]
map       model.layers.*.mlp.experts  over seq

recompute sac budget 2GiB
tile      loss auto
"""


def test_formatting_keeps_order_and_comments():
    assert format_text(UNTIDY) == TIDY
    assert format_text(TIDY) == TIDY
    assert parse(TIDY) == parse(UNTIDY)


def test_the_text_of_a_spec_has_one_order():
    assert str(parse(UNTIDY)) == CANONICAL


def test_formatting_keeps_what_only_a_whole_spec_could_miss():
    assert format_text("include  base.spec\ninput x [seq@sp]") == "include base.spec\ninput   x  [seq@sp]\n"


def test_formatting_nothing_gives_nothing():
    assert format_text("") == format_text("\n \n") == ""


def test_formatting_refuses_what_it_cannot_read_all_at_once():
    with pytest.raises(SpecError) as caught:
        format_text("mesh [a b]\nfoo\n", "f")
    assert [p.where for p in caught.value.problems] == ["f:1:9", "f:2:1"]
