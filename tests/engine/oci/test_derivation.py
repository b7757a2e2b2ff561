"""A layer more: what the other image says is passed on, and both documents are well-formed."""

import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from cellblock_engine.errors import Conflict, InvalidAnswer, InvalidInput
from cellblock_engine.oci.config import HistoryEntry, parse_config
from cellblock_engine.oci.derivation import Derived, derive, repacked
from cellblock_engine.oci.digest import Digest
from cellblock_engine.oci.manifest import (
    DOCKER_CONFIG,
    DOCKER_FOREIGN_LAYER,
    DOCKER_LAYER,
    DOCKER_MANIFEST,
    OCI_LAYER,
    OCI_MANIFEST,
    Descriptor,
    Manifest,
    parse_manifest,
)

ONE, TWO = Digest.of(b"one"), Digest.of(b"two")
STEP = HistoryEntry(datetime(2026, 11, 24, 15, tzinfo=UTC), "sh", "Ada", "why", empty_layer=False)
LAYER = Descriptor(OCI_LAYER, TWO, 2048)
CONFIG = {
    "os": "linux",
    "architecture": "amd64",
    "author": "Grace",
    "config": {"Cmd": ["sh"], "Healthcheck": {"Test": ["NONE"]}},
    "history": [{"created_by": "ADD"}, {"created_by": "ENV", "empty_layer": True}],
    "rootfs": {"type": "layers", "diff_ids": [str(ONE)]},
    "moby.buildkit.cache.v0": "kept",
}


def base(*layers: Descriptor, config: object = CONFIG) -> tuple[Manifest, bytes]:
    raw = json.dumps(config).encode()
    descriptor = Descriptor(DOCKER_CONFIG, Digest.of(raw), len(raw))
    return Manifest(DOCKER_MANIFEST, descriptor, layers), raw


def derived(*layers: Descriptor, config: object = CONFIG, step: HistoryEntry = STEP) -> Derived:
    return derive(*base(*layers, config=config), LAYER, step)


def test_the_config():
    config = json.loads(derived().config)
    assert config == {
        **CONFIG,
        "author": "Ada",
        "created": "2026-11-24T15:00:00Z",
        "history": [
            *CONFIG["history"],
            {
                "created": "2026-11-24T15:00:00Z",
                "created_by": "sh",
                "author": "Ada",
                "comment": "why",
            },
        ],
        "rootfs": {"type": "layers", "diff_ids": [str(ONE), str(TWO)]},
    }
    document = parse_config(derived().config)
    assert document.history[-1] == STEP
    assert document.created == STEP.created


def test_what_is_not_said_is_not_written():
    config = json.loads(
        derived(step=replace(STEP, author="", comment="", created_by="")).config,
    )
    assert config["author"] == "Grace"
    assert config["history"][-1] == {"created": "2026-11-24T15:00:00Z"}


@pytest.mark.parametrize("history", [None, []])
def test_an_image_without_history(history: object):
    config = json.loads(derived(config={**CONFIG, "history": history}).config)
    assert len(config["history"]) == 1


def test_a_command_that_is_no_text():
    step = replace(STEP, created_by=b"echo \xff".decode("utf-8", "surrogateescape"))
    assert json.loads(derived(step=step).config)["history"][-1]["created_by"] == "echo ?"


@pytest.mark.parametrize(
    ("media_type", "expected"),
    [
        (OCI_LAYER, OCI_LAYER),
        (f"{OCI_LAYER}+zstd", f"{OCI_LAYER}+zstd"),
        (DOCKER_LAYER, OCI_LAYER),
        (f"{DOCKER_LAYER}.gzip", f"{OCI_LAYER}+gzip"),
        (f"{DOCKER_LAYER}.zstd", f"{OCI_LAYER}+zstd"),
        (
            f"{DOCKER_FOREIGN_LAYER}.gzip",
            "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
        ),
    ],
)
def test_the_manifest_is_ocis(media_type: str, expected: str):
    below = Descriptor(
        media_type, ONE, 77, urls=("https://example.org/x",), annotations={"key": "value"}
    )
    made = derived(below)
    manifest = parse_manifest(made.manifest, OCI_MANIFEST)
    assert isinstance(manifest, Manifest)
    assert manifest.layers == (replace(below, media_type=expected), LAYER)
    assert (manifest.config.digest, manifest.config.size) == (
        Digest.of(made.config),
        len(made.config),
    )
    assert manifest.config.media_type == "application/vnd.oci.image.config.v1+json"


def test_the_same_layers_in_other_blobs():
    made = derived(Descriptor(f"{OCI_LAYER}+gzip", ONE, 77, annotations={"key": "value"}))
    manifest = parse_manifest(made.manifest, OCI_MANIFEST)
    assert isinstance(manifest, Manifest)
    assert repacked(manifest, made.manifest, manifest.layers) == made.manifest
    raw = json.dumps(json.loads(made.manifest) | {"annotations": {"kept": "yes"}}).encode()
    packed = Descriptor(f"{OCI_LAYER}+zstd", Digest.of(b"packed"), 12)
    document = json.loads(repacked(manifest, raw, (manifest.layers[0], packed)))
    before = json.loads(raw)
    assert document["layers"][0] == before["layers"][0]
    assert document["layers"][1] == {
        "mediaType": f"{OCI_LAYER}+zstd",
        "digest": str(packed.digest),
        "size": 12,
    }
    assert (document["config"], document["annotations"]) == (before["config"], {"kept": "yes"})


def test_too_many_layers():
    rootfs = {"type": "layers", "diff_ids": [str(ONE)] * 500}
    with pytest.raises(Conflict, match="500 layers"):
        derived(config={**CONFIG, "rootfs": rootfs})


def test_a_message_without_end():
    with pytest.raises(InvalidInput, match="shorten the message"):
        derived(step=replace(STEP, comment="x" * 5_000_000))


def test_a_config_that_is_none():
    with pytest.raises(InvalidAnswer):
        derived(config={"os": "linux"})
