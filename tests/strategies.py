"""Hypothesis strategies: random layouts, specs, and specs with mistakes."""

from hypothesis import strategies as st

from autosp.spec import Axis, Constraint, DimFact, Input, Map, Output, Recompute, Spec, Tile
from autosp.syntax import ELLIPSIS, Dim, Layout, Part

AXES = ("dp", "sp", "tp", "ep")
DIMS = ("batch", "seq", "kv_seq", "hidden", "heads", "vocab", "input", "none", "sum", "local")
WORDS = st.sampled_from(("input_ids", "labels", "mask", "optional", "loss", "logits", "aux", "mesh", "x1", "_y"))
PATHS = st.sampled_from(("model.layers.*.mlp", "lm_head", "model.layers.0.self_attn", "*", "h.*.attn.c_proj", "input"))


@st.composite
def layouts(draw, axes=AXES, dims=DIMS, sums=True, ellipsis=True):
    """A random valid layout: each axis and each dim name used at most once."""
    free_axes = draw(st.permutations(axes))
    free_dims = list(draw(st.permutations(dims)))
    count = draw(st.integers(0, 4))
    taken = 0

    def take(most):
        nonlocal taken
        number = draw(st.integers(0, min(most, len(free_axes) - taken)))
        taken += number
        return tuple(free_axes[taken - number : taken])

    def part():
        kind = draw(st.sampled_from(("name", "name", "name", "size", "none")))
        if kind == "name":
            return Part(name=free_dims.pop(), axes=take(2))
        if kind == "size":
            size = draw(st.integers(1, 9))
            return Part(size=size, axes=() if size == 1 else take(1))
        return Part(axes=take(1))

    out = [Dim(tuple(part() for _ in range(draw(st.sampled_from((1, 1, 1, 2)))))) for _ in range(count)]
    if ellipsis and draw(st.booleans()) and draw(st.booleans()):
        out.insert(draw(st.integers(0, len(out))), ELLIPSIS)
    return Layout(tuple(out), take(2) if sums else ())


def unique(values, key):
    """Lists of `values` in which no two have the same `key`."""
    return st.lists(values, max_size=4, unique_by=key)


def recomputes():
    """Any recompute policy."""
    budgets = st.one_of(
        st.none(),
        st.just("auto"),
        st.integers(1, 2**50),
        st.floats(0.0001, 1).filter(lambda f: f >= 0.0001),
    )
    plain = st.sampled_from(("none", "full")).map(Recompute)
    return st.one_of(plain, budgets.map(lambda budget: Recompute("sac", budget)))


@st.composite
def specs(draw):
    """A random valid spec, every statement of the language in it at times."""
    names = draw(st.lists(st.sampled_from(AXES), min_size=1, max_size=4, unique=True))
    mesh = tuple(Axis(name, draw(st.booleans())) for name in names)
    layout = layouts(axes=tuple(names), sums=False)
    inputs = draw(unique(st.builds(Input, WORDS, layout, st.booleans()), lambda i: i.name))
    modes = st.sampled_from(("none", "whole"))
    outputs = draw(
        unique(
            st.one_of(
                st.builds(Output, WORDS, layout),
                st.builds(lambda name, mode: Output(name, mode=mode), WORDS, modes),
            ),
            lambda o: o.name,
        )
    )
    constraints = draw(
        unique(st.builds(Constraint, PATHS, st.sampled_from(("input", "output")), layout), lambda c: (c.module, c.port))
    )
    known = sorted({n for v in (*inputs, *outputs, *constraints) if v.layout for n in v.layout.names})
    maps, dims = [], []
    if known:
        some = st.sampled_from(known)
        maps = draw(unique(st.builds(Map, PATHS, some), lambda m: m.module))
        dims = draw(
            unique(
                st.one_of(
                    st.builds(lambda n, s: DimFact(n, size=s), some, st.integers(1, 10**9)),
                    st.builds(lambda n, a: DimFact(n, axis=a), some, st.sampled_from(names)),
                ),
                lambda d: (d.name, d.axis),
            )
        )
    needed = [axis.name for axis in mesh if not axis.local]
    extra = draw(st.lists(st.sampled_from([a.name for a in mesh if a.local] or needed), unique=True))
    tiles = draw(st.sampled_from(((), (Tile(),), (Tile(mode="none"),), (Tile(mode=8), Tile("mlp")))))
    return Spec(
        family=draw(st.none() | st.sampled_from(("llama", "gpt2", "match"))),
        match=draw(st.lists(st.sampled_from(("LlamaForCausalLM", "GPT2LMHeadModel")), unique=True)),
        mesh=mesh,
        dims=dims,
        inputs=inputs,
        outputs=outputs,
        attention=draw(st.sampled_from(("ulysses", "gather", "auto"))),
        constraints=constraints,
        maps=maps,
        recompute=draw(recomputes()),
        tile=tiles,
        offload=draw(st.sampled_from(("none", "auto"))),
        reduce=tuple(dict.fromkeys([*needed, *extra])),
    )


JUNK = (
    "",
    " ",
    "\n",
    "\t",
    "[",
    "]",
    "(",
    ")",
    ",",
    "@",
    ":",
    "=",
    ".",
    "...",
    "*",
    "#",
    "_",
    "-1",
    "0",
    "1",
    "9" * 30,
    "input",
    "output",
    "mesh",
    "loss",
    "optional",
    "sum@sp",
    "none",
    "é",
    "\u00a0",
    "\x00",
    "\r",
    "\u2028",
    "{",
    "'",
    "\\",
)


def edits():
    """One change of a text: where (as a fraction), how much goes, what comes."""
    return st.tuples(st.floats(0, 1), st.integers(0, 12), st.sampled_from(JUNK))


def edited(text, changes):
    """The text after some changes."""
    for at, length, junk in changes:
        i = int(at * len(text))
        text = text[:i] + junk + text[i + length :]
    return text
