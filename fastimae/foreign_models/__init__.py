"""FastIMAE's kernels in other people's models, if they are proven to change nothing."""
