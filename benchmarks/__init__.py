"""Measurements: `bash benchmarks/gpu_day.sh 1`. Nothing in fastimae imports this package."""
