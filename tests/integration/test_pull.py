"""Pulls from a real docker-registry into empty stores, and every way in which that can fail."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cellblock_engine import Engine, errors
from cellblock_engine.layout import Layout
from support import capabilities
from support.layouts import LayoutWriter, host_architecture, small_tar
from support.registry import Registry

INDEX = "application/vnd.oci.image.index.v1+json"


@pytest.fixture
def small_layout(tmp_path: Path) -> Path:
    """Two tiny layers; the second deletes a file and replaces a directory of the first."""
    writer = LayoutWriter(tmp_path / "small")
    lower = {"a": None, "a/one": b"1", "a/two": b"2", "b": None, "b/old": b"old"}
    upper = {"a/.wh.two": b"", "b": None, "b/.wh..wh..opq": b"", "b/new": b"new"}
    layers = [
        writer.layer(small_tar(tmp_path / "lower.tar", lower), "gzip"),
        writer.layer(small_tar(tmp_path / "upper.tar", upper), "zstd"),
    ]
    writer.image(layers, {"Labels": {"colour": "blue"}})
    return writer.directory


def left_over(home: Path) -> list[str]:
    """Return what a failed pull left in a store: blobs, layers, references, staging entries."""
    layout = Layout.default(home)
    places = (layout.blobs, layout.layers, layout.references, layout.staging)
    return [str(path) for place in places if place.exists() for path in place.iterdir()]


def test_pull_reports_each_layer_and_lists_the_image(
    engine: Engine, registry: Registry, small_layout: Path
) -> None:
    reference = registry.push(small_layout, "small")
    events = []
    image = engine.pull(reference, progress=events.append)
    assert [str(known) for known in image.references] == [reference]
    assert len(image.layers) == 2
    assert image.size_bytes > 0
    assert [known.id for known in engine.images()] == [image.id]
    assert {"downloading", "extracting", "done"} <= {event.phase for event in events}
    assert events[-1].phase == "done"


def test_pulling_again_finds_everything_there(
    engine: Engine, registry: Registry, small_layout: Path
) -> None:
    reference = registry.push(small_layout, "small")
    first = engine.pull(reference)
    events = []
    assert engine.pull(reference, progress=events.append).id == first.id
    assert "downloading" not in {event.phase for event in events}


def test_docker_schema_2(engine: Engine, registry: Registry, tmp_path: Path) -> None:
    writer = LayoutWriter(tmp_path / "docker")
    writer.image([writer.layer(small_tar(tmp_path / "t.tar", {"f": b"1"}))])
    reference = registry.push(writer.directory, "docker", schema="v2s2")
    assert engine.pull(reference).platform.architecture == host_architecture()


def test_by_digest(engine: Engine, registry: Registry, small_layout: Path) -> None:
    registry.push(small_layout, "small")
    index = json.loads((small_layout / "index.json").read_text())
    digest = index["manifests"][0]["digest"]
    image = engine.pull(f"{registry.host}/small@{digest}")
    assert str(image.manifest) == digest


@pytest.fixture
def many_platforms(registry: Registry, tmp_path: Path) -> str:
    """An OCI index with an image for this machine, and one for s390x."""
    manifests = []
    for architecture in (host_architecture(), "s390x"):
        writer = LayoutWriter(tmp_path / architecture)
        archive = small_tar(tmp_path / f"{architecture}.tar", {architecture: b"1"})
        writer.image([writer.layer(archive)], architecture=architecture)
        registry.push(writer.directory, "many", architecture)
        descriptor = json.loads((writer.directory / "index.json").read_text())["manifests"][0]
        descriptor.pop("annotations")
        manifests.append({**descriptor, "platform": {"os": "linux", "architecture": architecture}})
    body = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests})
    connection = http.client.HTTPConnection(registry.host, timeout=10)
    connection.request("PUT", "/v2/many/manifests/latest", body, {"Content-Type": INDEX})
    assert connection.getresponse().status == http.client.CREATED
    connection.close()
    return f"{registry.host}/many:latest"


def test_index_gives_the_platform_of_the_host(engine: Engine, many_platforms: str) -> None:
    assert engine.pull(many_platforms).platform.architecture == host_architecture()


def test_index_gives_the_platform_asked_for(engine: Engine, many_platforms: str) -> None:
    assert engine.pull(many_platforms, platform="linux/s390x").platform.architecture == "s390x"


def test_unknown_platform(engine: Engine, many_platforms: str, tmp_path: Path) -> None:
    with pytest.raises(errors.PlatformNotFound) as raised:
        engine.pull(many_platforms, platform="linux/riscv64")
    assert "riscv64" in one_line(raised)
    assert left_over(tmp_path / "store") == []


def test_unknown_repository(engine: Engine, registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(errors.ImageNotFound) as raised:
        engine.pull(f"{registry.host}/nobody/nothing:latest")
    assert "nobody/nothing" in one_line(raised)
    assert left_over(tmp_path / "store") == []


def test_unknown_tag(engine: Engine, registry: Registry, small_layout: Path) -> None:
    registry.push(small_layout, "small")
    with pytest.raises(errors.ImageNotFound) as raised:
        engine.pull(f"{registry.host}/small:no-such-tag")
    assert "no-such-tag" in one_line(raised)


def test_registry_down(engine: Engine, tmp_path: Path) -> None:
    with pytest.raises(errors.RegistryUnavailable) as raised:
        engine.pull("127.0.0.1:9/base:latest")
    assert "127.0.0.1:9" in one_line(raised)
    assert left_over(tmp_path / "store") == []


@pytest.fixture
def damaged(registry: Registry, tmp_path: Path) -> Iterator[str]:
    """An image whose layer the registry serves with one byte changed."""
    writer = LayoutWriter(tmp_path / "damaged")
    layer = writer.layer(small_tar(tmp_path / "damaged.tar", {"f": b"x" * 5000}), "none")
    writer.image([layer])
    reference = registry.push(writer.directory, "damaged")
    blob = registry.blob(_pushed_layer(registry, "damaged"))
    right = blob.read_bytes()
    blob.write_bytes(right[:-1] + bytes([right[-1] ^ 1]))
    yield reference
    blob.write_bytes(right)


def _pushed_layer(registry: Registry, name: str) -> str:
    """Return the digest under which skopeo, which may compress it anew, has pushed a layer."""
    connection = http.client.HTTPConnection(registry.host, timeout=10)
    accept = {"Accept": "application/vnd.oci.image.manifest.v1+json"}
    connection.request("GET", f"/v2/{name}/manifests/latest", headers=accept)
    manifest = json.loads(connection.getresponse().read())
    connection.close()
    return str(manifest["layers"][0]["digest"])


def test_damaged_blob(engine: Engine, damaged: str, tmp_path: Path) -> None:
    with pytest.raises(errors.DigestMismatch) as raised:
        engine.pull(damaged)
    assert "sha256:" in one_line(raised)
    assert engine.images() == ()
    layout = Layout.default(tmp_path / "store")
    assert list(layout.layers.glob("*")) == []
    assert list(layout.staging.glob("*")) == []


@pytest.mark.attack(72)
def test_disk_full(root: None, base_image: str, tmp_path: Path) -> None:
    capabilities.need_program("mount")
    home = tmp_path / "full"
    home.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=120m", "tmpfs", home], check=True)
    try:
        with Engine.open(home) as engine:
            with pytest.raises(errors.StoreFull) as raised:
                engine.pull(base_image)
            assert str(home) in one_line(raised) or "space" in one_line(raised)
            assert engine.images() == ()
        assert left_over(home) == []
    finally:
        subprocess.run(["umount", "--lazy", home], check=True)


def test_two_processes_pull_the_same_image(
    registry: Registry, small_layout: Path, tmp_path: Path
) -> None:
    reference = registry.push(small_layout, "small")
    program = "import sys; from cellblock_engine import Engine; from pathlib import Path\n"
    program += "with Engine.open(Path(sys.argv[1])) as e: print(e.pull(sys.argv[2]).id)"
    argv = [sys.executable, "-c", program, str(tmp_path / "store"), reference]
    pulls = [subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    ids = {pull.communicate(timeout=60)[0] for pull in pulls}
    assert [pull.returncode for pull in pulls] == [0, 0, 0, 0]
    assert len(ids) == 1


def test_threads_pull_different_images(
    engine: Engine, registry: Registry, many_platforms: str, small_layout: Path
) -> None:
    references = [registry.push(small_layout, "small"), many_platforms]
    pulls = [threading.Thread(target=engine.pull, args=(reference,)) for reference in references]
    for pull in pulls:
        pull.start()
    for pull in pulls:
        pull.join(timeout=60)
    assert len(engine.images()) == 2


def test_remove_gives_the_space_back(
    engine: Engine, registry: Registry, small_layout: Path, tmp_path: Path
) -> None:
    reference = registry.push(small_layout, "small")
    engine.pull(reference)
    removed = engine.remove_image(reference)
    assert [str(name) for name in removed.untagged] == [reference]
    assert removed.freed_bytes > 0
    assert left_over(tmp_path / "store") == []


def test_command_line(cellblock, registry: Registry, small_layout: Path, tmp_path: Path) -> None:
    reference = registry.push(small_layout, "small")
    home = tmp_path / "store"
    pulled = cellblock("pull", reference, home=home)
    assert pulled.returncode == 0, pulled.stderr
    listed = cellblock("images", "--json", home=home)
    assert listed.returncode == 0, listed.stderr
    assert len(json.loads(listed.stdout)) == 1
    removed = cellblock("rmi", reference, home=home)
    assert removed.returncode == 0, removed.stderr
    assert json.loads(cellblock("images", "--json", home=home).stdout) == []


def test_command_line_failure_is_one_line(cellblock, registry: Registry, tmp_path: Path) -> None:
    failed = cellblock("pull", f"{registry.host}/small:nothing", home=tmp_path / "store")
    assert failed.returncode != 0
    assert "small:nothing" in failed.stderr
    assert "Traceback" not in failed.stderr
    *progress, message = failed.stderr.splitlines()
    assert message.startswith("cellblock: ")
    assert all("small:nothing" in line for line in progress)


def one_line(raised: pytest.ExceptionInfo[BaseException]) -> str:
    """Return the message, which must be one line."""
    message = str(raised.value)
    assert message.strip()
    assert "\n" not in message
    return message


def test_a_mirror_stands_in_for_docker_hub(
    cellblock, registry: Registry, small_layout: Path, tmp_path: Path, monkeypatch
) -> None:
    registry.push(small_layout, "hub/library/small")
    config = tmp_path / "config.toml"
    config.write_text(f'[registries.mirrors]\n"docker.io" = ["{registry.host}/hub"]\n')
    monkeypatch.setenv("CELLBLOCK_CONFIG", str(config))
    home = tmp_path / "store"
    pulled = cellblock("pull", "small", home=home)
    assert pulled.returncode == 0, pulled.stderr
    assert [row["repository"] for row in listed(cellblock, home)] == ["small"]
    config.write_text("[registries]\nmirors = {}\n")
    broken = cellblock("pull", "small", home=home)
    assert broken.returncode == 125
    assert broken.stderr.startswith(f"cellblock: {config}: unknown key 'registries.mirors'")
    assert broken.stderr.count("\n") == 1


def test_run_pulls_when_it_is_told(
    cellblock, registry: Registry, small_layout: Path, tmp_path: Path, many_platforms: str
) -> None:
    home = tmp_path / "store"
    never = cellblock("run", "--pull", "never", many_platforms, "/x", home=home)
    assert never.returncode == 125
    assert "is not in the store" in never.stderr
    cellblock("run", "--rm", "--platform", "linux/s390x", many_platforms, "/x", home=home)
    assert [row["platform"] for row in listed(cellblock, home)] == ["linux/s390x"]
    cellblock("run", "--rm", "--pull", "missing", many_platforms, "/x", home=home)
    assert [row["platform"] for row in listed(cellblock, home)] == ["linux/s390x"]
    cellblock("run", "--rm", "--pull", "always", many_platforms, "/x", home=home)
    (row,) = listed(cellblock, home)
    assert row["platform"].startswith(f"linux/{host_architecture()}")


def listed(cellblock, home: Path) -> list[dict[str, str]]:
    """Return the rows of ``images --json`` that have a name."""
    rows = json.loads(cellblock("images", "--json", home=home).stdout)
    return [row for row in rows if row["repository"]]
