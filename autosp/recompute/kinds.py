"""What an operator of a joint graph is, for memory: attention, a collective, a matmul, a draw, a view."""

from __future__ import annotations

import operator

import torch
from torch import fx

from ..compat.torch import OpOverload, base_name, schema_of
from ..lower.held import HELD

# Every attention kernel that PyTorch may choose, by its forward: its own table of
# "compute-intensive" operators leaves out the CPU's and cuDNN's.
ATTENTION = frozenset(
    {
        "_scaled_dot_product_flash_attention",
        "_scaled_dot_product_flash_attention_for_cpu",
        "_scaled_dot_product_efficient_attention",
        "_scaled_dot_product_cudnn_attention",
        "_scaled_dot_product_fused_attention_overrideable",
        "_flash_attention_forward",
        "_efficient_attention_forward",
        "_cudnn_attention_forward",
        "scaled_dot_product_attention",
        "flex_attention",
    }
)
MATMULS = frozenset(
    {
        "mm",
        "addmm",
        "bmm",
        "baddbmm",
        "matmul",
        "linear",
        "_scaled_mm",
        "_grouped_mm",
        "convolution",
        "addmv",
        "mv",
        "dot",
    }
)
_NORMS = frozenset(
    {"native_layer_norm", "rms_norm", "_fused_rms_norm", "mean", "var_mean", "rsqrt", "pow", "native_group_norm"}
)
_COPIES = frozenset(
    "clone _to_copy copy contiguous cat view reshape _unsafe_view permute transpose t slice narrow unsqueeze squeeze "
    "expand alias detach select split split_with_sizes unbind movedim as_strided".split()
)
_LOSSES = frozenset({"_log_softmax", "nll_loss_forward", "nll_loss2d_forward", "cross_entropy_loss", "logsumexp"})
_RANDOM_WORDS = ("rand", "dropout", "bernoulli", "multinomial", "inductor_seed", "philox", "normal_")


def name_of(node: fx.Node) -> str:
    """The operator's name without namespace and overload: `mm`, `all_to_all_single`."""
    target = node.target
    packet = getattr(target, "overloadpacket", None) or base_name(target)
    if packet is not None:
        return str(packet).rsplit(".", 1)[-1].rsplit("::", 1)[-1]
    return str(getattr(target, "__name__", target))


def is_attention(node: fx.Node) -> bool:
    """Whether a node is a fused attention's forward."""
    return node.op == "call_function" and name_of(node) in ATTENTION


def is_wait(node: fx.Node) -> bool:
    """Whether a node waits for a collective: its result is the collective's."""
    return node.op == "call_function" and name_of(node) == "wait_tensor"


def is_collective(node: fx.Node) -> bool:
    """Whether a node communicates."""
    target = node.target
    return (
        node.op == "call_function"
        and isinstance(target, OpOverload)
        and target.namespace in ("_c10d_functional", "c10d_functional", "_c10d_functional_autograd")
        and not is_wait(node)
    )


def is_random(node: fx.Node) -> bool:
    """Whether a second run would draw other numbers."""
    target = node.target
    if node.op != "call_function":
        return False
    if is_attention(node):  # tagged as random for its dropout's sake
        return float(argument(node, "dropout_p") or 0.0) > 0.0
    tags = getattr(target, "tags", ())
    return torch.Tag.nondeterministic_seeded in tags or any(w in name_of(node) for w in _RANDOM_WORDS)


def runs_once(node: fx.Node) -> bool:
    """Whether a second run would give something else: other numbers, or those of a buffer that was written since."""
    return is_random(node) or node.target is HELD


def argument(node: fx.Node, name: str):
    """A call's argument by its name in the schema, or None."""
    for i, a in enumerate(getattr(schema_of(node.target), "arguments", ())):
        if a.name == name:
            return node.kwargs.get(name, node.args[i] if i < len(node.args) else a.default_value)
    return None


def is_matmul(node: fx.Node) -> bool:
    """Whether a node multiplies matrices."""
    return node.op == "call_function" and name_of(node) in MATMULS


def is_item(node: fx.Node) -> bool:
    """Whether a node takes one result of several."""
    return node.target is operator.getitem


def kind(node: fx.Node) -> str:
    """The word under which a report counts what a node made; a copy is of its source's kind."""
    while node.op == "call_function" and (name_of(node) in _COPIES or is_item(node)) and node.all_input_nodes:
        node = node.all_input_nodes[0]
    if node.op == "placeholder":
        return "inputs"
    if is_attention(node):
        return "attention"
    if is_collective(node) or is_wait(node):
        return "collective"
    if is_matmul(node):
        return "matmul"
    if is_random(node):
        return "random"
    name = name_of(node)
    if name in _LOSSES:
        return "loss"
    return "norm" if name in _NORMS else "other"
