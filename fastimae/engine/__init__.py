"""Training any objective on any loader: steps, precision, processes, checkpoints, logs."""
