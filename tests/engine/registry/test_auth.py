import base64
import json
from urllib.parse import parse_qs, urlsplit

import pytest

from cellblock_engine.errors import AccessDenied, InvalidAnswer, RegistryUnavailable
from cellblock_engine.oci import manifest as m
from cellblock_engine.oci.digest import Digest
from cellblock_engine.oci.reference import Reference
from cellblock_engine.registry.auth import Challenge, Credentials, parse_challenges
from cellblock_engine.registry.client import RegistryClient
from cellblock_engine.registry.transport import Transport
from support.fakeregistry import Packed, an_image

SECRET = Credentials("anna", "pa:ss")


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([], []),
        ([""], []),
        (['Basic realm="x"'], [("basic", {"realm": "x"})]),
        (
            ['Bearer realm="https://a/t",service="s, t",scope="repository:x:pull"'],
            [("bearer", {"realm": "https://a/t", "service": "s, t", "scope": "repository:x:pull"})],
        ),
        (
            ['Basic realm="x", Bearer Realm = "y" , service=z'],
            [("basic", {"realm": "x"}), ("bearer", {"realm": "y", "service": "z"})],
        ),
        (['Bearer realm="a\\"b"'], [("bearer", {"realm": 'a"b'})]),
        (["Negotiate", "bearer realm=https://a/t"], [("negotiate", {}), ("bearer", ...)]),
        (['Bearer realm="one",realm="two"'], [("bearer", {"realm": "one"})]),
        (['Bearer realm="open'], [("bearer", {"realm": '"open'[:0]})]),
        (["=,=,;"], []),
    ],
)
def test_challenges_are_read(headers, expected):
    found = parse_challenges(headers)
    assert [challenge.scheme for challenge in found[: len(expected)]] == [s for s, _ in expected]
    for challenge, (_, parameters) in zip(found, expected, strict=False):
        assert parameters is ... or challenge.parameters == parameters


@pytest.mark.timeout(5)
@pytest.mark.parametrize("text", ["a" * 10**6, 'B a="' + "\\" * 10**6, ", " * 10**6, "a=" * 10**6])
def test_a_hostile_challenge_costs_no_time(text):
    assert all(isinstance(challenge, Challenge) for challenge in parse_challenges([text] * 3))


def test_credentials_do_not_show():
    assert "pa:ss" not in repr(SECRET)


@pytest.fixture
def image():
    return an_image()


@pytest.fixture
def guarded(fake, other, image):
    """A registry that wants the token which the server ``other`` gives to anybody."""

    class Guarded:
        token = "abc"
        realm = f"{other.url}/token"
        tokens_given = 0

        def give(self, request):
            self.tokens_given += 1
            request.answer(200, json.dumps({"token": self.token}).encode())

        def route(self, request):
            if request.headers.get("Authorization") == f"Bearer {self.token}":
                request.answer(200, image.manifest.raw, Content_Type=m.OCI_MANIFEST)
            else:
                challenge = f'Bearer realm="{self.realm}",service="svc",scope="repository:evil:*"'
                request.answer(401, b"{}", WWW_Authenticate=challenge)

    guarded = Guarded()
    fake.routes["/v2/img/manifests/latest"] = guarded.route
    other.routes["/token"] = fake.routes["/token"] = guarded.give
    return guarded


@pytest.fixture
def client(fake, patience):
    def make(credentials=None):
        reference = Reference.parse(f"{fake.host}/img")
        return RegistryClient(Transport(patience), reference, credentials)

    return make


def test_an_anonymous_token_is_got_and_used(client, guarded, other, image):
    answer = client().manifest("latest")
    assert answer.digest == Digest.parse(image.manifest.digest)
    path, headers = other.seen[0]
    assert "Authorization" not in headers
    assert parse_qs(urlsplit(path).query) == {"scope": ["repository:img:pull"], "service": ["svc"]}


def test_a_token_is_used_again_and_renewed_when_it_expires(client, guarded):
    reading = client()
    reading.manifest("latest")
    reading.manifest("latest")
    assert guarded.tokens_given == 1
    guarded.token = "def"
    reading.manifest("latest")
    assert guarded.tokens_given == 2


@pytest.mark.attack(52)
def test_a_token_server_elsewhere_is_asked_without_credentials(client, guarded, other):
    client(SECRET).manifest("latest")
    assert len(other.seen) == 1
    assert "Authorization" not in other.seen[0][1]


def test_a_token_server_on_the_registry_gets_the_credentials(client, guarded, fake):
    guarded.realm = f"{fake.url}/token"
    client(SECRET).manifest("latest")
    sent = next(headers for path, headers in fake.seen if path.startswith("/token"))
    assert sent["Authorization"] == "Basic " + base64.b64encode(b"anna:pa:ss").decode()


def test_basic_is_answered_with_credentials_only(client, fake, image):
    def route(request):
        if request.headers.get("Authorization") == SECRET.header:
            request.answer(200, image.manifest.raw, Content_Type=m.OCI_MANIFEST)
        else:
            request.answer(401, WWW_Authenticate='Basic realm="x"')

    fake.routes["/v2/img/manifests/latest"] = route
    assert client(SECRET).manifest("latest").raw == image.manifest.raw
    assert "Authorization" not in fake.seen[0][1]
    with pytest.raises(AccessDenied, match="user name"):
        client().manifest("latest")


@pytest.mark.attack(56)
def test_endless_401_ends(client, guarded, fake):
    fake.routes["/v2/img/manifests/latest"] = lambda request: request.answer(
        401, WWW_Authenticate=f'Bearer realm="{guarded.realm}"'
    )
    with pytest.raises(AccessDenied, match="denied") as caught:
        client().manifest("latest")
    assert len(fake.seen) == 2
    assert guarded.tokens_given == 1
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "challenge", ["", "Negotiate", 'Digest realm="x"', 'Bearer service="no realm"']
)
def test_a_challenge_without_an_answer_is_an_error(client, fake, challenge):
    fake.routes["/v2/img/manifests/latest"] = lambda request: request.answer(
        401, WWW_Authenticate=challenge
    )
    with pytest.raises((AccessDenied, InvalidAnswer)):
        client().manifest("latest")
    assert len(fake.seen) == 1


@pytest.mark.parametrize("realm", ["http://example.test/token", "file:///etc/passwd", "token"])
@pytest.mark.attack(52, 54)
def test_a_realm_in_the_clear_is_refused(client, guarded, realm):
    guarded.realm = realm
    with pytest.raises(InvalidAnswer):
        client().manifest("latest")


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (200, b"<html>", InvalidAnswer),
        (200, b"{}", InvalidAnswer),
        (200, b'{"token": 7}', InvalidAnswer),
        (200, b'{"token": "a\\r\\nX-Evil: 1"}', InvalidAnswer),
        (200, b'{"token": "' + b"a" * 2**21 + b'"}', InvalidAnswer),
        (401, b"", AccessDenied),
        (403, b"", AccessDenied),
        (500, b"", RegistryUnavailable),
        (418, b"", RegistryUnavailable),
    ],
)
def test_a_token_server_that_misbehaves(client, guarded, other, status, body, error):
    other.routes["/token"] = lambda request: request.answer(status, body)
    with pytest.raises(error) as caught:
        client().manifest("latest")
    assert "\n" not in str(caught.value)


IDENTITY = Credentials("<token>", "refresh/me+", "identity")


def test_an_identity_token_is_posted_and_never_part_of_an_address(client, guarded, fake):
    forms = []

    def give(request):
        forms.append(request.form)
        request.answer(200, json.dumps({"access_token": guarded.token}).encode())

    guarded.realm = f"{fake.url}/token"
    fake.routes["/token"] = give
    client(IDENTITY).manifest("latest")
    (form,) = forms
    assert (form["grant_type"], form["refresh_token"]) == (["refresh_token"], ["refresh/me+"])
    assert (form["scope"], form["service"]) == (["repository:img:pull"], ["svc"])
    assert not any("refresh" in path for path in fake.paths())
    assert not any("Basic" in headers.get("Authorization", "") for _, headers in fake.seen)


def test_an_identity_token_follows_no_redirect_and_answers_no_basic(client, guarded, fake, other):
    guarded.realm = f"{fake.url}/token"
    fake.routes["/token"] = lambda request: request.answer(307, Location=f"{other.url}/token")
    with pytest.raises(RegistryUnavailable, match="307"):
        client(IDENTITY).manifest("latest")
    guarded.realm = f"{other.url}/token"  # another origin: asked without it
    client(IDENTITY).manifest("latest")
    assert not any("refresh" in str(seen) for seen in other.seen)
    fake.routes["/v2/img/manifests/latest"] = lambda request: request.answer(
        401, WWW_Authenticate='Basic realm="x"'
    )
    with pytest.raises(AccessDenied, match="user name and password"):
        client(IDENTITY).manifest("latest")
    assert not any("Basic" in headers.get("Authorization", "") for _, headers in fake.seen)


@pytest.mark.attack(51, 52)
def test_a_challenge_from_the_target_of_a_redirect_is_not_answered(client, fake, other, image):
    blob = Packed(b"layer", m.OCI_LAYER)
    fake.routes[f"/v2/img/blobs/{blob.digest}"] = lambda request: request.answer(
        302, Location=f"{other.url}/elsewhere"
    )
    other.routes["/elsewhere"] = lambda request: request.answer(
        401, WWW_Authenticate='Basic realm="x"'
    )
    descriptor = m.Descriptor(m.OCI_LAYER, Digest.parse(blob.digest), 5)
    with pytest.raises(AccessDenied):
        list(client(SECRET).blob(descriptor))
    assert len(other.seen) == 1
    assert "Authorization" not in other.seen[0][1]
