"""Reads results and words them; nothing but the command line imports it."""

from .plan import Report

__all__ = ["Report"]
