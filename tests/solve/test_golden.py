"""The text of plans, held whole."""

from tests import expected
from tests.failures import without_counts
from tests.lower.models import Llama, planned

PLANS = {
    "8 heads, 4 ranks": (Llama(), 4, "ulysses"),
    "8 heads of 1 kv head, 4 ranks, written out": (Llama(kv_heads=1, attn="eager"), 4, "ulysses"),
    "2 heads, 4 ranks: the query length is split instead": (Llama(heads=2, kv_heads=2), 4, "ulysses"),
    "gathered keys and values, 3 ranks": (Llama(kv_heads=4), 3, "gather"),
}


def text() -> str:
    return "\n".join(f"# {title}\n{planned(*plan).summary()}\n" for title, plan in PLANS.items())


def test_summaries():
    expected.expect("solve/summaries.txt", text(), same=without_counts)
