"""Probes of an encoder while it is trained: what `fastimae-train --probe_freq` measures."""
