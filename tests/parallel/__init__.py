"""Losses over processes against one process."""
