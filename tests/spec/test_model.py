import pytest
import torch

from autosp.spec import check_model, parse
from autosp.spec.paths import matches, meant


class Layer(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.self_attn, self.mlp = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = torch.nn.ModuleList(Layer() for _ in range(2))
        self.lm_head = torch.nn.Linear(2, 2)

    def forward(self, input_ids, labels=None):
        return input_ids, labels


class Open(Model):
    def forward(self, input_ids, labels=None, **kwargs):
        return input_ids, labels, kwargs


HEAD = "mesh [dp: local, sp]\ninput input_ids [batch@dp, seq@sp]\n"
CASES = [
    ("", []),
    ("input mask [batch@dp, seq] optional", []),
    (
        "input mask [batch@dp, seq]",
        [("the forward of Model takes no 'mask'", "use one of labels, or write 'optional' after the layout")],
    ),
    ("input lables [batch@dp, seq]", [("the forward of Model takes no 'lables'", "did you mean 'labels'?")]),
    ("constrain layers.*.mlp output [batch, seq, hidden]", []),
    (
        "constrain layers.*.mpl output [batch, seq, hidden]",
        [("no module of Model is 'layers.*.mpl': no 'mpl' below 'layers.*'", "did you mean 'layers.*.mlp'?")],
    ),
    (
        "map layer.*.selfattn over seq",
        [("no module of Model is 'layer.*.selfattn': no 'layer' at the top", "did you mean 'layers.*.self_attn'?")],
    ),
    (
        "map layers.7.mlp over seq",
        [("no module of Model is 'layers.7.mlp': no '7' below 'layers'", "below 'layers' there is 0, 1")],
    ),
    (
        "constrain layers.*.mlp output [a, b]\nconstrain layers.1.mlp output [a, b@sp]",
        [
            (
                "'constrain layers.1.mlp output [a, b@sp]' contradicts 'constrain layers.*.mlp output [a, b]' at m.spec:3:11, "
                "in module 'layers.1.mlp'",
                "keep one of the two lines, or narrow one of the paths",
            )
        ],
    ),
    ("constrain layers.*.mlp output [a, b]\nconstrain layers.1.mlp input [a, b@sp]", []),
    ("map layers.*.mlp over seq\nmap layers.*.self_attn over seq", []),
    (
        "map layers.*.mlp over seq\nmap layers.* over seq",
        [
            (
                "'map layers.*.mlp over seq' maps layers.0.mlp, a part of layers.0, which 'map layers.* over seq' maps",
                "leave one of the two lines out",
            )
        ],
    ),
    (
        "map layers.*.mlp over seq\nmap layers.1.* over seq",
        [
            (
                "'map layers.1.* over seq' and 'map layers.*.mlp over seq' both map layers.1.mlp",
                "leave one of the two lines out",
            )
        ],
    ),
]


@pytest.mark.parametrize(("lines", "said"), CASES)
def test_spec_against_model(lines, said):
    problems = check_model(parse(HEAD + lines, "m.spec"), Model())
    assert [(p.what, p.fix) for p in problems] == said
    assert all(p.where.startswith("m.spec:") and "^" in p.excerpt for p in problems)


def test_a_forward_that_takes_anything_is_told_of_near_misses_only():
    assert check_model(parse(HEAD + "input mask [batch@dp, seq]"), Open()) == []
    (problem,) = check_model(parse(HEAD + "input lables [batch@dp, seq]"), Open())
    assert problem.fix == "did you mean 'labels'?"


@pytest.mark.parametrize(
    ("pattern", "path", "fits"),
    [
        ("a.*.c", "a.0.c", True),
        ("a.*.c", "a.0.1.c", False),
        ("*", "a", True),
        ("*", "a.b", False),
        ("h.*.mlp_*", "h.3.mlp_in", True),
        ("a", "a", True),
    ],
)
def test_a_star_stands_for_one_name(pattern, path, fits):
    assert matches(pattern, path) is fits


def test_nothing_near_is_no_guess():
    assert meant("zzz.yyy", ["a", "a.b"]) is None
