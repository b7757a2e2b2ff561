"""Measurements beside docker, runc, bubblewrap and kern. No tests: figures are read."""
