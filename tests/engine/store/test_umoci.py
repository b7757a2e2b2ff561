"""An image of this distribution and some layers is the same tree to us and to umoci."""

import json
from pathlib import Path

from cellblock_engine.oci.digest import Digest
from cellblock_engine.store import Store
from support.umoci import assert_same_tree


def test_images_unpack_as_umoci_unpacks_them(
    layered_layout: Path, store: Store, tmp_path: Path, root: None
):
    layers = store.layers.chain(extract_all(store, layered_layout))
    assert_same_tree(f"{layered_layout}:latest", layers, tmp_path)


def extract_all(store: Store, layout: Path) -> list[Digest]:
    def read(descriptor: dict[str, str]) -> dict[str, object]:
        loaded = json.loads(blob(descriptor).read_bytes())
        assert isinstance(loaded, dict)
        return loaded

    def blob(descriptor: dict[str, str]) -> Path:
        return layout / "blobs" / "sha256" / descriptor["digest"].removeprefix("sha256:")

    manifest = read(json.loads((layout / "index.json").read_bytes())["manifests"][0])
    diffids = [Digest.parse(text) for text in read(manifest["config"])["rootfs"]["diff_ids"]]
    with store.layers.warm():
        for descriptor, diffid in zip(manifest["layers"], diffids, strict=True):
            store.layers.extract(blob(descriptor), descriptor["mediaType"], diffid)
    return diffids
