"""The spec: typed dataclasses, and the loader that turns YAML into them. Imports no torch."""
