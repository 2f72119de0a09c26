"""The stage graph, why each stage runs, the artifact store and the runner. Imports no torch."""
