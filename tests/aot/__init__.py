"""The AOT proof: all Triton kernels compiled ahead of time for three GPUs, without needing one."""
