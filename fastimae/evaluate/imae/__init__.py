"""What the i-MAE paper measures."""
