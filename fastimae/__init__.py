"""FastIMAE: fast, trustworthy pre-training of masked autoencoders (MAE and i-MAE)."""

__version__ = "0.1.0"
