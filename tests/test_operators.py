"""docs/operators.md: every operator without a rule has a reason."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from autosp.passes import global_graph
from autosp.rules import default_rules
from autosp.rules.call import resolve
from tests.operators import NEW, PAGE, REASONS, operators, page, why


def test_every_operator_without_a_rule_is_on_the_page_with_a_reason():
    written = PAGE.read_text(encoding="utf-8")
    assert NEW not in written
    if f"in torch {torch.__version__.split('+')[0]} " in written:  # another release has other operators
        known, now = re.findall(r"`([\w.]+)`", written), re.findall(r"`([\w.]+)`", page())
        assert set(now) <= set(known) and NEW not in page()


def test_reasons():
    assert why("aten.silu_backward.default") == "Backwards"
    assert why("aten.fft_fft.default") == "Fourier transforms"
    assert why("aten.something_new.default") == NEW
    assert "aten.linear.default" in operators() and "aten.add_.Tensor" not in operators()


# Public functions of torch that a graph holds as an operator without a rule, by that operator.
HELD: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "_grouped_mm": lambda x: F.grouped_mm(
        x.flatten(0, 1).bfloat16(), torch.ones(3, 8, 8).bfloat16(), offs=torch.tensor([4, 8, 16], dtype=torch.int32)
    ),
    "fft_fft": lambda x: torch.fft.fft(x, dim=-1).real,
    "fft_rfft": lambda x: torch.fft.rfft(x, dim=1).abs(),
    "fft_fftshift": torch.fft.fftshift,
    "stft": lambda x: torch.stft(x[0], 4, return_complex=True).abs(),
    "chalf": lambda x: x.chalf().abs(),
    "mm.dtype": lambda x: torch.mm(x[0].bfloat16(), x[1].bfloat16(), out_dtype=torch.float32),
    "fake_quantize_per_tensor_affine": lambda x: torch.fake_quantize_per_tensor_affine(x, 0.1, 0, -128, 127),
    "_sample_dirichlet": lambda x: torch.distributions.Dirichlet(x.exp(), validate_args=False).sample(),
    "_upsample_lanczos2d_aa.vec": lambda x: torch.ops.aten._upsample_lanczos2d_aa.vec(x[None], [4, 4], False, None),
}
BELOW = "Internals of linear algebra and transforms", "Other internals", "Kernels of one device", "Kernels of attention"


@pytest.mark.parametrize("name", [n for n in HELD if resolve(f"aten.{n}" if "." in n else f"aten.{n}.default")])
def test_what_a_graph_holds_is_not_said_to_be_below_it(name: str):
    captured, _ = global_graph(lambda x: HELD[name](x).sum(), {"x": torch.ones(2, 8, 8)})
    full = name if "." in name else f"{name}.default"
    assert f"aten.{full}" in {str(n.target) for n in captured.graph.graph.nodes}
    assert why(f"aten.{full}") not in (*BELOW, NEW)


def test_what_is_said_to_have_no_backward_has_none():
    """By the formulas that autograd is made from."""
    torchgen = pytest.importorskip("torchgen")
    text = (Path(torchgen.__file__).parent / "packaged" / "autograd" / "derivatives.yaml").read_text(encoding="utf-8")
    formulas = re.findall(r"^- name: ([\w.]+)\(", text, re.M)
    titles = [title for title, (_, said) in REASONS.items() if "no backward" in said]
    assert len(titles) == 2 and len(formulas) > 500
    missing = {name for name in operators() if why(name) in titles} - set(default_rules().names())
    assert not {f for f in formulas if f"aten.{f}" in missing or f"aten.{f}.default" in missing}
