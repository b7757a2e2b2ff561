"""An apt repository on the loopback: three real packages of the distribution of the test images.

``hello`` is a program alone. ``at`` has files that belong to daemon, some of them set-id.
``uuid-runtime`` makes a user when it is installed, and gives it a directory. They need nothing that
the images lack.
"""

from __future__ import annotations

import functools
import hashlib
import http.server
import os
import subprocess
import tarfile
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support import images

PACKAGES = ("hello", "at", "uuid-runtime")
TIMEOUT_S = 300
STATUS = "./var/lib/dpkg/status"


def folder() -> Path:
    """Return the folder of it, fetched by this machine's apt where it is not in the cache."""
    archive = images.base_tar()
    return images.cached("-".join(("apt", *PACKAGES)), lambda target: _make(archive, target))


@contextmanager
def serving() -> Iterator[str]:
    """Serve it on a free port until the block ends; yields the line for sources.list."""
    quiet = type("Quiet", (http.server.SimpleHTTPRequestHandler,), {"log_message": _say_nothing})
    answer = functools.partial(quiet, directory=str(folder()))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), answer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"deb [trusted=yes] http://127.0.0.1:{server.server_port} ./"
        finally:
            server.shutdown()
            thread.join()


def _say_nothing(*_: object) -> None:
    """Requests are not logged."""


def _make(rootfs: Path, target: Path) -> None:
    target.mkdir()
    with tempfile.TemporaryDirectory(prefix="cb-apt-") as directory:
        for archive in _download(rootfs, Path(directory)):
            (target / archive.name).write_bytes(archive.read_bytes())
    index = "".join(_entry(archive) for archive in sorted(target.glob("*.deb")))
    (target / "Packages").write_text(index)
    digest = hashlib.sha256(index.encode()).hexdigest()
    release = f"Suite: rig\nSHA256:\n {digest} {len(index)} Packages\n"
    (target / "Release").write_text(release)


def _download(rootfs: Path, directory: Path) -> list[Path]:
    """Fetch the packages and what they need that ``rootfs`` lacks; with lists of its own."""
    (directory / "state" / "lists" / "partial").mkdir(parents=True)
    archives = directory / "cache" / "archives"
    (archives / "partial").mkdir(parents=True)
    status = directory / "status"
    with tarfile.open(rootfs) as tar:
        installed = tar.extractfile(STATUS)
        assert installed is not None
        status.write_bytes(installed.read())
    apt = [
        *("apt-get", "-q", "-o", f"Dir::State={directory}/state"),
        *("-o", f"Dir::State::status={status}", "-o", f"Dir::Cache={directory}/cache"),
        *("-o", "Debug::NoLocking=1", "-o", "APT::Sandbox::User="),
    ]
    install = ["install", "--yes", "--no-install-recommends", "--download-only", *PACKAGES]
    for words in (["update"], install):
        _run(*apt, *words)
    return list(archives.glob("*.deb"))


def _entry(archive: Path) -> str:
    """Return the paragraph of a package in the index."""
    content = archive.read_bytes()
    return (
        f"{_run('dpkg-deb', '-f', str(archive)).rstrip()}\n"
        f"Filename: ./{archive.name}\n"
        f"Size: {len(content)}\n"
        f"SHA256: {hashlib.sha256(content).hexdigest()}\n\n"
    )


def _run(*argv: str) -> str:
    done = subprocess.run(
        argv,
        stdin=subprocess.DEVNULL,
        check=False,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        env={**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"},
    )
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(argv)}: exit {done.returncode}: {done.stderr[-2000:]}")
    return done.stdout
