"""Measurements beside docker, runc, bubblewrap and kern. Nothing here is a test: figures are read."""
