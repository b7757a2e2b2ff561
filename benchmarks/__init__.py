"""Measurements beside docker, runc and bubblewrap. Nothing here is a test: figures are read."""
