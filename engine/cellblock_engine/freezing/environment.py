"""What a Python says of itself and of its packages. It is asked in a process of its own.

Its answer is checked as far as words can be checked: they are paths, and what is at them is
looked at later, by others.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass

from ..errors import InvalidInput

_TIMEOUT_S = 120.0
_MAX_ANSWER_BYTES = 4 * 2**20
_SHOWN = 200

# Read by any Python 3.6 or newer. The first entry of sys.path is the folder that it is asked in.
_QUESTION = """
import sys
sys.path[:] = [path for path in sys.path if path]
import json, os, platform, site, sysconfig
try:
    import ssl
    certificates = ssl.get_default_verify_paths().openssl_cafile
except ImportError:
    certificates = ""
folders = [path for path in sys.path if os.path.isdir(path) and os.access(path, os.R_OK)]
packages = sorted({
    name.rpartition(".")[0].split("-")[0].lower()
    for path in folders
    for name in os.listdir(path)
    if name.endswith((".dist-info", ".egg-info"))
})
editable = []
for name, module in list(sys.modules.items()):
    if name.startswith("__editable__"):
        editable += map(str, dict(getattr(module, "MAPPING", {})).values())
user = site.getusersitepackages() if site.ENABLE_USER_SITE else ""
print()
print(json.dumps({
    "executable": sys.executable,
    "base_executable": getattr(sys, "_base_executable", "") or sys.executable,
    "version": platform.python_version(),
    "prefixes": [sys.prefix, sys.exec_prefix],
    "base_prefixes": [sys.base_prefix, sys.base_exec_prefix],
    "stdlib": [os.path.dirname(os.__file__)]
        + [path for path in sys.path if path.endswith("/lib-dynload")],
    "path": sys.path,
    "user_site": user if os.path.isdir(user) else "",
    "user_base": site.getuserbase(),
    "editable": editable,
    "scripts": sysconfig.get_path("scripts"),
    "certificates": certificates,
    "multiarch": sysconfig.get_config_var("MULTIARCH") or "",
    "packages": packages,
}))
"""


@dataclass(frozen=True)
class Environment:
    """A Python and its packages. Paths are absolute, as Python itself knows them.

    ``path`` is its sys.path, ``editable`` what installs of projects point to beyond that,
    ``scripts`` where console scripts are, ``certificates`` the file its OpenSSL looks for. What
    there is not is an empty string. ``packages`` are the names of the installed ones.
    """

    executable: str
    base_executable: str
    version: str
    prefixes: tuple[str, ...]
    base_prefixes: tuple[str, ...]
    stdlib: tuple[str, ...]
    path: tuple[str, ...]
    user_site: str
    user_base: str
    editable: tuple[str, ...]
    scripts: str
    certificates: str
    multiarch: str
    packages: tuple[str, ...]

    @property
    def is_virtual(self) -> bool:
        """Tell whether it is a virtual environment on another Python."""
        return self.prefixes != self.base_prefixes


def ask(python: str) -> Environment:
    """Return what the Python at this path, or of this name on PATH, is.

    It is run as itself, without the variables that change where it looks for modules; what a
    launcher like pyenv's starts is what is asked. Raises InvalidInput where nothing can be run, or
    what ran is no Python.
    """
    found = python if "/" in python else shutil.which(python)
    if not found:
        raise InvalidInput(f"there is no Python {python!r} on PATH: give the path of one")
    asked = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    try:
        done = subprocess.run(
            [found, "-E", "-B", "-c", _QUESTION],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            env=asked,
            timeout=_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        raise InvalidInput(f"Python {found} does not answer: it took {_TIMEOUT_S:g} s") from None
    except OSError as error:
        raise InvalidInput(
            f"Python {found} cannot be executed: {error.strerror}; give the path of one that can"
        ) from error
    if done.returncode != 0:
        lines = done.stderr.decode(errors="replace").strip().splitlines() or [""]
        # Of a traceback the last line says what it is, of a launcher like pyenv's the first.
        said = lines[0 if done.returncode in (126, 127) else -1].strip()[:_SHOWN]
        raise InvalidInput(
            f"{found} does not answer as Python 3 does: exit status {done.returncode}: {said}"
        )
    return _understood(found, done.stdout[-_MAX_ANSWER_BYTES:])


def _understood(python: str, answer: bytes) -> Environment:
    try:
        found = _environment(json.loads(answer.strip().rpartition(b"\n")[2]))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InvalidInput(f"{python} does not answer as Python 3 does: {error!r}") from error
    if not found.executable:
        raise InvalidInput(f"Python {python} does not know its own executable: give another one")
    return found


def _environment(document: object) -> Environment:
    if not isinstance(document, dict):
        raise TypeError("it is no JSON object")
    return Environment(
        executable=_path(document["executable"]),
        base_executable=_path(document["base_executable"]),
        version=_text(document["version"]),
        prefixes=_paths(document["prefixes"]),
        base_prefixes=_paths(document["base_prefixes"]),
        stdlib=_paths(document["stdlib"]),
        path=_paths(document["path"]),
        user_site=_path(document["user_site"]),
        user_base=_path(document["user_base"]),
        editable=_paths(document["editable"]),
        scripts=_path(document["scripts"]),
        certificates=_path(document["certificates"]),
        multiarch=_text(document["multiarch"]),
        packages=tuple(filter(None, map(_text, _list(document["packages"])))),
    )


def _list(value: object) -> list[object]:
    if not isinstance(value, list):
        raise TypeError("it has no list where one should be")
    return value


def _paths(value: object) -> tuple[str, ...]:
    return tuple(dict.fromkeys(filter(None, map(_path, _list(value)))))


def _path(value: object) -> str:
    """Return a normal absolute path, nothing for what is none (a hook's name on sys.path).

    Nor for one that is no UTF-8: an image's config could not name it.
    """
    text = _text(value)
    if not text.startswith("/") or "\0" in text or not text.isprintable():
        return ""
    return os.path.normpath("/" + text.lstrip("/"))  # POSIX gives // a meaning of its own


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("it has no text where one should be")
    return value
