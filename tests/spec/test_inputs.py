import pytest
import torch

from autosp.errors import InputError
from autosp.spec import annotate, check_inputs, parse

SPEC = parse(
    """
mesh  [dp: local, sp]
dim   seq divides sp
dim   vocab = 100
input ids    [batch@dp, seq@sp]
input mask   [batch@dp, seq]  optional
input bias   [1, ..., kv]     optional
input flat   [(batch@dp seq@sp), vocab]  optional
""",
    "s.spec",
)
SIZES = {"dp": 2, "sp": 4}

GOOD = [
    {"ids": (2, 8)},
    {"ids": torch.zeros(2, 8), "mask": torch.zeros(2, 8)},
    {"ids": (2, 8), "mask": None, "use_cache": False, "name": "x"},
    {"ids": (2, 8), "bias": (1, 5, 5, 3)},
    {"ids": (2, 8), "flat": (16, 100)},
]

BAD = [
    ({}, ["input 'ids' is missing; given: none"]),
    ({"ids": (2, 8), "maks": (2, 8)}, ["no input 'maks' in the spec"]),
    ({"ids": (8,)}, ["input 'ids' of shape [8] has 1 dim, its layout [batch@dp, seq@sp] has 2 dims"]),
    (
        {"ids": (2, 8), "mask": (2, 12)},
        ["dim 'seq' is 8 by input 'ids' of shape [2, 8] and 12 by input 'mask' of shape [2, 12]"],
    ),
    (
        {"ids": (2, 8), "mask": (3, 8)},
        [
            "dim 'batch' is 4 by input 'ids' of shape [2, 8] on each of 2 ranks of 'dp' and 6 by "
            "input 'mask' of shape [3, 8] on each of 2 ranks of 'dp'"
        ],
    ),
    ({"ids": (2, 9)}, ["dim 'seq' of size 9 is not a multiple of 4, the size of axis 'sp'"]),
    ({"ids": (2, 8), "bias": (2, 8, 8)}, ["dim '1' is 2 by input 'bias' of shape [2, 8, 8], and 1 by the spec"]),
    ({"ids": (2, 8), "flat": (16, 50)}, ["dim 'vocab' is 50 by input 'flat' of shape [16, 50], and 100 by the spec"]),
    (
        {"ids": (2, 8), "flat": (17, 100)},
        [
            "the merged dim (batch@dp seq@sp) is 34 by input 'flat' of shape [17, 100] on each of 2 ranks of 'dp'; "
            "the sizes of its parts make 32"
        ],
    ),
    (
        {"mask": (2, 9, 1), "other": (1,)},
        [
            "input 'ids' is missing; given: mask, other",
            "no input 'other' in the spec",
            "input 'mask' of shape [2, 9, 1] has 3 dims, its layout [batch@dp, seq] has 2 dims",
        ],
    ),
]


@pytest.mark.parametrize("given", GOOD)
def test_good_inputs(given):
    check_inputs(SPEC, given, SIZES)


@pytest.mark.parametrize(("given", "whats"), BAD)
def test_bad_inputs(given, whats):
    with pytest.raises(InputError) as caught:
        check_inputs(SPEC, given, SIZES)
    assert [p.what for p in caught.value.problems] == whats


def test_the_whole_text():
    with pytest.raises(InputError) as caught:
        check_inputs(SPEC, {"ids": (2, 9), "maks": (2, 9)}, SIZES)
    assert str(caught.value) == (
        "error: no input 'maks' in the spec\n"
        "   = rule: a tensor that goes in is named by the spec or marked with autosp.annotate\n"
        "   = fix: did you mean 'mask'?\n\n"
        "error: dim 'seq' of size 9 is not a multiple of 4, the size of axis 'sp'\n"
        "  --> s.spec:3:7\n"
        "   = rule: the spec states: dim seq divides sp\n"
        "   = fix: pad it to 12, or drop the line: uneven splits work too"
    )


def test_a_marked_tensor_needs_no_line_and_its_dims_count():
    extra = annotate(torch.zeros(2, 9), "[batch@dp, seq@sp]")
    with pytest.raises(InputError, match="dim 'seq' is 8 by input 'ids'"):
        check_inputs(SPEC, {"ids": (2, 8), "extra": extra}, SIZES)
