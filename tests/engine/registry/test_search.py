import json

import pytest

from cellblock_engine.errors import (
    AccessDenied,
    InvalidAnswer,
    InvalidInput,
    InvalidReference,
    RegistryError,
    RegistryUnavailable,
)
from cellblock_engine.registry import search as module
from cellblock_engine.registry.auth import Credentials
from cellblock_engine.registry.search import FoundImage, search
from cellblock_engine.settings import Registries
from support.fakeregistry import demand_tokens

PYTHON = {
    "name": "python",
    "description": "Python is an interpreted language.",
    "star_count": 9000,
    "pull_count": 10**10,
    "is_official": True,
    "is_automated": False,
}


@pytest.fixture
def find(patience):
    def found(term, limit=25, keyring=None):
        return search(
            term, limit=limit, registries=Registries(), keyring=keyring, patience=patience
        )

    return found


@pytest.fixture
def hub(fake, monkeypatch):
    """The index of Docker Hub, which is not to be reached from here."""
    monkeypatch.setattr(module, "_HUB_INDEX", fake.url)
    return fake


def serve(registry, path, document, **headers):
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    registry.routes[path] = lambda request: request.answer(200, body, **headers)


def index(registry, *results):
    serve(registry, "/v1/search", {"num_results": len(results), "results": list(results)})


def catalogue(registry, *names, **headers):
    serve(registry, "/v2/_catalog", {"repositories": list(names)}, **headers)


def names(found):
    return [each.name for each in found]


def test_the_hub_is_asked_as_docker_asks_it(hub, find):
    other = {"name": "ours/python", "description": None, "star_count": 0, "is_official": False}
    index(hub, PYTHON, other)
    assert find("python & co", limit=7) == (
        FoundImage("python", "Python is an interpreted language.", 9000, True, 10**10),
        FoundImage("ours/python", "", 0, False, None),
    )
    [(path, headers)] = hub.seen
    assert path == "/v1/search?q=python+%26+co&n=7"
    assert "Authorization" not in headers
    find("docker.io/library/python")
    assert hub.paths()[-1] == "/v1/search?q=python&n=25"


def test_a_registry_without_an_index_is_searched_by_its_catalogue(fake, find):
    names_ = ["deep/er/Python", "base", "mypython", "team/python-slim", "python"]
    catalogue(fake, *names_)
    assert names(find(f"{fake.host}/PYTHON")) == [
        f"{fake.host}/mypython",
        f"{fake.host}/team/python-slim",
        f"{fake.host}/python",
    ]
    assert names(find(f"{fake.host}/", limit=2)) == [f"{fake.host}/base", f"{fake.host}/mypython"]
    [found] = find(f"{fake.host}/base")
    assert (found.description, found.stars, found.official) == (None, None, None)


def test_an_index_that_another_registry_has_is_used(fake, find):
    index(fake, {"name": f"{fake.host}/a/b", "description": "x"}, {"name": "c"}, {"name": "c"})
    assert names(find(f"{fake.host}/x")) == [f"{fake.host}/a/b", f"{fake.host}/c"]
    assert len(fake.seen) == 1


def test_all_pages_are_read_until_there_is_enough(fake, find):
    def page(request):
        at = int(request.path.partition("last=")[2] or 0)
        body = json.dumps({"repositories": [f"img{at}", "none"]}).encode()
        link = f'</v2/_catalog?n=1000&last={at + 1}>; rel="next"' if at < 5 else ""
        request.answer(200, body, Link=link)

    fake.routes["/v2/_catalog"] = page
    assert names(find(f"{fake.host}/img")) == [f"{fake.host}/img{at}" for at in range(6)]
    del fake.seen[:]
    assert len(find(f"{fake.host}/img", limit=2)) == 2
    assert len(fake.seen) == 3  # the index, and two pages


def test_the_catalogue_is_read_with_a_token_for_it(fake, find):
    catalogue(fake, "secret")
    known = Credentials("me", "password")
    asked = demand_tokens(fake, {known.header})
    assert names(find(f"{fake.host}/", keyring=lambda _: known)) == [f"{fake.host}/secret"]
    assert asked[0]["scope"] == ["registry:catalog:*"]
    with pytest.raises(AccessDenied, match=f"the catalogue of {fake.url} is denied: .*log in to"):
        find(f"{fake.host}/")


def test_credentials_that_do_not_do_are_refused_in_one_line(fake, find):
    def refuse(request):
        request.answer(401, b"{}", WWW_Authenticate='Basic realm="x"')

    fake.routes["/v2/_catalog"] = refuse
    with pytest.raises(AccessDenied, match="is denied: it is not open to me"):
        find(f"{fake.host}/x", keyring=lambda _: Credentials("me", "wrong"))
    fake.routes["/v2/_catalog"] = lambda request: request.answer(403, b"{}")
    with pytest.raises(AccessDenied, match="is denied: log in to"):
        find(f"{fake.host}/x")


def test_what_has_neither_is_said_in_one_line(fake, find, hub):
    with pytest.raises(
        RegistryError, match="cannot be searched: it has no index, and answered 404"
    ):
        find(f"{fake.host}/x")
    with pytest.raises(InvalidAnswer, match="answered 404 to a search"):
        find("python")
    with pytest.raises(RegistryUnavailable, match="is not available"):
        find("localhost:1/python")


def test_terms_and_limits_that_cannot_be_meant_are_refused(fake, find):
    for term in ("", "  ", "docker.io/", "library/"):
        with pytest.raises(InvalidInput, match="nothing to search for"):
            find(term)
    for term in ("a\nb", "x" * 256, "\033[2J"):
        with pytest.raises(InvalidInput, match="cannot be searched for"):
            find(term)
    with pytest.raises(InvalidReference, match="is not a registry"):
        find("host:99999/x")
    for limit in (0, -1, 101):
        with pytest.raises(InvalidInput, match="out of range: 1 to 100"):
            find(f"{fake.host}/x", limit=limit)
    assert fake.seen == []


def test_hostile_results_are_capped_and_cleaned(hub, find):
    index(
        hub,
        {"name": "ok", "description": "\033]0;title\007a\n\u202eb" + "x" * 9000},
        {"name": "\033[2Jbad"},
        {"name": "../../etc"},
        {"name": "evil.example:5000/x"},
        {"name": "a" * 300},
        {"name": "named:tag"},
        {"description": "nameless"},
        *({"name": f"n{n}"} for n in range(900)),
    )
    found = find("x")
    assert names(found) == ["ok", *(f"n{n}" for n in range(24))]
    assert found[0].description.startswith("]0;title a b")
    assert found[0].description.isprintable()
    assert len(found[0].description) == 300


@pytest.mark.parametrize(
    "document",
    [
        b"<html>",
        b"[]",
        b"{}",
        b'{"results": 3}',
        b'{"results": [1]}',
        b'{"results": [{"name": 1}]}',
        b'{"results": [{"name": "a", "star_count": -1}]}',
        b'{"results": [{"name": "a", "star_count": 1e99}]}',
        b'{"results": [{"name": "a", "is_official": "yes"}]}',
        b'{"results": [{"name": "a", "name": "b"}]}',
        b"[" * 100_000,
        json.dumps({"results": [{}] * 1001}).encode(),
        b" " * (2**20 + 1),
    ],
    ids=lambda document: repr(document[:30]),
)
def test_an_answer_that_is_no_index_is_refused_whole(hub, find, document):
    serve(hub, "/v1/search", document)
    with pytest.raises(InvalidAnswer) as refused:
        find("x")
    assert str(refused.value).isprintable()


def test_a_catalogue_without_an_end_is_given_up(fake, find, monkeypatch):
    monkeypatch.setattr(module, "_MOST_PAGES", 10)
    rounds = []

    def endless(request):
        rounds.append(request.path)
        link = f'</v2/_catalog?last={len(rounds)}>; rel="next"'
        request.answer(200, b'{"repositories": []}', Link=link)

    fake.routes["/v2/_catalog"] = endless
    with pytest.raises(InvalidAnswer, match="does not come to an end"):
        find(f"{fake.host}/x")
    assert len(rounds) == 10
    catalogue(fake, Link='</v2/_catalog?n=1000>; rel="next"')
    del fake.seen[:]
    with pytest.raises(InvalidAnswer, match="does not come to an end"):
        find(f"{fake.host}/x")
    assert len(fake.seen) == 2


@pytest.mark.parametrize(
    "document", [b"<html>", b"[]", b'{"repositories": "a"}', b'{"repositories": [["a"]]}', b"{"]
)
def test_a_catalogue_that_is_none_is_refused(fake, find, document):
    serve(fake, "/v2/_catalog", document)
    with pytest.raises(InvalidAnswer, match="the catalogue of"):
        find(f"{fake.host}/x")


def test_a_catalogue_does_not_send_credentials_elsewhere(fake, other, find):
    catalogue(other, "stolen")
    known = Credentials("me", "password")
    for link in (f"<{other.url}/v2/_catalog>", "<http://example.org/>", "<file:///etc/passwd>"):
        catalogue(fake, Link=f'{link}; rel="next"')
        with pytest.raises(InvalidAnswer):
            find(f"{fake.host}/x", keyring=lambda _: known)
    assert other.seen == []


def test_an_answer_that_breaks_off_is_asked_for_again(fake, find):
    broken = []

    def once(request):
        body = b'{"repositories": ["whole"]}'
        request.answer(200, body, Content_Length=str(len(body) if broken else 100))
        request.close_connection = not broken
        broken.append(True)

    fake.routes["/v2/_catalog"] = once
    assert names(find(f"{fake.host}/whole")) == [f"{fake.host}/whole"]
