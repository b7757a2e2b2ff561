"""A pull that was cut off, and the next one that goes on from there."""

from __future__ import annotations

import _thread
import os
import signal
import threading
import time

import pytest

from cellblock_engine.errors import DigestMismatch, RegistryUnavailable
from cellblock_engine.oci.reference import Reference
from cellblock_engine.registry.patience import Patience
from cellblock_engine.registry.pull import pull
from support.fakeregistry import an_image

CUT = 2_000_000


@pytest.fixture
def image():
    return an_image(contents=(os.urandom(3_000_000),))


@pytest.fixture
def cut(fake, image):
    """The image's reference; its layer breaks off after ``CUT`` bytes until told otherwise."""

    class Cut:
        reference = Reference.parse(fake.serve(image))
        path = f"/v2/img/blobs/{image.layers[0].digest}"
        honest = False

        def route(self, request):
            raw = image.layers[0].raw
            start = int(request.headers.get("Range", "bytes=0-")[6:-1])
            if not self.honest and start:
                request.close_connection = True
                return
            request.send_response(206 if start else 200)
            request.send_header("Content-Length", str(len(raw) - start))
            request.send_header("Content-Range", f"bytes {start}-{len(raw) - 1}/{len(raw)}")
            request.end_headers()
            request.wfile.write(raw[start : None if self.honest else CUT])
            request.close_connection = True

        def ranges(self):
            return [headers.get("Range") for path, headers in fake.seen if path == self.path]

    cut = Cut()
    fake.routes[cut.path] = cut.route
    return cut


def cut_off(cut, store, patience):
    with pytest.raises(RegistryUnavailable):
        pull(cut.reference, store, patience=patience)


def test_the_next_pull_goes_on_from_there(cut, store, layout, patience, image, fake):
    cut_off(cut, store, patience)
    (left,) = layout.partials.iterdir()
    assert left.stat().st_size == CUT
    assert left.stat().st_mode & 0o777 == 0o600
    assert list(layout.staging.iterdir()) == []
    cut.honest = True
    fake.seen.clear()
    assert str(pull(cut.reference, store, patience=patience).manifest) == image.manifest.digest
    assert cut.ranges() == [f"bytes={CUT}-"]
    assert list(layout.partials.iterdir()) == []


@pytest.mark.parametrize("content", [bytes(CUT), b"", bytes(9_000_000)], ids=["wrong", "0", "long"])
def test_a_wrong_beginning_costs_only_time(cut, store, layout, patience, image, content):
    cut_off(cut, store, patience)
    (left,) = layout.partials.iterdir()
    left.write_bytes(content)
    cut.honest = True
    assert str(pull(cut.reference, store, patience=patience).manifest) == image.manifest.digest
    assert list(layout.partials.iterdir()) == []


def test_a_whole_blob_that_was_only_not_committed_is_not_asked_for(
    cut, store, layout, patience, image, fake
):
    cut_off(cut, store, patience)
    (left,) = layout.partials.iterdir()
    left.write_bytes(image.layers[0].raw)
    fake.seen.clear()
    pull(cut.reference, store, patience=patience)
    assert cut.ranges() == []


def test_a_link_in_its_place_is_not_followed(cut, store, layout, patience, tmp_path):
    cut_off(cut, store, patience)
    (left,) = layout.partials.iterdir()
    left.unlink()
    (tmp_path / "secret").write_bytes(b"secret")
    left.symlink_to(tmp_path / "secret")
    cut.honest = True
    with pytest.raises(OSError, match="symbolic links"):
        pull(cut.reference, store, patience=patience)


def test_damage_is_not_kept(cut, store, layout, patience, image, fake):
    size = len(image.layers[0].raw)
    fake.routes[cut.path] = lambda request: request.answer(200, bytes(size))
    with pytest.raises(DigestMismatch):
        pull(cut.reference, store, patience=patience)
    assert not layout.partials.exists()


def test_what_is_too_old_or_collected_goes(cut, store, layout, patience):
    cut_off(cut, store, patience)
    (left,) = layout.partials.iterdir()
    store.sweep()
    assert left.exists()
    week = 7 * 24 * 3600
    os.utime(left, (left.stat().st_atime, left.stat().st_mtime - week - 1))
    store.sweep()
    assert not left.exists()
    cut_off(cut, store, patience)
    _, freed_bytes = store.images.collect()
    assert freed_bytes == CUT
    assert list(layout.partials.iterdir()) == []


def test_an_interrupt_keeps_it_too(cut, store, layout, image, fake):
    arrived, release = threading.Event(), threading.Event()

    def route(request):
        request.send_response(200)
        request.send_header("Content-Length", str(len(image.layers[0].raw)))
        request.end_headers()
        request.wfile.write(image.layers[0].raw[:CUT])
        request.wfile.flush()
        arrived.set()
        release.wait(30)

    fake.routes[cut.path] = route

    def interrupt():
        arrived.wait(10)
        time.sleep(0.5)
        _thread.interrupt_main(signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            pull(cut.reference, store, patience=Patience())
    finally:
        release.set()
        thread.join()
    (left,) = layout.partials.iterdir()
    assert left.read_bytes() == image.layers[0].raw[: left.stat().st_size]
