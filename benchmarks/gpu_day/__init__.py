"""What to do with a few minutes on a GPU: `bash benchmarks/gpu_day.sh 1`, see docs/gpu.md."""
