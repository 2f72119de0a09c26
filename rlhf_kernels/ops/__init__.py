"""One module per op: its meaning to PyTorch."""
