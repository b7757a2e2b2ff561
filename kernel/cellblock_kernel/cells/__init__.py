"""Running one notebook cell in a container of its own: the host's side."""
