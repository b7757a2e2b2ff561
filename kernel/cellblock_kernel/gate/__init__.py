"""The gate: between a front end and a kernel in a container; a process of its own per kernel."""
