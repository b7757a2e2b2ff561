"""The kernel's own words: system calls, mounts, ids, cgroups, capabilities, filters.

Nothing here knows of images or containers, and everything is standard library only: the spawner
runs on it with nothing else imported.
"""
