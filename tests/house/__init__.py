"""The rules of the house: each is a function from a tree's root to findings, one line each."""
