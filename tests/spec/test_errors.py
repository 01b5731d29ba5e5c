"""Malformed specs and the exact text that each must give, in tests/golden/spec_errors."""

import pytest

from autosp.errors import SpecError
from autosp.spec import parse
from tests import expected

FOLDER = expected.GOLDEN / "spec_errors"


def samples(path):
    """Name, spec and expected text of each sample of a golden file."""
    for block in path.read_text(encoding="utf-8").split("=== ")[1:]:
        name, _, rest = block.partition("\n")
        spec, _, text = rest.partition("\n---\n")
        yield name, spec, text.strip("\n")


def error_text(spec):
    with pytest.raises(SpecError) as caught:
        parse(spec, "sample.spec")
    return str(caught.value)


SAMPLES = [
    pytest.param(path, name, spec, text, id=f"{path.stem}-{name}")
    for path in sorted(FOLDER.glob("*.txt"))
    for name, spec, text in samples(path)
]


def renew(path, name, text):
    """Writes the text of one sample anew."""
    blocks = [f"=== {n}\n{spec}\n---\n{text if n == name else old}\n" for n, spec, old in samples(path)]
    path.write_text("\n".join(blocks), encoding="utf-8")


@pytest.mark.parametrize(("path", "name", "spec", "text"), SAMPLES)
def test_malformed_spec_gives_exactly_this_text(path, name, spec, text):
    found = error_text(spec)
    if expected.renewing:
        renew(path, name, found)
    else:
        assert found == text


def test_there_are_enough_samples():
    assert len(SAMPLES) >= 40


def test_every_problem_has_four_parts():
    for sample in SAMPLES:
        spec = sample.values[2]
        with pytest.raises(SpecError) as caught:
            parse(spec, "sample.spec")
        for problem in caught.value.problems:
            assert problem.where.startswith("sample.spec")
            assert problem.what and problem.rule and problem.fix


def test_errors_come_in_the_order_of_the_file():
    with pytest.raises(SpecError) as caught:
        parse("mesh [dp, sp]\ninput a [b@x]\nfoo\ninput a [c d]\ninput e [f@y]\n", "f")
    assert [p.where for p in caught.value.problems] == ["f:2:12", "f:3:1", "f:4:12", "f:5:12"]


def test_a_word_that_begins_within_a_number_is_the_one_that_is_named():
    with pytest.raises(SpecError) as raised:
        parse("mesh [dp: local, sp]\nrecompute sac budget 0.93input75\n")
    (problem,) = raised.value.problems
    assert problem.what == "'input75' after the end of the statement"
    assert problem.where == "<spec>:2:26"


def test_a_fraction_has_as_many_digits_as_it_likes():
    assert parse("mesh [dp: local, sp]\nrecompute sac budget 0." + "5" * 40 + "\n").recompute.budget == 5 / 9
