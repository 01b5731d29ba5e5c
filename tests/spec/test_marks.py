import gc
import inspect

import pytest
import torch

from autosp.errors import InputError, SpecError
from autosp.spec import annotate, annotation_of, load
from autosp.spec.marks import _layouts
from autosp.syntax import P, parse_layout


def test_a_mark_is_found_by_identity_and_dies_with_its_tensor():
    before = len(_layouts)
    x = torch.zeros(2, 8)
    assert annotate(x, "[batch@dp, seq@sp]") is x
    assert annotation_of(x) == parse_layout("[batch@dp, seq@sp]")
    assert annotation_of(torch.zeros(2, 8)) is None
    del x
    gc.collect()
    assert len(_layouts) == before


def test_a_second_mark_replaces_the_first():
    x = annotate(torch.zeros(2, 8), P("dp", "sp"))
    annotate(x, P("dp", None))
    assert annotation_of(x) == P("dp", None)
    assert x.tag == "autosp:[_@dp, _]"


def test_a_tag_of_the_users_stays():
    x = torch.zeros(2)
    x.tag = "mine"
    annotate(x, "[seq@sp]")
    assert x.tag == "mine"
    assert annotation_of(x) == parse_layout("[seq@sp]")


def test_a_batch_takes_the_layouts_of_a_spec():
    spec = load("llama")
    batch = {"input_ids": torch.zeros(2, 8), "attention_mask": None, "use_cache": False, "other": torch.zeros(3)}
    assert annotate(batch, spec) is batch
    assert annotation_of(batch["input_ids"]) == spec.input("input_ids").layout
    assert annotation_of(batch["other"]) is None


def test_misfits_are_told_all_at_once():
    with pytest.raises(InputError) as caught:
        annotate({"input_ids": torch.zeros(8), "labels": torch.zeros(1, 2, 8)}, load("llama"))
    assert str(caught.value) == (
        "error: input 'input_ids' of shape [8] has 1 dim, its layout [batch@dp, seq@sp] has 2 dims\n"
        "   = rule: a layout names every dim of its tensor\n"
        "   = fix: drop the dims that the tensor lacks\n\n"
        "error: input 'labels' of shape [1, 2, 8] has 3 dims, its layout [batch@dp, seq@sp] has 2 dims\n"
        "   = rule: a layout names every dim of its tensor\n"
        "   = fix: name the missing dims, or '...' for those that are not split"
    )


@pytest.mark.parametrize(
    ("value", "layout", "error"),
    [
        (torch.zeros(2), "[a@sp, b]", InputError),
        (torch.zeros(2), "[a] sum@sp", InputError),
        ([1, 2], "[a]", InputError),
        (torch.zeros(2), "[a b]", SpecError),
        (torch.zeros(2), 3, SpecError),
    ],
)
def test_what_cannot_be_marked(value, layout, error):
    with pytest.raises(error):
        annotate(value, layout)


def test_a_spec_marks_batches_only():
    with pytest.raises(InputError, match="a value of type Tensor is annotated with a spec"):
        annotate(torch.zeros(2), load("llama"))


def test_public_names_stay_functions_whatever_is_imported_first():
    """A submodule of a function's name would take its place in the package."""
    import autosp
    import autosp.engine
    import autosp.rules.verify

    for name in ("annotate", "constrain", "parse", "load", "compile", "backend"):
        assert inspect.isfunction(getattr(autosp, name)), name
