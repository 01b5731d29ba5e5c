"""Drop-in for DeepSpeed's `prepare_autosp_inputs`: its users change one import."""

from autosp.engine.deepspeed_inputs import prepare_autosp_inputs

__all__ = ["prepare_autosp_inputs"]
