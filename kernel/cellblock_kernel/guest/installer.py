"""Install packages into the image that this runs in, as a text for ``python -c``.

For any Python from 3.7 on. Its words are pip's settings as a JSON object of variables, a folder
with a pip that may be borrowed (empty if there is none), and the packages. It becomes the pip that
does it: the image's own, else the one that its Python would bring along (a wheel, which is run as
it is), else the borrowed one.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import sysconfig
from pathlib import Path


def pip(borrowed: str) -> list[str]:
    """Return the words that start a pip."""
    if importlib.util.find_spec("pip"):
        return ["-m", "pip"]
    ensurepip = importlib.util.find_spec("ensurepip")
    if ensurepip and ensurepip.origin:
        bundled = Path(ensurepip.origin).parent / "_bundled"
        for folder in (sysconfig.get_config_var("WHEEL_PKG_DIR") or bundled, bundled):
            for wheel in Path(folder).glob("pip-*.whl"):
                return [f"{wheel}/pip"]
    if borrowed:
        return [borrowed + "/__pip-runner__.py"]
    sys.exit("neither the image nor this machine's Python has pip")


def main() -> None:
    """Become pip. What the image sets for pip and for Python does not count."""
    settings, borrowed, packages = json.loads(sys.argv[1]), sys.argv[2], sys.argv[3:]
    env = {
        name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "PYTHON"))
    }
    env.update(settings)
    # -B: what pip itself is compiled to is not wanted in the image, unlike what it installs.
    words = [sys.executable, "-I", "-B", *pip(borrowed), "install", *packages]
    os.execve(sys.executable, words, env)  # noqa: S606 - there is no shell to want


if __name__ == "__main__":
    main()
