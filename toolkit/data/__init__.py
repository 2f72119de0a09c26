"""Files and embedded tasks -> records -> token ids. Importing this package imports no torch."""
