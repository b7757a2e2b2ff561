"""Lets a hand-written registry be pushed to, and misbehave meanwhile."""

from __future__ import annotations

import json
import re
import secrets
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlsplit

from support.fakeregistry import FakeRegistry, Request, digest_of

Misbehaviour = Callable[[Request], bool]
_PATH = re.compile(r"/v2/(.+)/(blobs|uploads|manifests)/(.*)")


@dataclass
class Uploads:
    """What was pushed, by repository; ``log`` has a line for each request.

    ``misbehave`` is asked first, by method: where it returns True it has answered. ``mountable``
    are digests that other repositories of the registry have.
    """

    registry: FakeRegistry
    blobs: dict[tuple[str, str], bytes] = field(default_factory=dict)
    manifests: dict[tuple[str, str], tuple[bytes, str]] = field(default_factory=dict)
    sessions: dict[str, bytearray] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)
    misbehave: dict[str, Misbehaviour] = field(default_factory=dict)
    mountable: set[str] = field(default_factory=set)

    def count(self, method: str) -> int:
        return sum(line.startswith(f"{method} ") for line in self.log)

    def __call__(self, request: Request) -> None:
        url = urlsplit(request.path)
        self.log.append(f"{request.command} {request.path}")
        misbehave = self.misbehave.get(request.command)
        if misbehave is not None and misbehave(request):
            return
        match = _PATH.fullmatch(url.path.replace("/blobs/uploads/", "/uploads/"))
        assert match is not None, request.path
        name, kind, what = match.groups()
        answer = getattr(self, f"{request.command.lower()}_{kind}")
        answer(request, name, what, {k: v[0] for k, v in parse_qs(url.query).items()})

    def head_blobs(self, request: Request, name: str, digest: str, _: dict[str, str]) -> None:
        blob = self.blobs.get((name, digest))
        request.answer(404 if blob is None else 200, blob or b"")

    get_blobs = head_blobs

    def get_manifests(self, request: Request, name: str, tag: str, _: dict[str, str]) -> None:
        raw, media_type = self.manifests.get((name, tag), (b"", ""))
        request.answer(200 if raw else 404, raw, Content_Type=media_type)

    def post_uploads(self, request: Request, name: str, _: str, asked: dict[str, str]) -> None:
        if (digest := asked.get("mount")) in self.mountable:
            self.blobs[name, str(digest)] = b"mounted"
            request.answer(201, Location=f"/v2/{name}/blobs/{digest}")
            return
        session = secrets.token_hex(8)
        self.sessions[session] = bytearray()
        request.answer(202, Location=f"/v2/{name}/blobs/uploads/{session}?state=a%2Fb")

    def patch_uploads(self, request: Request, name: str, session: str, _: dict[str, str]) -> None:
        length = int(request.headers["Content-Length"])
        start = int(request.headers.get("Content-Range", "0-").partition("-")[0])
        body = request.rfile.read(length)
        if session not in self.sessions:
            request.answer(404)
        elif start != len(self.sessions[session]):
            request.answer(416)
        else:
            self.sessions[session] += body
            self._stand(request, 202, session)

    def get_uploads(self, request: Request, name: str, session: str, _: dict[str, str]) -> None:
        if session in self.sessions:
            self._stand(request, 204, session)
        else:
            request.answer(404)

    def put_uploads(self, request: Request, name: str, session: str, asked: dict[str, str]) -> None:
        content = bytes(self.sessions.pop(session, b""))
        if digest_of(content) != asked["digest"]:
            request.answer(400, b'{"errors": [{"code": "DIGEST_INVALID", "message": "no"}]}')
            return
        self.blobs[name, asked["digest"]] = content
        request.answer(201, Location=f"/v2/{name}/blobs/{asked['digest']}")

    def put_manifests(self, request: Request, name: str, tag: str, _: dict[str, str]) -> None:
        raw = request.rfile.read(int(request.headers["Content-Length"]))
        document = json.loads(raw)
        for descriptor in (document["config"], *document["layers"]):
            assert (name, descriptor["digest"]) in self.blobs or descriptor.get("urls")
        for wanted in (tag, digest_of(raw)):
            self.manifests[name, wanted] = raw, request.headers["Content-Type"]
        request.answer(201, Docker_Content_Digest=digest_of(raw))

    def _stand(self, request: Request, status: int, session: str) -> None:
        most = max(len(self.sessions[session]) - 1, 0)
        request.answer(
            status,
            Location=urlsplit(request.path).path + "?state=c",
            Range=f"0-{most}",
        )


def accept(registry: FakeRegistry) -> Uploads:
    """Let a registry be pushed to, under any name."""
    registry.otherwise = uploads = Uploads(registry)
    return uploads


def cut(uploads: Uploads, keep: int, times: int = 1) -> Misbehaviour:
    """Return what breaks off a PATCH after ``keep`` bytes, which stay, some times."""
    left = [times]

    def misbehave(request: Request) -> bool:
        if not left[0]:
            return False
        left[0] -= 1
        session = urlsplit(request.path).path.rpartition("/")[2]
        length = int(request.headers["Content-Length"])
        uploads.sessions[session] += request.rfile.read(min(keep, length))
        request.connection.shutdown(socket.SHUT_RDWR)
        request.close_connection = True
        return True

    return misbehave
