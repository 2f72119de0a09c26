"""Benchmarks of every op against what people would use instead: `python -m rlhf_kernels.bench`."""
