"""Requests over http and https: time-outs, retries, redirects, and one switch to stop it all.

Knows nothing of images. It refuses plain http but for this machine and hosts named by the user,
redirects from https to http, and carrying an Authorization header to another origin.
"""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
import time
import urllib.request
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any
from urllib.parse import urljoin

import urllib3
import urllib3.exceptions as failures
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from ..errors import InvalidAnswer, RegistryUnavailable
from ..log import Log
from ..settings import Registries
from .origin import Origin
from .patience import Patience
from .trust import Trust

CHUNK_BYTES = 2**20
_MAX_REDIRECTS = 5
_SMALL_BODY = 64 * 2**10
_MAX_URL = 16 * 2**10  # signed URLs of object stores have some 2 KiB
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
TRANSIENT = frozenset({408, 429, 500, 502, 503, 504})
"""Answers after which another attempt may do better."""


_log = Log(__name__)


class Stopped(Exception):
    """The transport was stopped while this request was under way."""


class Broken(Exception):
    """A connection failed in a way that another attempt may cure."""


class Response:
    """An answer whose body is read in chunks; a context manager that gives its connection back."""

    def __init__(self, raw: urllib3.BaseHTTPResponse, url: str, transport: Transport) -> None:
        self._raw, self._transport = raw, transport
        self.url = url
        self.status = raw.status
        self.headers = raw.headers

    def __enter__(self) -> Response:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def length(self) -> int | None:
        """The promised length of the body in bytes, None where nothing was promised."""
        text = self.headers.get("Content-Length", "")
        return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None

    def chunks(self) -> Iterator[bytes]:
        """Yield the body as it arrives, without content decoding.

        Raises Broken when the connection fails, ends early or is hopelessly slow; Stopped.
        """
        patience = self._transport.patience
        window_ends, arrived = time.monotonic() + patience.slow_window_s, 0
        while True:
            chunk = self._transport.guard(lambda: self._raw.read1(CHUNK_BYTES))
            if not chunk:
                return
            arrived += len(chunk)
            if (now := time.monotonic()) > window_ends:
                if arrived < patience.slow_bytes:
                    raise Broken(f"only {arrived} bytes in {patience.slow_window_s:g} s")
                window_ends, arrived = now + patience.slow_window_s, 0
            yield chunk

    def read(self, cap_bytes: int, what: str) -> bytes:
        """Return the whole body. Raises InvalidAnswer beyond ``cap_bytes``; Broken; Stopped."""
        body = bytearray()
        for chunk in self.chunks():
            body += chunk
            if len(body) > cap_bytes:
                raise InvalidAnswer(
                    f"{what} from {Origin.of_url(self.url)} is larger than the "
                    f"{cap_bytes} bytes allowed"
                )
        return bytes(body)

    def discard(self) -> None:
        """Close, having read what little body there is: the connection then serves again."""
        if self.length is not None and self.length <= _SMALL_BODY:
            with suppress(Broken):
                for _ in self.chunks():
                    pass
        self.close()

    def close(self) -> None:
        """Close the connection, unless the body was read to its end: it may be endless."""
        if self._raw.closed:
            self._raw.release_conn()
        else:
            self._raw.close()


class Transport:
    """A client with pooled connections, shared by the threads of one pull or push.

    ``stop`` ends every request under way, in whatever thread, and refuses new ones.
    """

    def __init__(self, patience: Patience, trust: Trust | None = None) -> None:
        self.patience = patience
        self.trust = trust or Trust(Registries())
        self._stopping = threading.Event()
        self._connections: weakref.WeakSet[HTTPConnection] = weakref.WeakSet()
        self._lock = threading.Lock()
        self._pools: dict[tuple[str, bool], urllib3.PoolManager] = {}

    def open(
        self,
        url: str,
        headers: Mapping[str, str],
        authorization: str | None,
        *,
        method: str = "GET",
        body: bytes = b"",
    ) -> Response:
        """Return the answer to a request that may be sent several times, after retries.

        Redirects are followed for GET and HEAD; anything else is sent to ``url`` alone. The
        caller closes the answer. Raises RegistryUnavailable when failures persist, InvalidAnswer
        for a redirect that is refused, Stopped.
        """
        problem = ""
        for attempt in range(self.patience.attempts):
            retry_after = None
            try:
                response = self._follow(method, url, headers, authorization, body)
            except Broken as error:
                problem = str(error)
            else:
                if response.status not in TRANSIENT:
                    return response
                problem = answered(response)
                retry_after = response.headers.get("Retry-After")
                response.discard()
            _log.info("%s: %s (attempt %d)", _shown(url), problem, attempt + 1)
            if attempt + 1 < self.patience.attempts:
                self.wait(attempt, retry_after)
        raise unavailable(url, f"{problem}, {self.patience.attempts} times")

    def send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        authorization: str | None,
        body: Iterable[bytes],
    ) -> Response:
        """Return the answer to a request that is sent once, to ``url`` alone, piece by piece.

        Its ``headers`` tell the length. The caller closes the answer. Raises Broken, InvalidAnswer
        for an address that is refused, RegistryUnavailable for one where nobody is, Stopped.
        """
        sent = _headers(headers, authorization)
        return self._request(method, url, Origin.of_url(url), sent, body)

    def wait(self, attempt: int, retry_after: str | None = None) -> None:
        """Sleep before the next attempt. Raises Stopped as soon as the transport is stopped."""
        if self._stopping.wait(self.patience.wait_s(attempt, retry_after)):
            raise Stopped

    def guard(self, read: Callable[[], bytes]) -> bytes:
        """Return what ``read`` returns; its network failures become Broken or Stopped."""
        try:
            data = read()
        except (failures.HTTPError, OSError) as error:
            if self._stopping.is_set():
                raise Stopped from error
            raise Broken(_reason(error)) from error
        self.check()
        return data

    def check(self) -> None:
        """Raise Stopped once the transport is stopped."""
        if self._stopping.is_set():
            raise Stopped

    def stop(self) -> None:
        """End all requests, now and from now on; callable from any thread, any number of times."""
        self._stopping.set()
        with self._lock:
            connections = list(self._connections)
        for connection in connections:
            _shut(connection)

    def close(self) -> None:
        """Close the idle connections."""
        for pools in self._pools.values():
            pools.clear()

    def refer(self, source: str, location: str) -> str:
        """Return where the Location in an answer from ``source`` leads. Raises InvalidAnswer."""
        origin = Origin.of_url(source)
        target = urljoin(source, location) if 0 < len(location) <= _MAX_URL else ""
        if not self.trust.may_refer(origin, Origin.of_url(target)):
            raise InvalidAnswer(
                f"{origin} redirects to {Origin.of_url(target)}: plain http is refused"
            )
        return target

    def _follow(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        authorization: str | None,
        body: bytes,
    ) -> Response:
        origin = Origin.of_url(url)
        for _ in range(_MAX_REDIRECTS + 1):
            sent = _headers(headers, authorization)
            response = self._request(method, url, origin, sent, body)
            if response.status not in _REDIRECTS or method not in ("GET", "HEAD"):
                return response
            location = response.headers.get("Location", "")
            response.discard()
            url = self.refer(url, location)
            target = Origin.of_url(url)
            _log.debug("%s redirects to %s", origin, target)
            if target != origin:
                authorization = None
            origin = target
        raise InvalidAnswer(f"{origin} redirects more than {_MAX_REDIRECTS} times")

    def _request(
        self,
        method: str,
        url: str,
        origin: Origin,
        headers: Mapping[str, str],
        body: bytes | Iterable[bytes],
    ) -> Response:
        if not self.trust.allows(origin):
            raise InvalidAnswer(
                f"{origin} is refused: plain http is for this machine, "
                "and for hosts named under registries.plain-http in the config file"
            )
        self.check()
        try:
            raw = self._pool(origin).request(
                method,
                url,
                body=body or None,
                headers=headers,
                preload_content=False,
                decode_content=False,
                redirect=False,
                retries=False,
            )
        except (failures.HTTPError, OSError) as error:
            if self._stopping.is_set():
                raise Stopped from error
            if _is_final(error):
                raise unavailable(url, _reason(error)) from error
            raise Broken(_reason(error)) from error
        _log.debug("%s %s: %d", method, _shown(url), raw.status)
        return Response(raw, url, self)

    def _pool(self, origin: Origin) -> urllib3.PoolManager:
        proxy, verified = _proxy(origin), self.trust.verifies(origin)
        with self._lock:
            if (proxy, verified) not in self._pools:
                options: dict[str, Any] = {
                    "timeout": urllib3.Timeout(
                        connect=self.patience.connect_timeout_s, read=self.patience.read_timeout_s
                    ),
                    "maxsize": 8,
                }
                if not verified:
                    options |= {"cert_reqs": ssl.CERT_NONE, "assert_hostname": False}
                pools = (
                    urllib3.ProxyManager(proxy, **options)
                    if proxy
                    else urllib3.PoolManager(**options)
                )
                pools.pool_classes_by_scheme = self._pool_classes(verified=verified)
                self._pools[proxy, verified] = pools
            return self._pools[proxy, verified]

    def _pool_classes(self, *, verified: bool) -> dict[str, type[HTTPConnectionPool]]:
        """Return connection pools whose connections :meth:`stop` can find."""
        keep, answer_timeout_s = self._keep, self.patience.answer_timeout_s

        class Plain(HTTPConnection):
            def connect(self) -> None:
                super().connect()
                keep(self)

            def getresponse(self) -> urllib3.HTTPResponse:  # type: ignore[override]
                with _deadline(self, answer_timeout_s):
                    return super().getresponse()

        class Secure(HTTPSConnection):
            def connect(self) -> None:
                super().connect()
                keep(self)

            def getresponse(self) -> urllib3.HTTPResponse:  # type: ignore[override]
                with _deadline(self, answer_timeout_s):
                    return super().getresponse()

        class PlainPool(HTTPConnectionPool):
            ConnectionCls = Plain

        class SecurePool(HTTPSConnectionPool):
            ConnectionCls = Secure

        class UnverifiedPool(SecurePool):
            def _validate_conn(self, conn: HTTPSConnection) -> None:  # type: ignore[override]
                if conn.is_closed:  # its base also warns, on stderr, of what the user has chosen
                    conn.connect()

        return {"http": PlainPool, "https": SecurePool if verified else UnverifiedPool}

    def _keep(self, connection: HTTPConnection) -> None:
        with self._lock:
            self._connections.add(connection)
        if self._stopping.is_set():
            _shut(connection)


def _headers(headers: Mapping[str, str], authorization: str | None) -> dict[str, str]:
    sent = {"User-Agent": "cellblock", "Accept-Encoding": "identity", **headers}
    return sent if authorization is None else {**sent, "Authorization": authorization}


def _shown(url: str) -> str:
    """Return the address without its query, which can hold a signature that opens it."""
    return url.partition("?")[0]


def answered(response: Response) -> str:
    """Return in words that a server answered so."""
    words = http.client.responses.get(response.status, "")
    return f"it answered {response.status} {words}".rstrip()


def unavailable(url: str, reason: str) -> RegistryUnavailable:
    """Return the error for a server that does not serve."""
    return RegistryUnavailable(
        f"registry {Origin.of_url(url)} is not available: {reason}; "
        "check its name, your network and that it is running"
    )


@contextmanager
def _deadline(connection: HTTPConnection, timeout_s: float) -> Iterator[None]:
    """Break the connection when its answer's head takes longer, byte by byte if need be."""
    passed = threading.Event()

    def end() -> None:
        passed.set()
        _shut(connection)

    timer = threading.Timer(timeout_s, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
    if passed.is_set():  # http.client takes a head that was cut off for a whole one
        raise TimeoutError


def _shut(connection: HTTPConnection) -> None:
    sock = connection.sock
    if sock is not None:
        with suppress(OSError):
            # The plain socket's own method: the TLS one also drops state its reader still uses.
            socket.socket.shutdown(sock, socket.SHUT_RDWR)


def _proxy(origin: Origin) -> str:
    """Return the proxy the environment names for this origin, empty where there is none."""
    if origin.is_loopback or urllib.request.proxy_bypass(origin.host):
        return ""
    proxy = urllib.request.getproxies().get(origin.scheme, "")
    return proxy if not proxy or "://" in proxy else f"http://{proxy}"


def _is_final(error: Exception) -> bool:
    """Tell whether trying again is of no use: nobody there, or not who it should be."""
    return isinstance(
        error, (failures.NameResolutionError, failures.SSLError, failures.LocationValueError)
    ) or isinstance(error.__cause__, ConnectionRefusedError)


def _reason(error: Exception) -> str:
    """Return a few words for people, without object addresses and line breaks."""
    if isinstance(error, failures.NameResolutionError):
        return "its name cannot be resolved"
    cause: BaseException | None = error
    for _ in range(4):  # urllib3 wraps the kernel's own word more than once
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"its certificate is not trusted ({cause.verify_message})"
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror.lower()
        cause = cause and (cause.__cause__ or cause.__context__)
    if isinstance(error, failures.TimeoutError):
        return "it does not answer in time"
    if isinstance(error, failures.ProtocolError):
        return "the connection broke off"
    return " ".join(str(error).split())[:160]
