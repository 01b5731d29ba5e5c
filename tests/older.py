"""What the older of the promised releases cannot do, or do otherwise: these tests are left out there."""

from __future__ import annotations

from importlib import metadata

import attrs

from autosp.compat.tested import release


@attrs.frozen
class Older:
    """library, before: a test is left out where that library is older than this release. tests: how the names of tests
    begin. why: what is so in that release."""

    library: str
    before: str
    why: str
    tests: tuple[str, ...]

    @property
    def applies(self) -> bool:
        return release(metadata.version(self.library)) < release(self.before)


OLDER = (
    Older(
        "torch", "2.13.0",
        "Dynamo fails on an assertion of what a comparison of tensors gives (PendingUnbackedSymbolNotFound), which "
        "transformers makes of pictures and their tokens",
        (
            "execute/test_data.py::test_what_reads_data_is_exact[False-Checked]",
            "execute/test_data.py::test_what_reads_data_is_exact[True-Checked]",
            "execute/test_data.py::test_every_rank_raises_where_one_shard_alone_holds_what_is_wrong",
            "execute/test_data.py::test_no_shard_is_gathered_for_an_assertion_and_none_is_lost",
            "execute/test_data.py::test_real_ranks_raise_together",
            "execute/test_matrix.py::test_a_cell_of_the_matrix_is_exact[Llava",
        ),
    ),
    Older(
        "torch", "2.13.0",
        "an exception of the forward comes out of Dynamo as one of its own; it is reported, but its type is not kept",
        (
            "engine/test_foreign.py::test_an_exception_of_the_forward_keeps_its_type_and_message",
            "engine/test_misuse.py::test_misuse_stops_every_rank_with_this_text[forward_raises_on_rank_1]",
        ),
    ),
    Older(
        "torch", "2.13.0", "torch.cond is refused with another reason",
        ("execute/test_odd.py::test_what_cannot_be_proven_right_is_refused[Branch]",),
    ),
    Older(
        "deepspeed", "0.19.8", "the linear layer that DeepSpeed's ZeRO-3 puts in place runs whole on every rank",
        ("engine/test_with_deepspeed.py::test_engines_train_as_the_unsharded_program[beside_a_zero_3_engine]",),
    ),
    Older(
        "transformers", "5.24.0",
        "models whose layers may be dropped (OPT, BART), and longrope, branch on data: refused",
        (
            "execute/test_keeping.py::test_frequencies_that_follow_the_length[longrope]",
            "execute/test_matrix.py::test_a_family_that_is_one_spec_file_gets_a_row",
            "execute/test_matrix.py::test_a_cell_of_the_matrix_is_exact[Phi3LongRope",
            "execute/test_matrix.py::test_a_cell_of_the_matrix_is_exact[BartForConditionalGeneration",
            "execute/test_sequences.py::test_bart_is_exact_over_data_parallel_groups",
        ),
    ),
)  # fmt: skip


def too_old(test: str) -> str | None:
    """Why a test is left out with the releases at hand; None where it is not. test: its name, from this folder on."""
    reasons = (each for each in OLDER if any(test.startswith(begin) for begin in each.tests) and each.applies)
    found = next(reasons, None)
    return None if found is None else f"{found.library} before {found.before}: {found.why}"


def told() -> list[str]:
    """The table in words, a line each."""
    return [f"* {each.library} before {each.before}: {each.why}." for each in OLDER]
