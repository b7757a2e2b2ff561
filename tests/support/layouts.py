"""Writes OCI image layouts by hand (image-layout.md of the OCI image specification).

Independent of the engine on purpose: what it reads must not come from its own writer.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import platform
import shutil
import sys
import tarfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Compression = Literal["gzip", "zstd", "none"]

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
SUFFIXES: Mapping[Compression, str] = {"gzip": "+gzip", "zstd": "+zstd", "none": ""}
CHUNK_BYTES = 1 << 20

PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def host_architecture() -> str:
    """Return the machine's architecture as Go, and so the specification, names it."""
    names = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}
    return names.get(platform.machine(), platform.machine())


@dataclass(frozen=True)
class WrittenLayer:
    """A layer blob in a layout: its descriptor, and the digest of the uncompressed archive."""

    descriptor: dict[str, Any]
    diff_id: str


class LayoutWriter:
    """Writes one layout directory; call :meth:`image` once for each tag."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._blobs = directory / "blobs" / "sha256"
        self._blobs.mkdir(parents=True, exist_ok=True)
        self._tagged: list[dict[str, Any]] = []
        (directory / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')

    def blob(self, data: bytes, media_type: str) -> dict[str, Any]:
        """Write ``data`` as a blob and return its descriptor."""
        digest = hashlib.sha256(data).hexdigest()
        (self._blobs / digest).write_bytes(data)
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}

    def layer(self, archive: Path, compression: Compression = "gzip") -> WrittenLayer:
        """Compress a tar archive into a layer blob."""
        plain, packed, size = hashlib.sha256(), hashlib.sha256(), 0
        unfinished = self._blobs / f".{os.getpid()}"
        with archive.open("rb") as source, unfinished.open("wb") as sink:
            for chunk in _compress(_chunks(source, plain), compression):
                packed.update(chunk)
                size += len(chunk)
                sink.write(chunk)
        unfinished.rename(self._blobs / packed.hexdigest())
        return WrittenLayer(
            {
                "mediaType": LAYER + SUFFIXES[compression],
                "digest": f"sha256:{packed.hexdigest()}",
                "size": size,
            },
            f"sha256:{plain.hexdigest()}",
        )

    def adopt(self, other: Path) -> list[WrittenLayer]:
        """Link the layers of another layout's first image into this one and return them."""

        def read(descriptor: Mapping[str, Any]) -> Any:
            digest = str(descriptor["digest"]).removeprefix("sha256:")
            return json.loads((other / "blobs" / "sha256" / digest).read_bytes())

        manifest = read(json.loads((other / "index.json").read_bytes())["manifests"][0])
        layers = []
        diff_ids = read(manifest["config"])["rootfs"]["diff_ids"]
        for descriptor, diff_id in zip(manifest["layers"], diff_ids, strict=True):
            digest = str(descriptor["digest"]).removeprefix("sha256:")
            if not (self._blobs / digest).exists():
                shutil.copy2(other / "blobs" / "sha256" / digest, self._blobs / digest)
            layers.append(WrittenLayer(descriptor, diff_id))
        return layers

    def image(
        self,
        layers: Sequence[WrittenLayer],
        config: Mapping[str, Any] | None = None,
        *,
        tag: str = "latest",
        architecture: str | None = None,
    ) -> str:
        """Write an image of these layers under ``tag`` and return its manifest's digest."""
        document = {
            "created": "2024-02-29T12:00:00Z",
            "architecture": architecture or host_architecture(),
            "os": "linux",
            "config": {"Env": [PATH], "Cmd": ["/bin/sh"], **(config or {})},
            "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in layers]},
            "history": [
                {"created": "2024-02-29T12:00:00Z", "created_by": f"layer {number}"}
                for number, _ in enumerate(layers)
            ],
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": self.blob(_json(document), CONFIG),
            "layers": [layer.descriptor for layer in layers],
        }
        descriptor = self.blob(_json(manifest), MANIFEST)
        descriptor["annotations"] = {"org.opencontainers.image.ref.name": tag}
        self._tagged.append(descriptor)
        index = {"schemaVersion": 2, "manifests": self._tagged}
        (self.directory / "index.json").write_bytes(_json(index))
        return str(descriptor["digest"])


def small_tar(path: Path, files: Mapping[str, bytes | str | None]) -> Path:
    """Write a tar archive: bytes are a file, a string is a symbolic link, None a directory."""
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.mtime, member.mode = 1_700_000_000, 0o755
            if content is None:
                member.type = tarfile.DIRTYPE
            elif isinstance(content, str):
                member.type, member.linkname = tarfile.SYMTYPE, content
            else:
                member.size = len(content)
            archive.addfile(member, io.BytesIO(content) if isinstance(content, bytes) else None)
    return path


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _chunks(source: Any, plain: Any) -> Iterator[bytes]:
    while chunk := source.read(CHUNK_BYTES):
        plain.update(chunk)
        yield chunk


def _compress(chunks: Iterator[bytes], compression: Compression) -> Iterator[bytes]:
    if compression == "none":
        yield from chunks
        return
    if compression == "gzip":
        compressor: Any = zlib.compressobj(6, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
    else:
        compressor = _zstd_compressor()
    for chunk in chunks:
        yield compressor.compress(chunk)
    yield compressor.flush()


def _zstd_compressor() -> Any:
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
    return zstd.ZstdCompressor()
