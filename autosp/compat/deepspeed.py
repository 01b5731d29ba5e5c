"""What autosp uses of DeepSpeed beyond its public names; nothing here imports it."""

from __future__ import annotations

from typing import Any


def config_entry(engine: Any, key: str) -> Any:
    """A top-level entry of the config that an engine was given, or None."""
    return engine._config._param_dict.get(key)


def deepcompile_passes(engine: Any) -> tuple[bool, list[str]]:
    """Whether the config turns DeepCompile on, and the names of the passes that it lists."""
    config = getattr(engine._config, "compile_config", None)
    return bool(getattr(config, "deepcompile", False)), list(getattr(config, "passes", None) or [])


def skip_native_backward(engine: Any) -> None:
    """DeepSpeed 0.19.0 starts DeepCompile's C++ extension, which CUDA's headers build, before every backward, also
    where its `autosp` pass compiled the module and the extension has nothing to do; later releases do not."""
    if not hasattr(engine, "uses_parallelization_pass_only"):
        engine.is_deepcompile_active = lambda: False
