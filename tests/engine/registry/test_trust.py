"""What config allows beyond the rules: plain http, unverified TLS, token servers, mirrors."""

from __future__ import annotations

import json
import warnings

import pytest

from cellblock_engine.errors import (
    AccessDenied,
    DigestMismatch,
    ImageNotFound,
    InvalidAnswer,
    RegistryUnavailable,
)
from cellblock_engine.oci.reference import Reference
from cellblock_engine.registry.auth import Credentials
from cellblock_engine.registry.origin import Origin
from cellblock_engine.registry.pull import pull
from cellblock_engine.registry.transport import Transport
from cellblock_engine.registry.trust import Trust
from cellblock_engine.settings import Registries
from support.fakeregistry import an_image

SECRET = Credentials("anna", "secret")
HUB = Reference.parse("docker.io/library/img")


@pytest.fixture
def get(store, patience):
    def get(reference, registries, **more):
        reference = Reference.parse(reference)
        return pull(reference, store, patience=patience, registries=registries, **more)

    return get


def elsewhere(fake) -> str:
    """The same server by an address that does not count as this machine."""
    return f"0.0.0.0:{fake.server.server_port}"


def test_plain_http_is_for_the_host_and_port_that_was_named(fake, get):
    fake.serve(an_image())
    name = f"{elsewhere(fake)}/img"
    with pytest.raises(RegistryUnavailable):
        get(name, Registries())
    with pytest.raises(RegistryUnavailable):
        get(name, Registries(plain_http=frozenset({"0.0.0.0:1", "0.0.0.0"})))
    assert fake.seen == []
    get(name, Registries(plain_http=frozenset({elsewhere(fake)})))


def test_a_redirect_in_the_clear_goes_to_named_hosts_only(fake, other, patience):
    source, target = elsewhere(fake), elsewhere(other)
    fake.routes["/go"] = lambda request: request.answer(302, Location=f"http://{target}/there")
    other.routes["/there"] = lambda request: request.answer(200, b"there")
    trusting = Trust(Registries(plain_http=frozenset({source})))
    with pytest.raises(InvalidAnswer, match="plain http is refused"):
        Transport(patience, trusting).open(f"http://{source}/go", {}, "secret")
    assert other.seen == []
    trusting = Trust(Registries(plain_http=frozenset({source, target})))
    with Transport(patience, trusting).open(f"http://{source}/go", {}, "secret") as response:
        assert response.read(10, "it") == b"there"
    assert "Authorization" not in other.seen[0][1]


def test_https_never_leads_to_http_whoever_was_named():
    trust = Trust(Registries(plain_http=frozenset({"a.lan", "b.lan"})))
    plain, secure = Origin.of_url("http://a.lan"), Origin.of_url("https://b.lan")
    assert not trust.may_refer(secure, plain)
    assert trust.may_refer(Origin.of_url("http://b.lan"), plain)
    assert trust.may_refer(plain, secure)


def test_an_unverified_certificate_is_for_the_host_and_port_that_was_named(secure, get, patience):
    secure.serve(an_image())
    named = Registries(unverified_tls=frozenset({secure.host}))
    with pytest.raises(RegistryUnavailable, match="certificate is not trusted"):
        Transport(patience, Trust(Registries())).open(f"https://{secure.host}/", {}, None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        get(f"{secure.host}/img", named)
    assert not Trust(named).verifies(Origin.of_url(f"https://{secure.host}"))
    assert Trust(named).verifies(Origin.of_url("https://127.0.0.1:1"))


@pytest.fixture
def guarded(fake, other):
    """A registry whose token server, elsewhere, gives tokens to one user only."""
    image = an_image()
    fake.serve(image)

    def token(request):
        if request.headers.get("Authorization") == SECRET.header:
            request.answer(200, json.dumps({"access_token": "yes"}).encode())
        else:
            request.answer(200, json.dumps({"token": "anonymous"}).encode())

    def behind(route):
        def guarded(request):
            if request.headers.get("Authorization") == "Bearer yes":
                route(request)
            else:
                challenge = f'Bearer realm="{other.url}/token",service="svc"'
                request.answer(401, WWW_Authenticate=challenge)

        return guarded

    other.routes["/token"] = token
    fake.routes = {path: behind(route) for path, route in fake.routes.items()}
    return f"{fake.host}/img"


def test_a_named_token_server_gets_the_credentials_and_no_other(fake, other, get, guarded):
    asked = []

    def keyring(registry):
        asked.append(registry)
        return SECRET

    with pytest.raises(AccessDenied, match="withheld") as caught:
        get(guarded, Registries(), keyring=keyring)
    assert "registries.token-servers" in str(caught.value)
    assert all("Authorization" not in headers for _, headers in other.seen)
    get(guarded, Registries(token_servers={fake.host: (other.host,)}), keyring=keyring)
    assert set(asked) == {fake.host}
    assert "account=anna" in other.paths()[-1]


def test_broken_credentials_do_not_keep_from_public_images(fake, other, get, guarded):
    def broken(registry):
        raise AccessDenied("the credential helper is not on PATH")

    with pytest.raises(AccessDenied, match="helper is not on PATH"):
        get(guarded, Registries(), keyring=broken)
    other.routes["/token"] = lambda request: request.answer(200, b'{"token": "yes"}')
    get(guarded, Registries(), keyring=broken)


@pytest.fixture
def mirrored(fake, other):
    """Registries in which ``fake`` is the registry and ``other`` its mirror, with a path."""
    return Registries(mirrors={fake.host: (f"{other.host}/hub",)})


def test_a_mirror_is_asked_first_and_only(fake, other, get, mirrored, store):
    other.serve(an_image(), name="hub/img")
    image = get(f"{fake.host}/img", mirrored)
    assert fake.seen == []
    assert [str(name) for name in image.references] == [f"{fake.host}/img:latest"]


def _down(other, image):
    other.server.shutdown()
    other.server.server_close()


def _empty(other, image):
    pass


def _forged(other, image):
    other.serve(image, name="hub/img")
    blob = f"/v2/hub/img/blobs/{image.layers[0].digest}"
    raw = image.layers[0].raw
    other.routes[blob] = lambda request: request.answer(200, raw[:-1] + b"!")


def _broken(other, image):
    other.serve(image, name="hub/img")
    other.routes["/v2/hub/img/manifests/latest"] = lambda request: request.answer(503)


@pytest.mark.parametrize("spoil", [_down, _empty, _forged, _broken])
def test_a_mirror_that_fails_is_passed_over(fake, other, get, mirrored, spoil):
    image = an_image()
    fake.serve(image)
    spoil(other, image)
    assert str(get(f"{fake.host}/img", mirrored).manifest) == image.manifest.digest


def test_when_all_fail_it_is_the_registrys_word(fake, other, get, mirrored):
    with pytest.raises(ImageNotFound, match=f"{fake.host}/img"):
        get(f"{fake.host}/img", mirrored)
    _forged(other, an_image())
    with pytest.raises(ImageNotFound, match=f"{fake.host}/img"):
        get(f"{fake.host}/img", mirrored)


def test_by_digest_a_mirror_cannot_lie(fake, other, get, mirrored):
    image, forged = an_image(), an_image(2)
    other.serve(forged, name="hub/img")
    other.routes[f"/v2/hub/img/manifests/{image.manifest.digest}"] = other.routes[
        "/v2/hub/img/manifests/latest"
    ]
    with pytest.raises(ImageNotFound):  # the registry's own answer: the mirror's was refused
        get(f"{fake.host}/img@{image.manifest.digest}", mirrored)
    with pytest.raises(DigestMismatch):
        get(f"{other.host}/hub/img@{image.manifest.digest}", Registries())


def test_a_mirror_never_sees_the_registrys_credentials(fake, other, get, mirrored):
    asked = []

    def keyring(registry):
        asked.append(registry)
        return SECRET if registry == fake.host else None

    challenge = 'Basic realm="x"'
    other.routes["/v2/hub/img/manifests/latest"] = lambda request: request.answer(
        401, WWW_Authenticate=challenge
    )
    image = an_image()
    fake.serve(image)
    get(f"{fake.host}/img", mirrored, keyring=keyring)
    assert asked == [other.host]
    assert all("Authorization" not in headers for _, headers in other.seen)
