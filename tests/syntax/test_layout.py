import pickle
import subprocess
import sys

import pytest

from autosp.errors import SpecError
from autosp.syntax import ELLIPSIS, Dim, Layout, P, Part, as_layout, parse_layout

WRITTEN = [
    ("[batch@dp, seq@sp, hidden]", "[batch@dp, seq@sp, hidden]"),
    ("  [ batch @ dp,seq@sp ]  ", "[batch@dp, seq@sp]"),
    ("[(batch@dp   seq@sp), vocab]", "[(batch@dp seq@sp), vocab]"),
    ("[(seq@sp)]", "[seq@sp]"),
    ("[heads@(sp tp)]", "[heads@(sp tp)]"),
    ("[heads@(sp)]", "[heads@sp]"),
    ("[(batch heads@(sp tp)), ..., 1]", "[(batch heads@(sp tp)), ..., 1]"),
    ("[] sum@sp", "[] sum@sp"),
    ("[batch@dp] sum@(sp tp)", "[batch@dp] sum@(sp tp)"),
    ("[_, _@sp, 64]", "[_, _@sp, 64]"),
    ("[]", "[]"),
    ("[batch@dp,  # the batch\n seq@sp]", "[batch@dp, seq@sp]"),
    ("[sum, none, input]", "[sum, none, input]"),
]


@pytest.mark.parametrize(("text", "canonical"), WRITTEN)
def test_canonical_text(text, canonical):
    layout = parse_layout(text)
    assert str(layout) == canonical
    assert parse_layout(canonical) == layout


def test_values():
    layout = parse_layout("[(batch@dp seq@(sp tp)), 1, ...] sum@ep")
    parts = (Part(name="batch", axes=("dp",)), Part(name="seq", axes=("sp", "tp")))
    assert layout == Layout((Dim(parts), Dim((Part(size=1),)), ELLIPSIS), ("ep",))
    assert layout.axes == ("dp", "sp", "tp")
    assert layout.names == ("batch", "seq")
    assert layout.axes_of(0) == ("dp", "sp", "tp")
    assert layout.axes_of(1) == ()
    assert layout.dim_of("tp") == 0
    assert layout.dim_of("ep") is None
    assert layout.ndim is None
    assert pickle.loads(pickle.dumps(layout)) == layout
    assert len({layout, parse_layout(str(layout))}) == 1


@pytest.mark.parametrize(
    ("text", "ndim", "expanded"),
    [
        ("[batch@dp, ..., seq@sp]", 4, "[batch@dp, _, _, seq@sp]"),
        ("[batch@dp, ..., seq@sp]", 2, "[batch@dp, seq@sp]"),
        ("[batch]", 1, "[batch]"),
    ],
)
def test_expand(text, ndim, expanded):
    assert str(parse_layout(text).expand(ndim)) == expanded


@pytest.mark.parametrize(("text", "ndim"), [("[a, ..., b]", 1), ("[a]", 2), ("[]", 1)])
def test_expand_refuses_what_does_not_fit(text, ndim):
    assert not parse_layout(text).fits(ndim)
    with pytest.raises(ValueError, match="does not fit"):
        parse_layout(text).expand(ndim)


def test_p_reads_as_partition_spec_does():
    assert str(P("dp", "sp", None)) == "[_@dp, _@sp, _]"
    assert str(P(("sp", "tp"), ..., None)) == "[_@(sp tp), ..., _]"
    assert str(P()) == "[]"
    assert as_layout("[_@dp]") == P("dp") == as_layout(P("dp"))


@pytest.mark.parametrize("entry", [3, "a b", ("sp", 1), "", {"sp"}])
def test_p_refuses_other_entries(entry):
    with pytest.raises(SpecError, match="each entry of P is an axis name"):
        P(entry)


def test_a_layout_built_by_hand_is_checked_too():
    with pytest.raises(SpecError, match="axis 'sp' is used twice"):
        P("sp", "sp")
    with pytest.raises(SpecError, match="dim 'seq' is named twice"):
        Layout((Dim((Part("seq"),)), Dim((Part("seq"),))))
    with pytest.raises(ValueError, match="name"):
        Part(name="two words")
    with pytest.raises(ValueError, match="name"):
        Part(name="_")
    with pytest.raises(ValueError, match="not both"):
        Part(name="seq", size=4)


def test_only_a_layout_is_a_layout():
    with pytest.raises(SpecError, match="a value of type int stands where a layout"):
        as_layout(3)


def test_where_names_the_text_in_errors():
    with pytest.raises(SpecError) as caught:
        parse_layout("[seq@sp, seq]", where="autosp.annotate")
    assert str(caught.value).splitlines()[:4] == [
        "error: dim 'seq' is named twice in one layout",
        "  --> autosp.annotate:1:10",
        "   [seq@sp, seq]",
        "            ^^^",
    ]


def test_the_import_is_light():
    heavy = ("lark", "torch", "transformers", "deepspeed")
    code = f"import sys, autosp.syntax, autosp.spec; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
