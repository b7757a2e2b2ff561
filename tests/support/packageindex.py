"""A package index of this machine's, by TLS, with one wheel in it and a log of what was asked."""

from __future__ import annotations

import functools
import http.server
import shutil
import ssl
import subprocess
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pip

from support import capabilities

INSTALL = "!python3 shown/pip install --no-index --no-cache-dir --break-system-packages {}"


@dataclass(frozen=True)
class PackageIndex:
    """Where it listens, the file with its certificate, and the paths that were asked for."""

    url: str
    certificate: Path
    asked: list[str] = field(default_factory=list)


@contextmanager
def serving(directory: Path, package: str) -> Iterator[PackageIndex]:
    """Serve an empty pure wheel of ``package`` at localhost until the block ends."""
    key, certificate = directory / "key.pem", directory / "certificate.pem"
    capabilities.need_program("openssl")
    subprocess.run(
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 "
        "-subj /CN=localhost -addext subjectAltName=DNS:localhost "
        f"-keyout {key} -out {certificate}".split(),
        check=True,
        capture_output=True,
        timeout=30,
    )
    write_wheel(directory / "served" / "simple" / package, package)
    asked: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_request(self, *_: object) -> None:
            asked.append(self.path)

    serve = functools.partial(Handler, directory=str(directory / "served"))
    with http.server.ThreadingHTTPServer(("localhost", 0), serve) as server:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield PackageIndex(f"https://localhost:{server.server_port}/simple", certificate, asked)
        finally:
            server.shutdown()
            thread.join()


def write_installable(folder: Path, *packages: str) -> None:
    """Write such wheels, and a pip for an image that has none: :data:`INSTALL` installs them."""
    for package in packages:
        write_wheel(folder, package)
    shutil.copytree(Path(pip.__file__).parent, folder / "shown" / "pip")


def write_wheel(folder: Path, package: str) -> Path:
    """Write an empty pure wheel of version 1; return it."""
    folder.mkdir(parents=True, exist_ok=True)
    about = f"{package}-1.dist-info"
    with zipfile.ZipFile(folder / f"{package}-1-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{package}.py", "")
        wheel.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {package}\nVersion: 1\n")
        wheel.writestr(
            f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        names = [f"{package}.py", *(f"{about}/{each}" for each in ("METADATA", "WHEEL", "RECORD"))]
        wheel.writestr(f"{about}/RECORD", "".join(f"{name},,\n" for name in names))
    return folder / f"{package}-1-py3-none-any.whl"
