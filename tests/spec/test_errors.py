"""Malformed specs and the exact text that each must give, in tests/golden/spec_errors.

`AUTOSP_UPDATE_GOLDEN=1 pytest tests/spec/test_errors.py` rewrites the texts; read the diff.
"""

import os
from pathlib import Path

import pytest

from autosp.errors import SpecError
from autosp.spec import parse

FOLDER = Path(__file__).parent.parent / "golden" / "spec_errors"
UPDATE = bool(os.environ.get("AUTOSP_UPDATE_GOLDEN"))


def samples(path):
    """Name, spec and expected text of each sample of a golden file."""
    for block in path.read_text(encoding="utf-8").split("=== ")[1:]:
        name, _, rest = block.partition("\n")
        spec, _, expected = rest.partition("\n---\n")
        yield name, spec, expected.strip("\n")


def error_text(spec):
    with pytest.raises(SpecError) as caught:
        parse(spec, "sample.spec")
    return str(caught.value)


def rewrite(path):
    blocks = [f"=== {name}\n{spec}\n---\n{error_text(spec)}\n" for name, spec, _ in samples(path)]
    path.write_text("\n".join(blocks), encoding="utf-8")


if UPDATE:
    for each in FOLDER.glob("*.txt"):
        rewrite(each)

SAMPLES = [
    pytest.param(spec, expected, id=f"{path.stem}-{name}")
    for path in sorted(FOLDER.glob("*.txt"))
    for name, spec, expected in samples(path)
]


@pytest.mark.parametrize(("spec", "expected"), SAMPLES)
def test_malformed_spec_gives_exactly_this_text(spec, expected):
    assert error_text(spec) == expected


def test_there_are_enough_samples():
    assert len(SAMPLES) >= 40


def test_every_problem_has_four_parts():
    for sample in SAMPLES:
        spec = sample.values[0]
        with pytest.raises(SpecError) as caught:
            parse(spec, "sample.spec")
        for problem in caught.value.problems:
            assert problem.where.startswith("sample.spec")
            assert problem.what and problem.rule and problem.fix


def test_errors_come_in_the_order_of_the_file():
    with pytest.raises(SpecError) as caught:
        parse("mesh [dp, sp]\ninput a [b@x]\nfoo\ninput a [c d]\ninput e [f@y]\n", "f")
    assert [p.where for p in caught.value.problems] == ["f:2:12", "f:3:1", "f:4:12", "f:5:12"]
