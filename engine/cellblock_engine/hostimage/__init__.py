"""The image called ``host``: this machine's userland and Python, seen read-only, nothing pulled.

A skeleton tree with what of /etc everybody may read (:mod:`.etc`), and the trees of the machine
that are mounted copy-on-write over it: /usr and the prefixes of this interpreter
(:mod:`.interpreter`). Never ``/`` itself, a home directory, or the store.
"""

from __future__ import annotations

from .image import HostImage, HostTree, host_image
from .interpreter import Interpreter

__all__ = ["HostImage", "HostTree", "Interpreter", "host_image"]
