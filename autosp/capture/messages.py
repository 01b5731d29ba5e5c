"""The words of errors about in-place operators. Each gives a problem and decides nothing."""

from __future__ import annotations

import inspect
import operator
from pathlib import PurePath

from torch import fx

from ..errors import Problem
from ..rules.inplace import is_out
from .captured import module_path, source_line

KEPT = (
    "a compiled forward leaves its inputs and parameters as they are, and the memory of its buffers; a buffer keeps "
    "what an operator's result gives it, which every rank has whole"
)
RULE = "autosp splits values, so an operator that writes in place is replaced by one that gives a new value"


def place(node: fx.Node) -> str:
    """The user's line that made the node, or the module it is in."""
    return source_line(node) or module_path(node) or "capture"


def called(node: fx.Node) -> str:
    """`aten.add_.Tensor`; for one of several results, the operator that gave them."""
    return called(node.args[0]) if node.target is operator.getitem else str(node.target)


def value_lost(node: fx.Node, higher_order: list[str]) -> Problem:
    """A value that was computed where the trace does not look, such as inside a vmap of a vmap."""
    by = f", in {' or '.join(higher_order)}" if higher_order else ""
    return Problem(
        what=f"an operand of '{called(node)}' is computed out of the trace's sight{by}",
        rule="every value of the program is computed by operators of its graph",
        fix="write this part with operators on whole tensors, or map the module that holds it",
        where=place(node),
    )


def sparse_gradient(node: fx.Node) -> Problem:
    """A weight whose gradient is a sparse tensor."""
    return Problem(
        what=f"{node.target} is called with sparse=True: its weight's gradient is a sparse tensor",
        rule="gradients are summed over ranks as dense (strided) tensors",
        fix="leave sparse=True out: the gradient has the same values, dense",
        where=place(node),
    )


def effect_lost(node: fx.Node, name: str) -> Problem:
    """An operator that takes functions, of which a trace keeps nothing."""
    if name == "register_hook":
        return Problem(
            what="a hook on a value of the forward (register_hook) would be lost",
            rule="a captured graph holds values and the derivatives of its operators, not hooks on them",
            fix="apply an autograd.Function in its place: forward gives x.view_as(x), backward gives what the hook gives",
            where=place(node),
        )
    return Problem(
        what=f"of '{name}', an operator that takes functions, the captured graph would keep nothing",
        rule="what a forward does is done by operators of its graph",
        fix="write this part with operators on tensors",
        where=place(node),
    )


def backward_lost(function: type) -> Problem:
    """An autograd.Function that is called in a vmap."""
    code = inspect.unwrap(function.forward).__code__
    return Problem(
        what=f"{function.__name__}, an autograd.Function, is called in a vmap, where Dynamo forgets its backward",
        rule="a call with a backward of its own has that backward in the sharded program too",
        fix=f"call {function.__name__}.apply on the whole tensor, before or after the vmap (associative_scan's "
        "combine_mode='generic' is one, too); or write it in operators of which autograd makes that backward: "
        "y + (z - y).detach() has the value of z and the gradient of y",
        where=f"{PurePath(code.co_filename).name}:{code.co_firstlineno} in {function.__name__}.forward",
    )


def no_grad_in_vmap(node: fx.Node) -> Problem:
    """Gradients are switched off inside of a vmap."""
    return Problem(
        what="gradients are switched off inside of a vmap, and a trace of it keeps none of that",
        rule="what torch.no_grad() computes has no gradient in the sharded program either",
        fix="detach what is computed there, y.detach(), without torch.no_grad(); or compute it before or after the vmap "
        "(associative_scan's combine_mode='generic' is one, too)",
        where=source_line(node) or "a vmap",
    )


def input_written(node: fx.Node, role: str, name: str) -> Problem:
    """A write to something that outlives the call."""
    kept = {"buffer": "buffer", "param": "parameter"}.get(role, "input")
    fix = {
        "buffer": f"write values of its own shape to '{name}': '{name}.copy_(...)', or an operator on it",
        "parameter": f"update '{name}' outside the compiled forward, in the training loop say",
        "input": f"write to a copy, '{name} = {name}.clone()', or return the new value",
    }[kept]
    return Problem(
        what=f"'{called(node)}' writes to the {kept} '{name}'",
        rule=KEPT,
        fix=fix,
        where=place(node),
    )


def statistics(node: fx.Node, name: str) -> Problem:
    """Running statistics, which an operator updates inside."""
    module = name.rpartition(".")[0]
    return Problem(
        what=f"'{called(node)}' updates the running statistics '{name}' of positions that are split",
        rule="statistics over all positions need an operator that gives them as a result, which is then summed over "
        "ranks; this one takes them of what its rank holds and writes them inside",
        fix=f"freeze it before compiling, after model.train(): .eval() on the module '{module}'",
        where=place(node),
    )


def gradient_kept(node: fx.Node, name: str) -> Problem:
    """A write to a buffer of a value with a gradient, which eager mode would carry into the next step."""
    return Problem(
        what=f"'{called(node)}' writes a value with a gradient to the buffer '{name}'",
        rule="what a buffer keeps for the next step has no gradient: the graph of this one is gone then",
        fix=f"write a detached value to '{name}', value.detach(), or write it under torch.no_grad()",
        where=place(node),
    )


def no_form(node: fx.Node) -> Problem:
    """An operator that ATen has no functional form of."""
    returned = "a function of the same name without '_', or a custom operator without mutates_args"
    return Problem(
        what=f"'{called(node)}' writes in place and has no functional form",
        rule=RULE,
        fix="take the results that it returns, without 'out='"
        if is_out(node.target)
        else f"return the new value instead: {returned}",
        where=place(node),
    )


def under_vmap(node: fx.Node) -> Problem:
    """A write to a tensor that has no memory of its own."""
    return Problem(
        what=f"'{called(node)}' writes to a tensor inside torch.vmap",
        rule="values inside torch.vmap are not values of the graph, and what is written to them is lost with it",
        fix="compute it before the compiled forward and pass it in (a BlockMask of flex_attention, say)",
        where=place(node),
    )


def through_view(node: fx.Node, view: fx.Node) -> Problem:
    """A write to a view that cannot be put back into what it views."""
    return Problem(
        what=f"'{called(node)}' writes to a tensor through '{called(view)}'",
        rule=RULE,
        fix="write to the tensor itself, through an index or a slice, "
        "or build the new value with torch.where or torch.cat",
        where=place(node),
    )


def shared(node: fx.Node) -> Problem:
    """A write to memory that no value of the graph owns alone."""
    return Problem(
        what=f"'{called(node)}' writes to memory that the graph does not own",
        rule=RULE,
        fix="write to a copy made with .clone()",
        where=place(node),
    )


def without_gradient(node: fx.Node) -> Problem:
    """A write under no_grad to a value with a gradient."""
    return Problem(
        what=f"'{called(node)}' writes, without gradients, to a value that has one",
        rule="a new value has the gradient of what it was made from; "
        "one that autograd was not to see cannot be replaced",
        fix="move the write out of torch.no_grad(), or write to a detached copy, .detach().clone()",
        where=place(node),
    )


def cast(node: fx.Node) -> Problem:
    """A write under autocast by an operator whose functional form autocast would cast."""
    return Problem(
        what=f"'{called(node)}' writes in place under autocast",
        rule="autocast leaves in-place operators alone and casts the operands of their functional forms",
        fix="write the result to a new name (x = torch.exp(x)), and let autocast choose its dtype",
        where=place(node),
    )
