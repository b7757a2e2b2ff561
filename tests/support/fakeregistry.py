"""A registry written by hand, so that it can misbehave in every way a test wants."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from cellblock_engine.oci import manifest as m
from cellblock_engine.oci.platform import Platform

HOST_PLATFORM = {"os": Platform.host().os, "architecture": Platform.host().architecture}


def digest_of(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


@dataclass(frozen=True)
class Packed:
    """Some content with the descriptor that names it."""

    raw: bytes
    media_type: str

    @property
    def digest(self) -> str:
        return digest_of(self.raw)

    def descriptor(self, **more) -> dict:
        facts = {"mediaType": self.media_type, "digest": self.digest, "size": len(self.raw)}
        return facts | more


def packed(document: dict, media_type: str) -> Packed:
    return Packed(json.dumps(document).encode(), media_type)


def a_layer(name: str = "file", content: bytes = b"content\n") -> tuple[bytes, bytes]:
    """Return an uncompressed layer of one file, and the same compressed."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        member = tarfile.TarInfo(name)
        member.size, member.mode = len(content), 0o644
        tar.addfile(member, io.BytesIO(content))
    tar_bytes = archive.getvalue()
    return tar_bytes, gzip.compress(tar_bytes, 1, mtime=0)


@dataclass(frozen=True)
class ImageParts:
    """A whole image, taken apart."""

    manifest: Packed
    config: Packed
    layers: tuple[Packed, ...]


def an_image(
    layers: int = 1,
    platform: dict = HOST_PLATFORM,
    *,
    diff_ids: list[str] | None = None,
    manifest: dict | None = None,
    contents: tuple[bytes, ...] = (),
) -> ImageParts:
    """Return an image whose layer N has one file ``fileN``; the keywords put lies in it."""
    pairs = [
        a_layer(f"file{n}", contents[n] if n < len(contents) else b"%d\n" % n)
        for n in range(layers)
    ]
    blobs = tuple(Packed(packed_tar, m.OCI_LAYER + "+gzip") for _, packed_tar in pairs)
    ids = [digest_of(tar_bytes) for tar_bytes, _ in pairs] if diff_ids is None else diff_ids
    config = packed(
        {**platform, "config": {"Cmd": ["x"]}, "rootfs": {"type": "layers", "diff_ids": ids}},
        m.OCI_CONFIG,
    )
    document = {
        "schemaVersion": 2,
        "mediaType": m.OCI_MANIFEST,
        "config": config.descriptor(),
        "layers": [blob.descriptor() for blob in blobs],
        **(manifest or {}),
    }
    return ImageParts(packed(document, m.OCI_MANIFEST), config, blobs)


class Request(BaseHTTPRequestHandler):
    """One request; routes write their answers through it."""

    protocol_version = "HTTP/1.1"
    server: Server
    form: dict[str, list[str]]

    def do_POST(self) -> None:
        """Note the form, and go on as if it had been asked for."""
        if "form" in self.headers.get("Content-Type", ""):
            self.form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
        self.do_GET()

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_PATCH(self) -> None:
        self.do_GET()

    def do_PUT(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.server.seen.append((self.path, dict(self.headers)))
        route = self.server.owner.routes.get(path, self.server.owner.otherwise)
        try:
            route(self)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        """Send an answer; header names have underscores for hyphens."""
        self.send_response(status)
        headers.setdefault("Content_Length", str(len(body)))
        for name, value in headers.items():
            if value:
                self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its base's name
        """Say nothing."""


class Server(ThreadingHTTPServer):
    daemon_threads = True
    owner: FakeRegistry

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Request)
        self.seen: list[tuple[str, dict[str, str]]] = []

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that hang up are what many tests are about."""


Route = Callable[[Request], None]


def _not_found(request: Request) -> None:
    body = json.dumps({"errors": [{"code": "MANIFEST_UNKNOWN", "message": "unknown"}]}).encode()
    request.answer(404, body, Content_Type="application/json")


@dataclass
class FakeRegistry:
    """Serves what it was given; any route may be replaced by a hostile one."""

    server: Server
    routes: dict[str, Route] = field(default_factory=dict)
    otherwise: Route = _not_found

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.server.server_port}"

    @property
    def url(self) -> str:
        return f"http://{self.host}"

    @property
    def seen(self) -> list[tuple[str, dict[str, str]]]:
        return self.server.seen

    def paths(self) -> list[str]:
        return [path for path, _ in self.seen]

    def serve(self, image: ImageParts, name: str = "img", tag: str = "latest") -> str:
        """Serve an image honestly and return its reference."""
        for blob in (image.config, *image.layers):
            self.serve_blob(blob, name)
        self.serve_manifest(image.manifest, name, tag)
        return f"{self.host}/{name}:{tag}"

    def serve_blob(self, blob: Packed, name: str = "img") -> str:
        path = f"/v2/{name}/blobs/{blob.digest}"
        self.routes[path] = lambda request: request.answer(200, blob.raw)
        return path

    def serve_manifest(self, manifest: Packed, name: str = "img", tag: str = "latest") -> None:
        def route(request: Request) -> None:
            request.answer(
                200,
                manifest.raw,
                Content_Type=manifest.media_type,
                Docker_Content_Digest=manifest.digest,
            )

        for wanted in (tag, manifest.digest):
            self.routes[f"/v2/{name}/manifests/{wanted}"] = route


@contextmanager
def serving() -> Iterator[FakeRegistry]:
    """Run a registry that is honest until told otherwise, on a free loopback port."""
    server = Server()
    server.owner = FakeRegistry(server)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server.owner
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def demand_tokens(registry: FakeRegistry, known: set[str]) -> list[dict[str, list[str]]]:
    """Let every route want a token, which the registry's own token server gives to the known.

    ``known`` are Authorization headers. The queries that the token server was asked with are in
    the list that is returned.
    """
    asked: list[dict[str, list[str]]] = []

    def give(request: Request) -> None:
        asked.append(parse_qs(urlsplit(request.path).query))
        if request.headers.get("Authorization") in known:
            request.answer(200, b'{"token": "good"}')
        else:
            request.answer(401, b"{}")

    def guard(route: Route) -> Route:
        def guarded(request: Request) -> None:
            if request.headers.get("Authorization") == "Bearer good":
                route(request)
            else:
                challenge = f'Bearer realm="{registry.url}/token",service="svc"'
                request.answer(401, b"{}", WWW_Authenticate=challenge)

        return guarded

    registry.routes = {path: guard(route) for path, route in registry.routes.items()}
    registry.routes["/v2/"] = guard(lambda request: request.answer(200, b"{}"))
    registry.routes["/token"] = give
    return asked
