"""What only shows over TLS, and the requests of ordinary users behind a proxy."""

import threading
from http.server import ThreadingHTTPServer

import pytest

from cellblock_engine.errors import InvalidAnswer, RegistryUnavailable
from cellblock_engine.registry.patience import Patience
from cellblock_engine.registry.transport import Stopped, Transport
from support.fakeregistry import Request


def get(transport, url, authorization=None):
    with transport.open(url, {}, authorization) as response:
        return response.read(1000, "it")


def test_a_certificate_nobody_trusts_is_refused_at_once(secure):
    with pytest.raises(RegistryUnavailable, match="certificate is not trusted") as caught:
        get(Transport(Patience()), f"https://{secure.host}/")
    assert "\n" not in str(caught.value)
    assert secure.seen == []


@pytest.fixture
def trusted(secure, certificate, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[1]))
    secure.routes["/yes"] = lambda request: request.answer(200, b"yes")
    return f"https://{secure.host}"


def test_the_systems_trust_is_used(trusted, patience):
    assert get(Transport(patience), f"{trusted}/yes") == b"yes"


@pytest.mark.attack(54)
def test_https_never_leads_to_http(trusted, secure, fake, patience):
    secure.routes["/down"] = lambda request: request.answer(302, Location=f"{fake.url}/yes")
    with pytest.raises(InvalidAnswer, match="plain http is refused"):
        get(Transport(patience), f"{trusted}/down", "Bearer secret")
    assert fake.seen == []


def test_stop_reaches_tls_connections_too(trusted, secure):
    release, arrived = threading.Event(), threading.Event()

    def route(request):
        arrived.set()
        release.wait(20)

    secure.routes["/stall"] = route
    transport = Transport(Patience())
    ended = threading.Event()

    def reading():
        with pytest.raises(Stopped):
            get(transport, f"{trusted}/stall")
        ended.set()

    thread = threading.Thread(target=reading)
    thread.start()
    try:
        assert arrived.wait(5)
        transport.stop()
        assert ended.wait(2)
    finally:
        release.set()
        thread.join()


def test_a_proxy_carries_what_is_not_on_this_machine(fake, patience, monkeypatch):
    asked = []

    class Proxy(Request):
        def do_CONNECT(self):  # noqa: N802 - its base finds it by this name
            asked.append(self.path)
            self.send_error(502)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.delenv("no_proxy", raising=False)
        with pytest.raises(RegistryUnavailable):
            get(Transport(patience), "https://registry.test/v2/")
        assert set(asked) == {"registry.test:443"}
        fake.routes["/here"] = lambda request: request.answer(200, b"here")
        assert get(Transport(patience), f"{fake.url}/here") == b"here"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
