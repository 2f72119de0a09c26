"""The commands: parse, call one floor down, print, return an exit code. Imports no torch."""
