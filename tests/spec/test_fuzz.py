"""Whatever is given, a spec or a SpecError comes back; and printing then parsing changes nothing."""

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autosp import resources
from autosp.errors import SpecError
from autosp.spec import format_text, parse
from autosp.syntax import parse_layout
from tests.strategies import JUNK, edited, edits, layouts, specs

QUICK = settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))


@QUICK
@given(layouts())
def test_a_layout_is_what_its_text_says(layout):
    assert parse_layout(str(layout)) == layout


@QUICK
@given(specs())
def test_a_spec_is_what_its_text_says(spec):
    text = str(spec)
    assert parse(text) == spec
    assert str(parse(text)) == text
    assert format_text(text) == text


@QUICK
@given(specs(), st.lists(st.sampled_from(("# note", "   # aside", "", "  ")), max_size=8), st.randoms())
def test_formatting_keeps_comments_and_meaning(spec, notes, rng):
    lines = str(spec).split("\n")
    for note in notes:
        lines.insert(rng.randrange(len(lines) + 1), note)
    text = "\n".join(lines)
    done = format_text(text)
    assert parse(done) == spec
    assert format_text(done) == done
    assert done.count("#") == text.count("#")


def survives(text):
    """Read a text in every way; anything but SpecError goes through."""
    for read in (parse, format_text, parse_layout):
        try:
            str(read(text))
        except SpecError as error:
            assert all(p.what and p.rule and p.fix for p in error.problems)


@QUICK
@given(st.text(max_size=200))
def test_any_text_gives_a_spec_or_a_spec_error(text):
    survives(text)


@QUICK
@given(specs(), st.lists(edits(), min_size=1, max_size=6))
def test_a_damaged_spec_gives_a_spec_or_a_spec_error(spec, changes):
    survives(edited(str(spec), changes))


def mutants(count, seed):
    """Shipped specs with a few random changes each."""
    rng = random.Random(seed)
    texts = [resources.read("models", name) for name in resources.listing("models")]
    words = [word for text in texts for word in text.split()]
    for _ in range(count):
        lines = rng.choice(texts).split("\n")
        for _ in range(rng.randint(1, 3)):
            i = rng.randrange(len(lines))
            change = (rng.random(), rng.randint(0, 6), rng.choice((*JUNK, rng.choice(words))))
            lines[i] = edited(lines[i], [change])
        yield "\n".join(lines)


@pytest.mark.parametrize("seed", range(4))
def test_2500_mutated_real_specs_give_a_spec_or_a_spec_error(seed):
    for text in mutants(2500, seed):
        try:
            parse(text)
        except SpecError:
            pass


def test_the_longest_lines_and_numbers_are_survived():
    survives("input x [" + "a@b " * 5000)
    survives("mesh [sp]\ninput x [" + "9" * 5000 + "]")
    survives("mesh [sp]\nrecompute sac budget " + "9" * 17 + "." + "9" * 19 + "TiB")
    survives("(" * 5000)
    survives("[" * 5000 + "]" * 5000)
