"""Fetching images from registries that speak OCI's distribution-spec.

Import :mod:`.pull` when a pull is asked for, not before: it brings the HTTP library.
"""
