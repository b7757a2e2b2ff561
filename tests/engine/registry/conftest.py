from __future__ import annotations

import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cellblock_engine.layout import Layout
from cellblock_engine.registry.patience import Patience
from cellblock_engine.store import Store
from support import capabilities
from support.fakeregistry import FakeRegistry, Server, serving


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """The places of a store that is nobody else's."""
    return Layout(tmp_path / "home", tmp_path / "run")


@pytest.fixture
def store(layout: Layout) -> Store:
    """That store."""
    return Store(layout)


@pytest.fixture
def fake() -> Iterator[FakeRegistry]:
    """An honest registry until told otherwise."""
    with serving() as served:
        yield served


@pytest.fixture
def other() -> Iterator[FakeRegistry]:
    """A second server: another origin, for redirects and token realms."""
    with serving() as served:
        yield served


@pytest.fixture
def patience() -> Patience:
    """Retries that cost a test no time."""
    return Patience(
        attempts=3,
        backoff_s=0.001,
        longest_wait_s=0.05,
        connect_timeout_s=2,
        read_timeout_s=0.6,
        answer_timeout_s=0.8,
        slow_window_s=0.3,
        slow_bytes=1000,
    )


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A key and a certificate for 127.0.0.1 that nobody has signed but itself."""
    capabilities.need_program("openssl")
    directory = tmp_path_factory.mktemp("tls")
    key, certificate = directory / "key.pem", directory / "cert.pem"
    subprocess.run(
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 "
        "-subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1 "
        f"-keyout {key} -out {certificate}".split(),
        check=True,
        capture_output=True,
        timeout=60,
    )
    return key, certificate


@pytest.fixture
def secure(certificate):
    """A server that speaks TLS."""
    key, chain = certificate
    server = Server()
    server.owner = FakeRegistry(server)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server.owner
    server.shutdown()
    thread.join()
    server.server_close()
