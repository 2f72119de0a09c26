"""What every stage that trains shares.

The loop, recovery, optimizers, averaging, keyed randomness.
"""
