"""The words of the OCI image specification as frozen dataclasses, to and from JSON; no I/O."""
