"""The documents of an image that is made from another; no I/O.

By one layer more, or by the same layers in other blobs. What cellblock knows nothing of in the
other's config (a health check, say) is passed on as it is. The manifest is OCI's, whatever the
other's was: Docker's layers are the same bytes under other names.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..errors import Conflict, InvalidInput
from .config import MAX_CONFIG_BYTES, HistoryEntry, parse_config
from .digest import Digest
from .manifest import (
    DOCKER_FOREIGN_LAYER,
    DOCKER_LAYER,
    MAX_LAYERS,
    OCI_CONFIG,
    OCI_FOREIGN_LAYER,
    OCI_LAYER,
    OCI_MANIFEST,
    Descriptor,
    Manifest,
)

if TYPE_CHECKING:
    from .instructions import Instruction
    from .provenance import Provenance

_SHARE = 4  # of the room that is left: there always is some


@dataclass(frozen=True)
class Derived:
    """The two documents of an image, as they go to the blobs."""

    config: bytes
    manifest: bytes


def derive(
    base: Manifest,
    config: bytes,
    layer: Descriptor | None,
    step: HistoryEntry,
    changes: Sequence[Instruction] = (),
    *,
    provenance: Provenance | None = None,
) -> Derived:
    """Return ``base``, whose config is ``config``, with the uncompressed ``layer`` above it.

    Without a layer only the step is added, which should say so. ``changes`` are made in how
    containers are run; where the step comes from is told by labels, as far as there is room. An
    author that the step does not name stays. Raises InvalidAnswer for a config that is none,
    Conflict for too many layers, InvalidInput for a step that says too much, and changes that
    cannot be made.
    """
    layers = parse_config(config).diff_ids
    above = () if layer is None else (layer,)
    if len(layers) + len(above) > MAX_LAYERS:
        raise Conflict(f"the image has {len(layers)} layers, as many as a kernel can stack")
    document = json.loads(config)
    document["created"] = _moment(step)
    if changes:
        from .instructions import configured  # noqa: PLC0415 - starts read images, and need none

        document["config"] = configured(document.get("config") or {}, changes)
    if step.author:
        document["author"] = _text(step.author)
    document["rootfs"]["diff_ids"] = [
        str(digest) for digest in (*layers, *(layer.digest for layer in above))
    ]
    steps = document.get("history") or []
    document["history"] = [*steps, _history(step)]
    if provenance is not None:
        from .provenance import labelled  # noqa: PLC0415 - as this

        run = document.get("config") or {}
        room_bytes = (MAX_CONFIG_BYTES - len(json.dumps(document))) // _SHARE
        labels = labelled(run.get("Labels") or {}, provenance, len(steps), room_bytes)
        document["config"] = {**run, "Labels": labels}
    raw = json.dumps(document).encode()
    if len(raw) > MAX_CONFIG_BYTES:
        raise InvalidInput(
            f"the image's config would have {len(raw)} bytes, more than the {MAX_CONFIG_BYTES} "
            "allowed: shorten the message"
        )
    descriptor = Descriptor(OCI_CONFIG, Digest.of(raw), len(raw))
    return Derived(raw, oci_manifest(descriptor, (*base.layers, *above)))


def repacked(base: Manifest, raw: bytes, layers: Sequence[Descriptor]) -> bytes:
    """Return the manifest ``base``, whose bytes are ``raw``, with its layers in these blobs.

    Where nothing is new, these are the same bytes.
    """
    if tuple(layers) == base.layers:
        return raw
    document = json.loads(raw)
    config = _descriptor(replace(base.config, media_type=OCI_CONFIG))
    return json.dumps(
        document
        | {
            "mediaType": OCI_MANIFEST,
            "config": document["config"] | config,
            "layers": [_descriptor(_as_oci(layer)) for layer in layers],
        }
    ).encode()


def oci_manifest(config: Descriptor, layers: tuple[Descriptor, ...]) -> bytes:
    """Return the manifest of an image that has this config and these layers."""
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": _descriptor(config),
        "layers": [_descriptor(_as_oci(layer)) for layer in layers],
    }
    return json.dumps(document).encode()


def _as_oci(layer: Descriptor) -> Descriptor:
    for docker, oci in ((DOCKER_LAYER, OCI_LAYER), (DOCKER_FOREIGN_LAYER, OCI_FOREIGN_LAYER)):
        if layer.media_type.startswith(docker):
            compression = layer.media_type.removeprefix(docker).replace(".", "+")
            return replace(layer, media_type=oci + compression)
    return layer


def _descriptor(descriptor: Descriptor) -> Mapping[str, object]:
    plain: dict[str, object] = {
        "mediaType": descriptor.media_type,
        "digest": str(descriptor.digest),
        "size": descriptor.size,
    }
    if descriptor.urls:
        plain["urls"] = descriptor.urls
    if descriptor.annotations:
        plain["annotations"] = dict(descriptor.annotations)
    return plain


def _history(step: HistoryEntry) -> Mapping[str, object]:
    words = {"created_by": step.created_by, "author": step.author, "comment": step.comment}
    plain: dict[str, object] = {"created": _moment(step)}
    plain |= {key: _text(text) for key, text in words.items() if text}
    return plain | ({"empty_layer": True} if step.empty_layer else {})


def _moment(step: HistoryEntry) -> str | None:
    return step.created.isoformat().replace("+00:00", "Z") if step.created else None


def _text(text: str) -> str:
    """Return what other tools can read: a command's bytes may be no text."""
    return text.encode("utf-8", "replace").decode()
