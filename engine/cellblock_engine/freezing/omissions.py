"""What is left out of an image, wherever it lies: credentials, and what others can make again.

Names decide, and for a few files their content. Nothing is opened here.
"""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Callable

CHECKED_BYTES = 2**20
"""How much of a file whose content decides may be read; a longer one is left out."""

_CREDENTIALS = frozenset(
    """
    .netrc _netrc .pypirc .git-credentials .pgpass .my.cnf .npmrc .condarc condarc .env .envrc
    pip.conf pip.ini uv.toml .git .hg .svn .bzr .aws .azure .docker .gcloud .gnupg .kube .ssh
    .config .jupyter .ipython
    """.split()
)
_OF_STDLIB = ("site-packages", "dist-packages", "test", "idlelib/idle_test")
# An administrator's settings and servers' passwords; what packages bring is in folders, *.d.
_OF_A_PREFIX = re.compile(
    r"etc/jupyter/jupyter[^/]*config\.(?:json|py)|share/jupyter/runtime|pkgs|envs|conda-bld"
    r"|conda-meta/state"  # variables of the environment
)
_SOURCES = "src/"  # where pip puts the projects that it has cloned, of `pip install -e git+...`
_OF_A_PROJECT = frozenset(
    """
    .tox .nox .venv node_modules __pycache__ .cache .mypy_cache .pytest_cache
    .ruff_cache .hypothesis .ipynb_checkpoints .htpasswd credentials.json
    """.split()
)
_SECRETS_OF_A_PROJECT = (
    ".env.*",
    "*.pem",
    "*.key",
    "*.p12",
    "*.pfx",
    "*.keytab",
    "*.kdbx",
    "id_rsa*",
    "id_ed25519*",
    "id_ecdsa*",
    "*secret*.json",
    "service-account*.json",
)
# "conda-meta/history" and the like name channels, pip where it has a package from.
_CHECKED = re.compile(r"(?:.*/)?(?:[^/]+\.dist-info/direct_url\.json|conda-meta/[^/]+)")
_CREDENTIALS_IN_URL = re.compile(
    rb"://[^\s/@\"']+@|/t/[\w-]{8,}/|[?&][\w-]*(?:token|key|secret|password|auth|sig)[\w-]*=", re.I
)


def is_left_out(path: str) -> bool:
    """Tell whether what is at this path, relative to any tree, is not for an image."""
    return path.rpartition("/")[2] in _CREDENTIALS


def is_left_out_of_stdlib(path: str) -> bool:
    """Tell this for a path relative to a standard library's folder."""
    return path in _OF_STDLIB or _is_static(path) or is_left_out(path)


def of_prefix(prefix: str, stdlib: str, *, packages: bool) -> Callable[[str], bool]:
    """Return what tells this for paths relative to a Python's prefix, with its packages or not."""
    is_out_of_source = of_project(f"{prefix}/{_SOURCES}")
    within = stdlib[len(prefix) + 1 :] + "/" if stdlib.startswith(prefix + "/") else None

    def is_out(path: str) -> bool:
        if path.endswith("/site-packages"):
            return not packages
        if within and path.startswith(within) and path[len(within) :] in _OF_STDLIB:
            return True
        if path.startswith(_SOURCES) and is_out_of_source(path[len(_SOURCES) :]):
            return True
        return bool(_OF_A_PREFIX.fullmatch(path)) or _is_static(path) or is_left_out(path)

    return is_out


def of_project(folder: str) -> Callable[[str], bool]:
    """Return what tells this for paths relative to a project: other environments, for one."""

    def is_out(path: str) -> bool:
        name = path.rpartition("/")[2]
        return (
            name in _CREDENTIALS
            or name in _OF_A_PROJECT
            or any(fnmatch.fnmatchcase(name.lower(), each) for each in _SECRETS_OF_A_PROJECT)
            or os.path.exists(f"{folder}/{path}/pyvenv.cfg")
        )

    return is_out


def is_checked(path: str) -> bool:
    """Tell whether the content of the file at this path decides."""
    return _CHECKED.fullmatch(path) is not None


def has_credentials(content: bytes) -> bool:
    """Tell whether a file that :func:`is_checked` has a user's name, a password or a token."""
    return len(content) > CHECKED_BYTES or _CREDENTIALS_IN_URL.search(content) is not None


def _is_static(path: str) -> bool:
    """Tell the library that programs with a Python in them are made from."""
    name = path.rpartition("/")[2]
    return name.startswith("libpython") and name.endswith(".a")
