"""Threads and processes that work ahead of the training step, and memory for their batches."""
