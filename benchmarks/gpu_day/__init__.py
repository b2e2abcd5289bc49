"""The GPU day: all that matters, measured in a few minutes on a GPU. See docs/gpu.md."""
