"""The packages that are installed in a tree of files, read without running anything of it."""
