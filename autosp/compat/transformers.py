"""What autosp uses of transformers beyond its public names; nothing here imports it."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

# What `enable_input_require_grads` of transformers, and PEFT by itself, register on embeddings.
REQUIRING_GRAD = {"make_inputs_require_grads", "make_inputs_require_grad"}


def install_hooks(module: Any) -> None:
    """Installs the hooks with which a model, or one inside it, captures its outputs. Else it would at its first call,
    under a lock that breaks Dynamo's graph. Nothing to do for models and releases that have none."""
    capturing = sys.modules.get("transformers.utils.output_capturing")
    if hasattr(capturing, "maybe_install_capturing_hooks"):
        for part in module.modules():
            if hasattr(part, "_can_record_outputs"):
                capturing.maybe_install_capturing_hooks(part)


@contextlib.contextmanager
def without_gradient_hooks(module: Any) -> Iterator[None]:
    """The model without the forward hooks of transformers and PEFT that do `output.requires_grad_(True)`, which Dynamo
    refuses. They are for checkpointed parts whose inputs need no gradient; there are no such parts in a captured graph."""
    parts = module.modules() if hasattr(module, "modules") else ()
    hooked = [
        (part, dict(part._forward_hooks)) for part in parts if any(map(_requires_grad, part._forward_hooks.values()))
    ]
    for part, hooks in hooked:
        for key in [key for key, hook in hooks.items() if _requires_grad(hook)]:
            del part._forward_hooks[key]
    try:
        yield
    finally:
        for part, hooks in hooked:
            new = {key: hook for key, hook in part._forward_hooks.items() if key not in hooks}
            part._forward_hooks.clear()
            part._forward_hooks.update({**hooks, **new})


def _requires_grad(hook: Any) -> bool:
    library = str(getattr(hook, "__module__", "")).partition(".")[0]
    return library in ("transformers", "peft") and getattr(hook, "__name__", "") in REQUIRING_GRAD
