"""The way out of an off-line container to the hosts that were named, and to no other."""
