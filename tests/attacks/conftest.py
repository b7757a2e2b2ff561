"""Hostile images: further layers, written byte by byte, on the base image."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from cellblock_engine import Engine
from cellblock_engine.oci import manifest as m
from support.fakeregistry import HOST_PLATFORM, ImageParts, Packed, digest_of, packed, serving
from support.layouts import PATH

Hostile = Callable[..., str]


@pytest.fixture
def hostile(base_engine: Engine, base_layout: Path) -> Iterator[Hostile]:
    """Pull an image of the base and these tar archives as layers; return its reference.

    Only what is new is served: the store has the base image's layer already.
    """

    def blob(descriptor: Mapping[str, str]) -> dict:
        path = base_layout / "blobs" / "sha256" / descriptor["digest"].removeprefix("sha256:")
        return dict(json.loads(path.read_bytes()))

    below = blob(json.loads((base_layout / "index.json").read_bytes())["manifests"][0])
    below_ids = blob(below["config"])["rootfs"]["diff_ids"]
    with serving() as fake:

        def pulled(
            *archives: bytes,
            config: Mapping[str, object] | None = None,
            annotations: Mapping[str, str] | None = None,
        ) -> str:
            layers = tuple(
                Packed(gzip.compress(archive, 1, mtime=0), m.OCI_LAYER + "+gzip")
                for archive in archives
            )
            ids = [*below_ids, *map(digest_of, archives)]
            document = {
                **HOST_PLATFORM,
                "config": {"Env": [PATH], "Cmd": ["/bin/sh"], **(config or {})},
                "rootfs": {"type": "layers", "diff_ids": ids},
            }
            described = packed(document, m.OCI_CONFIG)
            manifest = {
                "schemaVersion": 2,
                "mediaType": m.OCI_MANIFEST,
                "config": described.descriptor(),
                "layers": [*below["layers"], *(layer.descriptor() for layer in layers)],
                "annotations": dict(annotations or {}),
            }
            parts = ImageParts(packed(manifest, m.OCI_MANIFEST), described, layers)
            reference = fake.serve(parts, "hostile", tag=parts.manifest.digest[7:19])
            base_engine.pull(reference)
            return reference

        yield pulled
