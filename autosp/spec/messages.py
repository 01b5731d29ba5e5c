"""The message of every fault of a spec, and of a model's inputs under one: (what, rule, fix), from pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..errors import did_you_mean
from ..syntax import Layout

Message = tuple[str, str, str]


def quoted(names: Iterable[str]) -> str:
    """`'a', 'b'`."""
    return ", ".join(f"'{name}'" for name in names)


def mesh_text(axes: Iterable[str]) -> str:
    """`mesh [dp, sp]`."""
    return f"mesh [{', '.join(axes)}]"


def no_statement(word: str, known: Iterable[str]) -> Message:
    known = list(known)
    return (
        f"no statement '{word}'",
        f"a line begins with one of {', '.join(known)}",
        did_you_mean(word, known, "begin the line with one of these, or with '#' for a comment"),
    )


def no_axis(axis: str, axes: tuple[str, ...]) -> Message:
    return (
        f"no axis '{axis}' in {mesh_text(axes)}",
        "a layout names axes of the spec's mesh",
        did_you_mean(axis, axes, f"use one of {quoted(axes)}, or add '{axis}' to the mesh"),
    )


def no_mesh() -> Message:
    return (
        "the spec has no mesh",
        "a spec names the axes that its layouts use",
        "add a line such as: mesh [dp: local, sp]",
    )


def axis_as_dim(name: str) -> Message:
    return (
        f"'{name}' is an axis of the mesh and stands here as a dim",
        "a dim has a name of its own; the axes that split it follow an '@'",
        f"write the dim's name and then the axis, such as 'seq@{name}'",
    )


def sum_written(axis: str) -> Message:
    return (
        f"a partial sum over '{axis}' is asked for",
        "partial sums stand in plans and reports only; a spec asks for whole or split values",
        f"drop 'sum@{axis}'",
    )


def given_twice(what: str, first: str) -> Message:
    return (
        f"{what} is given twice" + (f", first at {first}" if first else ""),
        "each thing is said once in a spec",
        "keep one of the two lines",
    )


def contradiction(this: str, that: str, first: str) -> Message:
    return (
        f"'{this}' contradicts '{that}'" + (f" at {first}" if first else ""),
        "one port of one module has one layout",
        "keep one of the two lines",
    )


def no_dim(name: str, known: tuple[str, ...]) -> Message:
    return (
        f"no layout of the spec names a dim '{name}'",
        "a dim is known by its name in the layouts of inputs, outputs and constraints",
        did_you_mean(name, known, f"use one of {quoted(known)}" if known else "name it in a layout"),
    )


def dim_is_zero(name: str) -> Message:
    return (f"dim '{name}' has size 0", "a size is a whole number from 1", f"write dim {name} = SIZE")


def reduce_leaves_out(axis: str) -> Message:
    return (
        f"the loss mean leaves out axis '{axis}', which is not local",
        "on an axis that is not local the loss is of the whole batch already",
        f"add '{axis}', or write '{axis}: local' in the mesh",
    )


def local_loss() -> Message:
    return (
        "the loss is asked for as each rank's own part",
        "every rank returns the global loss",
        "write: output loss []",
    )


def bad_include(name: str) -> Message:
    return (
        f"include of '{name}', which is outside the spec's folder",
        "a spec includes files of its own folder, and shipped specs, by name",
        f"copy the file beside the spec and write: include {name.replace(chr(92), '/').split('/')[-1] or 'FILE'}",
    )


def no_folder(name: str) -> Message:
    return (
        f"include of '{name}' in a text that is not a file",
        "a text includes shipped specs by their names; files of its own folder are included by a spec that is a file",
        "put the text in a file and load that, or copy the included lines here",
    )


def no_include(name: str, known: list[str]) -> Message:
    return (
        f"no file '{name}' beside the spec",
        "a spec includes files of its own folder, and shipped specs, by name",
        did_you_mean(name, known, "create the file, or drop the line"),
    )


def include_cycle(chain: list[str]) -> Message:
    return (
        f"files include each other: {' -> '.join(chain)}",
        "an included file does not include, by any way, the one that includes it",
        "drop one of the include lines",
    )


def bad_text(name: str, why: str) -> Message:
    return (f"'{name}' cannot be read: {why}", "a spec is a UTF-8 text file", "give the path of a spec file")


def no_spec(name: str, known: tuple[str, ...]) -> Message:
    return (
        f"no spec '{name}'",
        f"a spec is a path to a file, or one of {', '.join(known)}",
        did_you_mean(name, known, "give a path that ends in .spec, or one of these names"),
    )


def unitless(number: str) -> Message:
    return (
        f"the budget {number} has no unit",
        "a budget is a number of bytes with its unit, or a fraction of what 'none' keeps, from 0.0001 to 1",
        f"write {number}GiB, or a fraction such as 0.5",
    )


def bad_fraction(number: str) -> Message:
    return (
        f"the budget {number} is not a valid fraction",
        "a budget without a unit is a fraction of what 'none' keeps, from 0.0001 to 1",
        f"write a fraction such as 0.5, or bytes such as {number}GiB",
    )


def no_bytes(text: str) -> Message:
    return (f"the budget {text} is less than one byte", "a budget holds something", "write a budget such as 20GiB")


def no_tiles(what: str) -> Message:
    return (f"the {what} is cut into 0 tiles", "a number of tiles is from 1", f"write: tile {what} auto")


def constrained_ndim(ndim: int, layout: object) -> Message:
    return (
        f"a tensor of {ndim} dims is constrained to {layout}",
        "a layout names every dim of its tensor",
        "name each dim once, or '...' for those that are not split",
    )


def not_taken(name: str, model: str, names: list[str]) -> Message:
    return (
        f"the forward of {model} takes no '{name}'",
        "an input is an argument of the model's forward, by name",
        did_you_mean(name, names, f"use one of {', '.join(names)}, or write 'optional' after the layout"),
    )


def no_module(path: str, model: str, miss: str, head: str, below: list[str], near: list[str]) -> Message:
    place = f"below '{head}'" if head else "at the top"
    there = f"{place} there is {', '.join(below)}" if below else f"{place} there is nothing"
    return (
        f"no module of {model} is '{path}'" + (f": no '{miss}' {place}" if miss else ""),
        "a module path is one of named_modules(), '*' standing for any one name",
        f"did you mean {' or '.join(map(repr, near))}?" if near else there,
    )


def overlap(this: str, that: str, first: str, module: str) -> Message:
    what, rule, _ = contradiction(this, that, first)
    return (f"{what}, in module '{module}'", rule, "keep one of the two lines, or narrow one of the paths")


MAP_RULE = "a mapped module gives a position the same whatever other positions are with it"


def mapped_twice(inner: str, outer: str, part: str, whole: str) -> Message:
    both = f"'{inner}' and '{outer}' both map {part}"
    what = both if part == whole else f"'{inner}' maps {part}, a part of {whole}, which '{outer}' maps"
    return (what, "a mapped module is one call: its parts run inside of it", "leave one of the two lines out")


def map_mixes(path: str, over: str, why: str) -> Message:
    return (
        f"positions along '{over}' mix in module '{path}': {why}",
        MAP_RULE,
        "drop the line, or map a module inside it that treats each position by itself",
    )


MODEL_RULE = "a model is a config.json, a class of transformers, or pkg.mod:factory"
MODEL_FIX = "give for example LlamaForCausalLM, path/to/config.json or my_package.my_module:make_model"


def no_transformers() -> Message:
    return ("transformers is not installed", MODEL_RULE, 'pip install "autosp[demo]", or name a pkg.mod:factory')


def no_model(name: str, fix: str) -> Message:
    return (f"no model '{name}' in transformers", MODEL_RULE, fix)


def no_factory(name: str, why: str) -> Message:
    return (f"'{name}' cannot be imported: {why}", MODEL_RULE, "run the command where the package can be imported")


def bad_config(path: str, why: str) -> Message:
    return (
        f"'{path}' is not a configuration: {why}",
        MODEL_RULE,
        "give a config.json with model_type and architectures",
    )


def sizes(shape: Sequence[object]) -> str:
    """`[2, 128]`."""
    return f"[{', '.join(map(str, shape))}]"


def dims(count: int) -> str:
    """`1 dim`, `2 dims`."""
    return f"{count} dim" + ("" if count == 1 else "s")


def wrong_ndim(name: str, shape: Sequence[object], layout: Layout) -> Message:
    least = f"at least {dims(len(layout.dims) - 1)}" if layout.has_ellipsis else dims(len(layout.dims))
    return (
        f"{name} of shape {sizes(shape)} has {dims(len(shape))}, its layout {layout} has {least}",
        "a layout names every dim of its tensor",
        "name the missing dims, or '...' for those that are not split"
        if len(shape) > len(layout.dims)
        else "drop the dims that the tensor lacks",
    )


def marked_sum(name: str, layout: Layout) -> Message:
    return (
        f"{name} is given as a partial sum, {layout}",
        "an input is whole or split; partial sums stand in plans and reports only",
        "drop the 'sum@...'",
    )


def not_a_batch(value: object) -> Message:
    return (
        f"a value of type {type(value).__name__} is annotated with a spec",
        "a spec marks a batch: a mapping from input names to tensors",
        "give the batch, or a layout for one tensor",
    )


def not_a_tensor(value: object) -> Message:
    return (
        f"a value of type {type(value).__name__} is annotated with a layout",
        "a layout marks one tensor; a spec marks a batch",
        'give a tensor, or a batch and a spec such as autosp.load("llama")',
    )


def missing(name: str, keyword_names: Sequence[str]) -> Message:
    given = ", ".join(keyword_names) or "none"
    return (
        f"input '{name}' is missing; given: {given}",
        "every input that the spec does not call optional is given at each call",
        f"give '{name}', or write 'optional' after its layout",
    )


def unknown(name: str, fix: str) -> Message:
    return (
        f"no input '{name}' in the spec",
        "a tensor that goes in is named by the spec or marked with autosp.annotate",
        fix,
    )


def place(name: str, shape: Sequence[object], share: str) -> str:
    """`input 'ids' of shape [2, 8] (a share of 4 on axis 'dp')`."""
    return f"input '{name}' of shape {sizes(shape)}{share}"


def share(axes: Sequence[tuple[str, int]]) -> str:
    """What a local shard is of the whole, in words."""
    ranks = " and ".join(f"{size} ranks of '{axis}'" for axis, size in axes if size > 1)
    return f" on each of {ranks}" if ranks else ""


def two_sizes(dim: str, size: object, where: str, other: object, elsewhere: str) -> Message:
    return (
        f"dim '{dim}' is {size} by {where} and {other} by {elsewhere}",
        "a dim name means one size wherever it stands in a spec",
        f"give both the same size, or name one of the dims otherwise, such as 'kv_{dim}'",
    )


def other_size(dim: str, size: object, where: str, stated: object) -> Message:
    return (
        f"dim '{dim}' is {size} by {where}, and {stated} by the spec",
        "a size that the spec states holds at every call",
        f"give a tensor of size {stated}, or change the spec",
    )


def not_divided(dim: str, size: int, axis: str, parts: int) -> Message:
    return (
        f"dim '{dim}' of size {size} is not a multiple of {parts}, the size of axis '{axis}'",
        f"the spec states: dim {dim} divides {axis}",
        f"pad it to {-(-size // parts) * parts}, or drop the line: uneven splits work too",
    )


def other_product(dim: str, size: object, where: str, product: int) -> Message:
    return (
        f"the merged dim {dim} is {size} by {where}; the sizes of its parts make {product}",
        "a merged dim is as large as the product of its parts",
        "give a tensor whose sizes agree with the other inputs'",
    )
