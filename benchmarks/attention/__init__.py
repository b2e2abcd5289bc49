"""Attention: our kernel's settings against the back ends of SDPA."""
