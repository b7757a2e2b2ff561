"""An image of this distribution and some layers is the same tree to us and to umoci."""

import json
import shutil
import subprocess
from pathlib import Path

from cellblock_engine.oci.digest import Digest
from cellblock_engine.store import Store
from support.treelist import differences, tree


def test_images_unpack_as_umoci_unpacks_them(
    layered_layout: Path, store: Store, tmp_path: Path, root: None
):
    # ext4 passes slowly over inodes freed minutes ago, as by the test before: go elsewhere.
    subprocess.run(["chattr", "+T", tmp_path], check=False, capture_output=True)
    theirs = tmp_path / "umoci"
    subprocess.run(
        ["umoci", "raw", "unpack", "--image", f"{layered_layout}:latest", theirs],
        check=True,
        timeout=100,
    )
    merged = tmp_path / "merged"
    merged.mkdir()
    lower = list(map(str, reversed(store.layers.chain(extract_all(store, layered_layout)))))
    options = f"ro,userxattr,lowerdir={':'.join(lower)}"
    subprocess.run(["mount", "-t", "overlay", "none", merged, "-o", options], check=True)
    try:
        ours = tree(merged)
    finally:
        subprocess.run(["umount", merged], check=True)
    expected = tree(theirs)
    shutil.rmtree(theirs)
    assert len(expected) > 5000
    assert differences(ours, expected) == []


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
