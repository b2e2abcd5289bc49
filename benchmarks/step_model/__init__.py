"""A model of a training step on a GPU: the time it should take, from its bytes and operations."""
