"""What a Python expects of the system around it, and nothing else of this machine's.

A short list: the shell that ``os.system`` runs, certificates, time zones, a locale, terminals, and
an /etc with two users in it. No command but ``sh`` and ``env``.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from ..hostimage import etc
from .environment import Environment
from .nodes import Draft

_EMPTY = (
    "dev etc home media mnt opt proc root run run/lock srv sys usr/local/bin var var/cache "
    "var/lib var/log"
).split()
_STICKY = ("tmp", "var/tmp")
_LINKS = (("/var/run", "../run"), ("/var/lock", "../run/lock"))
_MERGED = ("/bin", "/sbin", "/lib", "/lib64")  # links, where /usr has all
_COMMANDS = ("/bin/sh", "/usr/bin/env")
_TREES = ("/usr/lib/locale/C.utf8", "/usr/lib/locale/en_US.utf8", "/usr/share/zoneinfo")
_ZONES_TWICE = ("right", "posix")  # the same zones again
_LOCALES = "/usr/lib/locale/locale-archive"
_MAX_LOCALES_BYTES = 64 * 2**20  # of some distributions, it has all languages
_TERMINALS = (
    "a/ansi d/dumb l/linux r/rxvt s/screen s/screen-256color t/tmux t/tmux-256color v/vt100 "
    "x/xterm x/xterm-256color x/xterm-color"
).split()
_TERMINAL_FOLDERS = ("/lib/terminfo", "/usr/share/terminfo")
_OF_ETC = ("os-release", "protocols", "services", "mime.types")
_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)
_MADE = {
    "/etc/passwd": b"root:x:0:0:root:/root:/bin/sh\n"
    b"nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
    "/etc/group": b"root:x:0:\nnogroup:x:65534:\n",
    "/etc/nsswitch.conf": b"passwd: files\ngroup: files\nhosts: files dns\n"
    b"services: files\nprotocols: files\n",
}


def add(draft: Draft, environment: Environment) -> None:
    """Add all of it to the layer. What this machine does not have is not in the image either."""
    draft.directory("/")
    for name in _EMPTY:
        draft.directory(f"/{name}")
    for name in _STICKY:
        draft.directory(f"/{name}", 0o1777)
    for path in _MERGED:
        if os.path.islink(path):
            draft.directory(draft.real(path))
    for path, target in _LINKS:
        draft.link(path, target)
    for path in _COMMANDS:
        _public(draft, path)
    for path in _TREES:
        if Path(path).is_dir():
            draft.tree(path, lambda name: name in _ZONES_TWICE)
    if Path(_LOCALES).is_file() and Path(_LOCALES).stat().st_size <= _MAX_LOCALES_BYTES:
        _public(draft, _LOCALES)
    for name in _TERMINALS:
        any(_public(draft, f"{folder}/{name}") for folder in _TERMINAL_FOLDERS)
    for path, content in _MADE.items():
        draft.text(path, content)
    for name in _OF_ETC:
        _of_etc(draft, f"/etc/{name}")
    _certificates(draft, environment.certificates)


def _certificates(draft: Draft, wanted: str) -> None:
    """Add the certificates of authorities where this machine has them, and where Python looks."""
    places = filter(None, (wanted, *_BUNDLES))
    found = (_of_etc(draft, path, having=b"-----BEGIN CERTIFICATE-----") for path in places)
    bundle = next(filter(None, found), "")
    if wanted and bundle:
        folder = draft.real(wanted.rpartition("/")[0])
        draft.link(f"{folder}/{wanted.rpartition('/')[2]}", bundle)
        _of_etc(draft, f"{folder}/openssl.cnf")


def _of_etc(draft: Draft, path: str, *, having: bytes = b"") -> str:
    """Add a file of the system's settings, unless it has secrets in it or not what it should.

    Returns its real path, or nothing.
    """
    try:
        content = Path(path).read_bytes()
    except OSError:
        return ""
    if len(content) > etc.MAX_FILE_BYTES or having not in content:
        return ""
    if etc.holds_credentials(content):
        return ""
    return _public(draft, path)


def _public(draft: Draft, path: str) -> str:
    """Add a file that anybody may read; return its real path, or nothing where there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return ""
    if not stat.S_ISREG(status.st_mode) or not status.st_mode & stat.S_IROTH:
        return ""
    return draft.file(path)
