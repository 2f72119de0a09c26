"""The comparison with TRL and with a plain PyTorch loop; see README.md."""
