"""The paper's results in miniature: `make miniature`."""
