"""Notebooks as files: tied to an image, and run in exactly that."""
