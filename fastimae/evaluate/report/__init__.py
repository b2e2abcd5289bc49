"""Runs side by side, and as a page."""
