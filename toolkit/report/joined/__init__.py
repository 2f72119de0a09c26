"""One report over several runs: their models compared on the prompts they share. No torch."""
