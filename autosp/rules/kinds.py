"""The words by which a rule states the kind of its operators: `kind matmul(input, weight), view`."""

from __future__ import annotations

from typing import Literal

import attrs

Names = Literal["operand", "argument", "operator", "word"]


@attrs.frozen
class Trait:
    """What a word means of an operator, and what it names: `("operand", "operand")` for `matmul(a, b)`.

    many: it names one thing or several.
    """

    meaning: str
    names: tuple[Names, ...] = ()
    many: bool = False


KINDS: dict[str, Trait] = {
    # What is computed.
    "matmul": Trait("multiplies two operands and sums over a dim that they share", ("operand", "operand")),
    "plus": Trait("with an addend it is that operator, which takes the addend first", ("operator",)),
    "attention": Trait("scores of a query with keys, and values weighed by them", ("operand", "operand", "operand")),
    "masked": Trait("its mask, and the argument that asks for a causal one in its place", ("operand", "argument")),
    "pointwise": Trait("each element of the result from the elements at its place"),
    "heavy": Trait("a function from the mathematical library for each element"),
    "reduction": Trait("fewer elements, each from several"),
    "loss": Trait("a part of a loss"),
    "token_loss": Trait("a loss of each token; its mean is over those whose target is not `ignore_index`"),
    "norm": Trait("a normalisation, or what one decomposes into"),
    "random": Trait("may draw random numbers"),
    "comparison": Trait("whether the elements at a place compare so; no gradient"),
    "loop": Trait("a compiler that fuses writes its loop itself, beside those of pointwise operators"),
    "allocated": Trait("a kernel of a library that writes into memory that the compiler gives it"),
    "workspace_cpu": Trait("bytes that its kernel takes as it runs, by a formula of recompute/scratch.py", ("word",)),
    "workspace_cuda": Trait("the same on the GPU", ("word",)),
    # What shares memory, or the elements, with its operand.
    "view": Trait("the result is in its first operand's memory, where that is laid out for it"),
    "alias": Trait("the very elements of its operand"),
    "detach": Trait("the very elements of its operand, without its gradient"),
    "clone": Trait("the elements of its operand in their order, in memory of their own"),
    "copy": Trait("elements of its operands, in memory of their own"),
    "overwrite": Trait("its second operand, in the shape and dtype of its first"),
    "cast": Trait("its operand in another dtype or on another device"),
    "reshape": Trait("the elements of its operand in their order, in another shape"),
    "permute": Trait("its operand with its dims in another order"),
    "expand": Trait("its operand, repeated along dims of size 1"),
    "interleave": Trait("each row of its operand along `dim` so many times (`repeats`), next to each other"),
    "unsqueeze": Trait("its operand with one dim of size 1 more"),
    "slice": Trait("one range of its operand's elements along a dim"),
    "narrow": Trait("a slice whose range is said by its start and its length"),
    "strided": Trait("fails where memory is laid out otherwise; that operator does not", ("operator",)),
    "undone": Trait("that operator gives the operand's elements back", ("operator",)),
    "scattered": Trait("that operator puts what was taken back: (operand, taken, the other arguments)", ("operator",)),
    "itself": Trait("gives back its very operand in eager mode"),
    "sizes_like": Trait("that operator, with the sizes of the second operand", ("operator",)),
    "dtype_like": Trait("that operator, with the dtype of the second operand", ("operator",)),
    "broadcast": Trait("its operands, each in the shape of all"),
    # What is written.
    "inplace": Trait("that operator is its in-place form, under a name that does not say so", ("operator",)),
    "rebinds": Trait("gives a tensor other memory, not other values"),
    "updates": Trait("writes these operands, though its schema does not say so", ("operand",), many=True),
    # What gives no tensor.
    "assertion": Trait("asserts something of values"),
    "item": Trait("reads a value as a number"),
    "size": Trait("reads a number of a tensor's shape"),
    # What goes between ranks.
    "collective": Trait("communicates between ranks"),
    "all_reduce": Trait("a collective in which each byte is sent twice: reduced, and given to all"),
    "wait": Trait("waits for a collective: its result is the collective's"),
    # Which function it is, for what works with values that are known: masks, assertions.
    **{
        word: Trait(meaning)
        for word, meaning in {
            "arange": "numbers from `start` by `step`", "ones": "1 everywhere", "zeros": "0 everywhere",
            "full": "`fill_value` everywhere", "add": "a + alpha * b", "sub": "a - alpha * b",
            "diff": "differences along a dim", "cumsum": "sums along a dim up to each place",
            "index": "looked up by index tensors", "and": "whether both hold",
            "le": "a <= b", "lt": "a < b", "ge": "a >= b", "gt": "a > b", "eq": "a == b", "ne": "a != b",
            "all": "whether all elements hold", "any": "whether an element holds", "tril": "0 above a diagonal",
            "triu": "0 below a diagonal", "scatter": "written where indices say",
        }.items()
    },
}  # fmt: skip

WORKSPACES = ("cpu_attention", "cpu_attention_backward", "flash_attention_backward")
