"""Flags of the tasks of fastimae-eval. They import no torch, so that `--help` is quick."""
