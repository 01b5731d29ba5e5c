"""Reads results and words them; nothing but the command line imports it."""

from .plan import draw, fields, plain

__all__ = ["draw", "fields", "plain"]
