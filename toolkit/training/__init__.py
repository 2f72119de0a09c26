"""What every stage that trains shares: the loop, recovery, optimizers, averaging, keyed randomness."""
