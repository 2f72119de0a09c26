"""The same mathematics in plain float64 torch: what tests and benchmarks call the truth."""
