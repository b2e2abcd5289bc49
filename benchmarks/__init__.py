"""Measurements: `bash benchmarks/gpu_day.sh 1`. Nothing of fastimae imports this package."""
