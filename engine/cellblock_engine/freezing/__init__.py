"""The Python environment of a notebook that is in no container becomes a portable image.

What the interpreter says of itself (:mod:`.environment`) becomes a plan (:mod:`.plan`): which
paths of this machine go into which layer. The plan is data, and can be shown; then its layers are
made (:mod:`.image`). Everything stays at its path, so what has paths written into it works there.
"""

from __future__ import annotations
