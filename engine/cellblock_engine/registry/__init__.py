"""Fetching images from registries that speak OCI's distribution-spec, and sending them there.

Import :mod:`.pull` or :mod:`.push` when one is asked for, not before: they bring the HTTP library.
"""
