"""Building a container's root: what each step is, one kind of steps a module."""
