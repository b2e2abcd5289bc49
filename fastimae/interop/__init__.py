"""Other people's files: checkpoints of MAE and i-MAE."""
