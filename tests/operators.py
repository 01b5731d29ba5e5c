"""`python -m tests.operators` writes docs/operators.md: the ATen operators that have no rule, and why."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import torch

from autosp.rules import default_rules

PAGE = Path(__file__).parents[1] / "docs" / "operators.md"
NEW = "Not looked at yet"

# Why an operator has no rule, by its name; the first that fits is taken.
REASONS: dict[str, tuple[str, str]] = {
    "Backwards": (
        r".*(backward|_jvp).*|_standard_gamma_grad|_dirichlet_grad",
        "Autograd calls them, on the local graph: the rule of the forward operator covers them.",
    ),
    "Fused optimizers and lists of tensors": (
        r"_foreach_.*|_fused_(ada|sgd).*|_amp_.*|_cautious.*",
        "An optimizer's step is no part of the program.",
    ),
    "Copies of views": (
        r".*_copy|_reshape_alias|as_strided_.*|_lazy_clone|alias_copy|_to_copy",
        "Functionalisation makes them, after the graph is captured; the views themselves have rules.",
    ),
    "Sparse tensors": (
        r".*(sparse|_coo|_csr|_bsr|_bsc|_csc|coalesce|crow_ind|ccol_ind|col_ind|row_ind|spdiag|cslt|spsolve).*"
        r"|_?indices|_?values|_nnz|hspmm|smm|sspaddmm|to_dense|_to_dense|_rowwise_prune|_spdiags",
        "A sparse tensor has no shape that could be dealt out to ranks.",
    ),
    "Quantization that is trained through": (
        r".*fake_quantize.*|_fused_moving_avg_obs.*",
        "They have a backward, and one scale for all positions or for each channel; no rule says yet how they may be "
        "split.",
    ),
    "Quantized tensors and packed weights": (
        r".*(quant|int4pack|int8|_fp16|fbgemm|q_scale|q_zero|q_per|int_repr|dyn_quant|choose_qparams|prepack|_scaled_mm"
        r"|_scaled_grouped|_int_mm|mixed_dtypes|wrapped_linear|qlinear|weight_int).*",
        "For inference, or for the inside of an autograd.Function: they have no backward of their own.",
    ),
    "Nested tensors": (
        r".*(nested|jagged|_padded_dense).*|to_padded_tensor",
        "Rows of different lengths in one tensor: documents are packed in rows instead.",
    ),
    "Fourier transforms": (
        r"fft_.*|stft|istft",
        "One mixes the positions of the dims that it transforms and of no other, so a rule could split the others (and "
        "a shift or a table of frequencies as any view or constant); none is written yet.",
    ),
    "Complex numbers": (
        r"chalf|matrix_H|linalg_eig|linalg_eigvals",
        "Rotary embeddings and what they need have rules; these do not yet.",
    ),
    "Products of groups of rows": (
        r"_grouped_mm",
        "What F.grouped_mm is in a graph. How many rows a group has is told by the data, and a rank's rows are groups "
        "of other sizes: a module of experts that holds one runs on a rank's tokens as it stands, by a `map` line or "
        "found so.",
    ),
    "Products in another dtype": (
        r"(addmm|baddbmm|bmm|mm)\.dtype",
        "torch.mm(..., out_dtype=...) and its like, on CUDA alone: they have no backward.",
    ),
    "Random draws": (
        r"_sample_dirichlet|_philox.*|_sobol_engine.*",
        "A distribution's, a counter's or a sequence's: no rule says yet how draws on ranks make up one.",
    ),
    "Images": (
        r"_upsample_lanczos2d_aa\.vec",
        "F.interpolate with Lanczos' kernel, which mixes neighbours in two dims: no rule is written yet.",
    ),
    "Kernels of one device": (
        r".*(cudnn|miopen|mkldnn|mps|xnnpack|nnpack|_triton|metal|cuda|overrideable|cpu_fallback|pin_memory).*"
        r"|_cufft.*",
        "Chosen when an operator runs: the graph holds the operator.",
    ),
    "Kernels of attention": (
        r"_scaled_dot_product.*|_flash_attention.*|_efficient_attention.*|_fill_mem_eff.*|_native_multi_head.*"
        r"|_transform_bias.*|_transformer_encoder.*",
        "Chosen when scaled_dot_product_attention runs.",
    ),
    "Statistics and recurrent modules": (
        r".*batch_norm.*|.*(gru|lstm|rnn)_?.*|_pack_padded.*|_pad_packed.*",
        "Modules with running statistics, in training, and PyTorch's recurrent ones are refused; batch_norm has a rule "
        "where it only reads its statistics.",
    ),
    "Batched and forward-mode differentiation": (
        r"_add_batch_dim|_remove_batch_dim|_make_dual|_unpack_dual|_fw_primal|_new_zeros_with_same.*|_has_same.*",
        "Only while a transform is traced: the graph holds what it computes.",
    ),
    "Checks, sizes and storages": (
        r"_(functional_)?assert.*|_functional_sym.*|sym_.*|_make_dep_token|_is_all_true|_is_any_true|set|set_.*|resize.*"
        r"|_resize.*|_shape_as_tensor|_reshape_from.*|_dim_arange|from_file|_local_scalar.*|_async.*|copy|_copy_from.*"
        r"|get_gradients|_debug.*|data|lift|_autocast.*|_to_cpu|_pin.*|_efficientzerotensor|_test_.*|_foobar"
        r"|_coalesced.*|unsafe_.*|_print",
        "They compute no value of the program.",
    ),
    "Internals of linear algebra and transforms": (
        r"_fft_.*|_?linalg__?(check|powsum|det|eigh|slogdet|solve_ex|svd).*|_linalg_.*|_lu_.*|lu_.*|_cholesky.*|_compute_linear.*"
        r"|_euclidean_dist|_cdist_forward|_pdist_forward|_trilinear"
        r"|_weight_norm.*|_addmm_.*",
        "What public operators come down to, below the level at which a graph is captured.",
    ),
    "Other internals": (
        r"_.*|native_.*|.*_forward|rrelu_with_noise.*|slow_conv.*|thnn_conv.*|conv_depthwise3d|convolution"
        r"|max_unpool.*|nll_loss2d.*",
        "What public operators come down to, below the level at which a graph is captured.",
    ),
}


def functional(schema) -> bool:
    """Whether an operator writes nothing and gives a tensor."""
    touched = [*schema.arguments, *schema.returns]
    writes = any(a.alias_info is not None and a.alias_info.is_write for a in touched)
    return not writes and any("Tensor" in str(r.type) for r in schema.returns)


def operators() -> dict[str, object]:
    """The schemas of ATen's functional operators by name."""
    found = {}
    for schema in torch._C._jit_get_all_schemas():
        full = schema.name + (f".{schema.overload_name}" if schema.overload_name else "")
        if schema.name.startswith("aten::") and torch._C._dispatch_has_kernel(full) and functional(schema):
            found[f"aten.{schema.name[6:]}.{schema.overload_name or 'default'}"] = schema
    return found


def why(name: str) -> str:
    """The title of the reason that an operator has no rule."""
    short, overload = name.split(".")[1:]
    for title, (pattern, _) in REASONS.items():
        if re.fullmatch(pattern, short) or re.fullmatch(pattern, f"{short}.{overload}"):
            return title
    return NEW


def page() -> str:
    """docs/operators.md."""
    book, known = default_rules(), operators()
    missing: dict[str, list[str]] = {title: [] for title in (*REASONS, NEW)}
    for name in sorted(set(known) - set(book.names())):
        missing[why(name)].append(name.removeprefix("aten.").removesuffix(".default"))
    ruled = [n for n in known if n in book.by_name]
    whole = [n for n in ruled if all(r.form == "whole" for r in book.by_name[n])]
    lines = [
        "# ATen's operators without a rule",
        "",
        f"Of the {len(known)} operators of ATen in torch {torch.__version__.split('+')[0]} that write nothing and",
        f"give a tensor, {len(ruled)} have a rule (`autosp rules list`), {len(whole)} of them to run whole on every",
        "rank; in-place operators are replaced by these.",
        "The others, and why. Written by `python -m tests.operators`.",
    ]
    for title, names in missing.items():
        if names:
            said = (
                REASONS[title][1] if title in REASONS else "A graph that holds one is refused, with a draft of a rule."
            )
            lines += ["", f"## {title} ({len(names)})", "", said, "", ", ".join(f"`{n}`" for n in names)]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    sys.exit(0)
