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
