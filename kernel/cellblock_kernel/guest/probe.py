"""Tell what kernels are in the image that this runs in, as a text for ``python -c``.

For any Python from 3.7 on. Each kernel.json that is found goes to standard output as its path, a
newline, its content and a NUL. The exit status is 0 where ipykernel is there too, else LACKING.
Whoever reads this must not trust it: it is the image's own Python that runs it.
"""

from __future__ import annotations

import importlib.util
import os
import sys

LACKING = 3
MOST_BYTES = 1 << 16


def folders() -> list[str]:
    """Return where kernelspecs may be, in Jupyter's order."""
    given = os.environ.get("JUPYTER_PATH", "").split(os.pathsep)
    own = os.environ.get("JUPYTER_DATA_DIR") or os.path.expanduser("~/.local/share/jupyter")  # noqa: PTH111 - nothing imported for it
    theirs = [prefix + "/share/jupyter" for prefix in (sys.prefix, "/usr/local", "/usr")]
    return [folder + "/kernels" for folder in [*given, own, *theirs] if folder.startswith("/")]


def main() -> None:
    """Write what there is."""
    out = sys.stdout.buffer
    for folder in folders():
        try:
            names = sorted(os.listdir(folder))  # noqa: PTH208 - as above
        except OSError:
            continue
        for name in names:
            path = folder + "/" + name + "/kernel.json"
            try:
                with open(path, "rb") as file:
                    content = file.read(MOST_BYTES + 1)
            except OSError:
                continue
            out.write(os.fsencode(path) + b"\n" + content + b"\0")
    out.flush()
    sys.exit(0 if importlib.util.find_spec("ipykernel") else LACKING)


if __name__ == "__main__":
    main()
