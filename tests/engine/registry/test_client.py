import gzip
import threading
import time

import pytest

from cellblock_engine.errors import (
    AccessDenied,
    DigestMismatch,
    ImageNotFound,
    InvalidAnswer,
    RegistryUnavailable,
)
from cellblock_engine.oci import manifest as m
from cellblock_engine.oci.digest import Digest
from cellblock_engine.oci.reference import Reference
from cellblock_engine.registry.client import RegistryClient
from cellblock_engine.registry.patience import Patience
from cellblock_engine.registry.transport import Stopped, Transport
from support.fakeregistry import Packed, an_image

LATEST = "/v2/img/manifests/latest"
CONTENT = bytes(range(256)) * 4096
BLOB = Packed(CONTENT, m.OCI_LAYER)
DESCRIPTOR = m.Descriptor(m.OCI_LAYER, Digest.parse(BLOB.digest), len(CONTENT))
BLOB_PATH = f"/v2/img/blobs/{BLOB.digest}"


@pytest.fixture
def transport(patience):
    return Transport(patience)


@pytest.fixture
def client(fake, transport):
    return RegistryClient(transport, Reference.parse(f"{fake.host}/img"))


@pytest.fixture
def image(fake):
    image = an_image()
    fake.serve(image)
    return image


def read(client, descriptor=DESCRIPTOR):
    return b"".join(client.blob(descriptor))


def test_a_manifest_is_asked_for_in_every_type_and_without_credentials(client, fake, image):
    answer = client.manifest("latest")
    assert (answer.raw, answer.media_type) == (image.manifest.raw, m.OCI_MANIFEST)
    assert str(answer.digest) == image.manifest.digest
    _, headers = fake.seen[0]
    for media_type in (m.OCI_INDEX, m.OCI_MANIFEST, m.DOCKER_LIST, m.DOCKER_MANIFEST):
        assert media_type in headers["Accept"]
    assert "Authorization" not in headers
    assert headers["Accept-Encoding"] == "identity"


def test_a_manifest_by_digest_is_verified(client, fake, image):
    wanted = Digest.parse(image.manifest.digest)
    assert client.manifest(wanted).digest == wanted
    fake.routes[f"/v2/img/manifests/{wanted}"] = lambda request: request.answer(200, b"{}")
    with pytest.raises(DigestMismatch, match="instead of"):
        client.manifest(wanted)


@pytest.mark.attack(45)
def test_a_manifest_that_is_not_what_the_registry_says_is_refused(client, fake, image):
    fake.routes[LATEST] = lambda request: request.answer(
        200, image.manifest.raw, Docker_Content_Digest=image.config.digest
    )
    with pytest.raises(DigestMismatch):
        client.manifest("latest")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (
            b'{"errors": [{"code": "MANIFEST_UNKNOWN"}]}',
            "no tag 'latest'.*: check the name and the tag",
        ),
        (b'{"errors": [{"code": "NAME_UNKNOWN"}]}', "no image .*: check the name$"),
        (b"", "no tag 'latest'.*: check the name and the tag"),
        (b"<html>\n\n", "no tag 'latest'.*: check the name and the tag"),
        (b'{"errors": [{"code": 7}]}', "no tag 'latest'.*: check the name and the tag"),
        (b'{"errors": [7]}', "no tag 'latest'.*: check the name and the tag"),
        (b"x" * 2**20, "no tag 'latest'.*: check the name and the tag"),
    ],
)
def test_what_is_not_there_is_said_so_in_one_line(client, fake, body, words):
    fake.routes[LATEST] = lambda request: request.answer(404, body)
    with pytest.raises(ImageNotFound, match=words) as caught:
        client.manifest("latest")
    assert "\n" not in str(caught.value)


def test_the_words_of_a_stranger_cannot_steer_a_terminal(client, fake):
    fake.routes[LATEST] = lambda request: request.answer(
        403, b'{"errors": [{"code": "DENIED", "message": "\\u001b[2J\\nboo"}]}'
    )
    with pytest.raises(AccessDenied, match="boo") as caught:
        client.manifest("latest")
    assert str(caught.value).isprintable()


def test_a_page_is_no_registry(client, fake):
    fake.routes[LATEST] = lambda request: request.answer(418, b"<html>")
    with pytest.raises(InvalidAnswer, match="418"):
        client.manifest("latest")


@pytest.mark.parametrize("announced", [True, False])
@pytest.mark.attack(46)
def test_a_gigabyte_of_manifest_is_cut_off(client, fake, announced):
    sent = 0

    def route(request):
        nonlocal sent
        length = str(2**30) if announced else ""
        request.close_connection = True
        request.send_response(200)
        if length:
            request.send_header("Content-Length", length)
        request.end_headers()
        for _ in range(1024):
            request.wfile.write(b" " * 2**20)
            sent += 2**20

    fake.routes[LATEST] = route
    with pytest.raises(InvalidAnswer, match="allowed"):
        client.manifest("latest")
    assert sent < 64 * 2**20


def test_nobody_there_is_said_at_once(transport, fake):
    gone = fake.host
    fake.server.shutdown()
    fake.server.server_close()
    fake.server.shutdown()
    fake.server.server_close()
    started = time.monotonic()
    client = RegistryClient(Transport(Patience()), Reference.parse(f"{gone}/img"))
    with pytest.raises(RegistryUnavailable, match="connection refused") as caught:
        client.manifest("latest")
    assert time.monotonic() - started < 0.4
    assert "\n" not in str(caught.value)
    assert "object at" not in str(caught.value)


@pytest.mark.attack(55)
def test_a_silent_registry_is_given_up(client, fake):
    release = threading.Event()
    fake.routes[LATEST] = lambda request: release.wait(20)
    try:
        with pytest.raises(RegistryUnavailable, match="in time, 3 times"):
            client.manifest("latest")
    finally:
        release.set()


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_passing_trouble_is_sat_out(client, fake, image, status):
    honest = fake.routes[LATEST]
    left = [status, status]
    fake.routes[LATEST] = lambda request: (
        request.answer(left.pop(), Retry_After="99999") if left else honest(request)
    )
    started = time.monotonic()
    assert client.manifest("latest").raw == image.manifest.raw
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("retry_after", ["99999", "9" * 500, "-1", "nan", "", "Wed, 21 Oct 2099"])
@pytest.mark.attack(56)
def test_lasting_trouble_is_given_up_whatever_the_server_asks_for(client, fake, retry_after):
    fake.routes[LATEST] = lambda request: request.answer(429, Retry_After=retry_after)
    started = time.monotonic()
    with pytest.raises(RegistryUnavailable, match="429 Too Many Requests, 3 times"):
        client.manifest("latest")
    assert time.monotonic() - started < 5
    assert len(fake.seen) == 3


@pytest.mark.attack(56)
def test_the_shipped_patience_is_bounded():
    patience = Patience()
    longest = sum(patience.wait_s(attempt, "999999") for attempt in range(patience.attempts))
    assert longest <= 60
    assert patience.wait_s(0, "3") == 3


@pytest.mark.attack(51)
def test_a_redirect_to_another_host_loses_the_authorization(transport, fake, other):
    other.serve_blob(BLOB)
    fake.routes["/here"] = lambda request: request.answer(307, Location="/there")
    fake.routes["/there"] = lambda request: request.answer(307, Location=other.url + BLOB_PATH)
    other.routes["/back"] = lambda request: request.answer(200, b"back")
    with transport.open(f"{fake.url}/here", {}, "Bearer secret") as response:
        assert response.read(len(CONTENT), "it") == CONTENT
    assert [headers.get("Authorization") for _, headers in fake.seen] == ["Bearer secret"] * 2
    assert [headers.get("Authorization") for _, headers in other.seen] == [None]


@pytest.mark.attack(51)
def test_the_authorization_does_not_come_back_with_a_second_redirect(transport, fake, other):
    fake.routes["/here"] = lambda request: request.answer(302, Location=f"{other.url}/there")
    other.routes["/there"] = lambda request: request.answer(302, Location=f"{fake.url}/end")
    fake.routes["/end"] = lambda request: request.answer(200, b"end")
    with transport.open(f"{fake.url}/here", {}, "Bearer secret") as response:
        assert response.status == 200
    assert "Authorization" not in fake.seen[-1][1]


@pytest.mark.parametrize(
    "location",
    ["http://example.test/x", "ftp://127.0.0.1/", "", "http://u@127.0.0.1/", "x" * 20_000, "/loop"],
)
def test_a_redirect_that_leads_astray_is_refused(client, fake, location):
    fake.routes[LATEST] = lambda request: request.answer(302, Location=location)
    fake.routes["/loop"] = lambda request: request.answer(302, Location="/loop")
    with pytest.raises(InvalidAnswer):
        client.manifest("latest")
    assert len(fake.seen) <= 7


def test_a_redirect_costs_no_new_connection(transport, fake):
    ports = set()

    def here(request):
        ports.add(request.client_address[1])
        request.answer(302, b"<a>moved</a>", Location="/there")

    def there(request):
        ports.add(request.client_address[1])
        request.answer(200, b"there")

    fake.routes |= {"/here": here, "/there": there}
    for _ in range(3):
        with transport.open(f"{fake.url}/here", {}, None) as response:
            assert response.read(10, "it") == b"there"
    assert len(ports) == 1


@pytest.mark.attack(54)
def test_plain_http_elsewhere_is_never_sent(transport):
    with pytest.raises(InvalidAnswer, match="plain http"):
        transport.open("http://192.0.2.1/", {}, None)


def test_a_blob_arrives_whole(client, fake):
    fake.serve_blob(BLOB)
    assert read(client) == CONTENT


def test_a_blob_is_not_decoded_on_the_way(client, fake):
    squeezed = Packed(gzip.compress(CONTENT), m.OCI_LAYER)
    fake.routes[f"/v2/img/blobs/{squeezed.digest}"] = lambda request: request.answer(
        200, squeezed.raw, Content_Encoding="gzip"
    )
    descriptor = m.Descriptor(m.OCI_LAYER, Digest.parse(squeezed.digest), len(squeezed.raw))
    assert read(client, descriptor) == squeezed.raw


def cut_after(count):
    def route(request):
        start = int(request.headers.get("Range", "bytes=0-")[6:-1])
        rest = CONTENT[start:]
        request.send_response(206 if start else 200)
        request.send_header("Content-Length", str(len(rest)))
        if start:
            request.send_header("Content-Range", f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}")
        request.end_headers()
        request.wfile.write(rest[:count])
        request.wfile.flush()
        request.close_connection = True

    return route


@pytest.mark.attack(55)
def test_a_blob_that_breaks_off_is_taken_up_where_it_broke(client, fake):
    fake.routes[BLOB_PATH] = cut_after(600_000)
    assert read(client) == CONTENT
    assert [headers.get("Range") for _, headers in fake.seen] == [None, "bytes=600000-"]


@pytest.mark.attack(55)
def test_a_server_without_ranges_serves_too(client, fake):
    cut, honest = cut_after(600_000), [False]

    def route(request):
        if honest[0]:
            request.answer(200, CONTENT)
        else:
            honest[0] = True
            cut(request)

    fake.routes[BLOB_PATH] = route
    assert read(client) == CONTENT


@pytest.mark.attack(55)
def test_a_blob_that_always_breaks_off_is_given_up(client, fake):
    fake.routes[BLOB_PATH] = cut_after(10)
    with pytest.raises(RegistryUnavailable, match="broke off after 30 of 1048576 bytes"):
        read(client)
    assert len(fake.seen) == 3


@pytest.mark.attack(55)
def test_a_continuation_at_another_place_is_refused(client, fake):
    def route(request):
        if "Range" in request.headers:
            request.answer(206, CONTENT[5:], Content_Range=f"bytes 5-{len(CONTENT) - 1}/*")
        else:
            cut_after(10)(request)

    fake.routes[BLOB_PATH] = route
    with pytest.raises(InvalidAnswer, match="another place"):
        read(client)


@pytest.mark.parametrize("body", [CONTENT[:-1], CONTENT + b"x", b""])
@pytest.mark.attack(55)
def test_a_length_that_is_not_the_promised_one_is_refused_before_reading(client, fake, body):
    fake.routes[BLOB_PATH] = lambda request: request.answer(200, body)
    with pytest.raises(DigestMismatch, match="instead of 1048576"):
        read(client)


@pytest.mark.parametrize("body", [CONTENT[:-1], CONTENT * 100])
@pytest.mark.attack(55)
def test_a_length_nobody_announced_is_found_out(client, fake, body):
    def route(request):
        request.send_response(200)
        request.end_headers()
        request.close_connection = True
        request.wfile.write(body)

    fake.routes[BLOB_PATH] = route
    with pytest.raises(DigestMismatch, match="instead of 1048576"):
        read(client)


@pytest.mark.attack(55)
def test_a_blob_that_drips_is_given_up(client, fake):
    def route(request):
        request.send_response(200)
        request.send_header("Content-Length", str(len(CONTENT)))
        request.end_headers()
        for byte in CONTENT[:100]:
            request.wfile.write(bytes([byte]))
            time.sleep(0.05)

    fake.routes[BLOB_PATH] = route
    started = time.monotonic()
    with pytest.raises(RegistryUnavailable, match=r"bytes in 0\.3 s"):
        read(client)
    assert time.monotonic() - started < 6


@pytest.mark.attack(55)
def test_a_head_that_drips_is_given_up(client, fake):
    def route(request):
        for byte in b"HTTP/1.1 200 OK\r\n" + b"X" * 100:
            request.wfile.write(bytes([byte]))
            request.wfile.flush()
            time.sleep(0.05)

    fake.routes[LATEST] = route
    started = time.monotonic()
    with pytest.raises(RegistryUnavailable, match="3 times"):
        client.manifest("latest")
    assert time.monotonic() - started < 8


@pytest.mark.attack(53)
def test_descriptor_urls_are_not_followed(client, fake, other):
    fake.serve_blob(BLOB)
    foreign = m.Descriptor(
        m.DOCKER_FOREIGN_LAYER, DESCRIPTOR.digest, DESCRIPTOR.size, urls=(f"{other.url}/x",)
    )
    assert read(client, foreign) == CONTENT
    fake.routes.clear()
    with pytest.raises(ImageNotFound):
        read(client, foreign)
    assert other.seen == []


def stalled_headers(request, release):
    release.wait(20)


def stalled_body(request, release):
    request.send_response(200)
    request.send_header("Content-Length", str(len(CONTENT)))
    request.end_headers()
    request.wfile.write(b"x")
    request.wfile.flush()
    release.wait(20)


@pytest.mark.parametrize("stall", [stalled_headers, stalled_body])
def test_stop_ends_a_request_in_another_thread_at_once(fake, stall):
    transport = Transport(Patience(read_timeout_s=30))
    client = RegistryClient(transport, Reference.parse(f"{fake.host}/img"))
    release, arrived, caught = threading.Event(), threading.Event(), []

    def route(request):
        arrived.set()
        stall(request, release)

    def reading():
        try:
            read(client)
        except Stopped as error:
            caught.append(error)

    fake.routes[BLOB_PATH] = route
    thread = threading.Thread(target=reading)
    thread.start()
    try:
        assert arrived.wait(5)
        time.sleep(0.05)
        started = time.monotonic()
        transport.stop()
        thread.join(5)
        assert not thread.is_alive()
        assert time.monotonic() - started < 1
        assert caught
        with pytest.raises(Stopped):
            client.manifest("latest")
    finally:
        release.set()
        thread.join(5)
