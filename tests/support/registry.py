"""A real docker-registry on a free loopback port, for as long as the tests last."""

from __future__ import annotations

import http.client
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

START_TIMEOUT_S = 20
PUSH_TIMEOUT_S = 300


@dataclass(frozen=True)
class Registry:
    """Where it listens, and where it keeps what is pushed to it."""

    host: str
    storage: Path
    pid: int
    login: str | None = None

    def push(
        self,
        layout: Path,
        name: str = "base",
        tag: str = "latest",
        *,
        layout_tag: str = "latest",
        schema: Literal["oci", "v2s2"] = "oci",
    ) -> str:
        """Push a layout's image with skopeo and return its reference in this registry."""
        reference = f"{self.host}/{name}:{tag}"
        argv = ["skopeo", "--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false"]
        argv += ["--dest-creds", self.login] if self.login else ["--dest-no-creds"]
        argv += ["--format", schema, f"oci:{layout}:{layout_tag}", f"docker://{reference}"]
        done = subprocess.run(
            argv, check=False, capture_output=True, text=True, timeout=PUSH_TIMEOUT_S
        )
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(argv)}: {done.stderr}")
        return reference

    def blob(self, digest: str) -> Path:
        """Return the file in which the registry keeps a blob, to damage it."""
        hexadecimal = digest.removeprefix("sha256:")
        root = self.storage / "docker" / "registry" / "v2" / "blobs" / "sha256"
        return root / hexadecimal[:2] / hexadecimal / "data"


@contextmanager
def serving(directory: Path, login: str | None = None) -> Iterator[Registry]:
    """Run a registry that keeps its things below ``directory``; it is ended on exit.

    With a ``login`` (``user:password``) it serves nobody else.
    """
    storage = directory / "storage"
    storage.mkdir(parents=True, exist_ok=True)
    host = f"127.0.0.1:{_free_port()}"
    config = directory / "config.yml"
    config.write_text(
        "version: 0.1\n"
        "log: {level: error, accesslog: {disabled: true}}\n"
        f"storage: {{filesystem: {{rootdirectory: {storage}}}, delete: {{enabled: true}}}}\n"
        f"http: {{addr: {host}}}\n" + _auth(directory, login)
    )
    program = shutil.which("docker-registry")
    if program is None:
        raise RuntimeError("docker-registry is not installed; make test installs it")
    environment = {"PATH": os.environ["PATH"], "OTEL_TRACES_EXPORTER": "none"}
    with (directory / "log").open("wb") as log:
        server = subprocess.Popen(
            [program, "serve", str(config)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment,
        )
    try:
        _wait_until_up(host, server, directory / "log")
        yield Registry(host, storage, server.pid, login)
    finally:
        server.terminate()
        try:
            server.wait(timeout=10)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait(timeout=10)


def _auth(directory: Path, login: str | None) -> str:
    """Return the part of the config that lets only one user in."""
    if login is None:
        return ""
    name, _, password = login.partition(":")
    argv = ["htpasswd", "-Bbn", "-C", "4", name, password]  # -B: it knows bcrypt only
    made = subprocess.run(argv, check=True, capture_output=True, text=True, timeout=30)
    users = directory / "htpasswd"
    users.write_text(made.stdout)
    return f"auth: {{htpasswd: {{realm: test, path: {users}}}}}\n"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_up(host: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if server.poll() is not None:
            break
        connection = http.client.HTTPConnection(host, timeout=2)
        try:
            connection.request("GET", "/v2/")
            if connection.getresponse().status in (http.client.OK, http.client.UNAUTHORIZED):
                return
        except OSError:
            time.sleep(0.05)
        finally:
            connection.close()
    raise RuntimeError(f"docker-registry did not come up on {host}: {log.read_text()[-2000:]}")
