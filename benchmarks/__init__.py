"""Measurements: `python -m benchmarks.gpu_suite`. Nothing of fastimae imports this package."""
