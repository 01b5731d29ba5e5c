"""Reads results and words them; nothing but the command line imports it."""
