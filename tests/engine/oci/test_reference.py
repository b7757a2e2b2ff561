import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellblock_engine.errors import InvalidReference
from cellblock_engine.oci.digest import Digest
from cellblock_engine.oci.reference import Reference

ZERO = "sha256:" + "0" * 64


@pytest.mark.parametrize(
    ("text", "canonical", "familiar"),
    [
        ("python", "docker.io/library/python:latest", "python:latest"),
        ("python:3.12-slim", "docker.io/library/python:3.12-slim", "python:3.12-slim"),
        ("library/python", "docker.io/library/python:latest", "python:latest"),
        ("docker.io/python", "docker.io/library/python:latest", "python:latest"),
        ("index.docker.io/a/b:c", "docker.io/a/b:c", "a/b:c"),
        ("jupyter/base-notebook", "docker.io/jupyter/base-notebook:latest", None),
        ("quay.io/jupyter/x:y", "quay.io/jupyter/x:y", "quay.io/jupyter/x:y"),
        ("localhost/x:1", "localhost/x:1", "localhost/x:1"),
        ("localhost:5000/x", "localhost:5000/x:latest", "localhost:5000/x:latest"),
        ("127.0.0.1:5000/base:latest", "127.0.0.1:5000/base:latest", None),
        ("[::1]:5000/x:y", "[::1]:5000/x:y", "[::1]:5000/x:y"),
        ("Host/x", "Host/x:latest", "Host/x:latest"),
        ("localhost:5000", "docker.io/library/localhost:5000", "localhost:5000"),
        ("a__b/c.d-e---f", "docker.io/a__b/c.d-e---f:latest", "a__b/c.d-e---f:latest"),
        (f"x@{ZERO}", f"docker.io/library/x@{ZERO}", f"x@{ZERO}"),
        (f"x:1@{ZERO}", f"docker.io/library/x:1@{ZERO}", f"x:1@{ZERO}"),
        ("docker.io/library/a.b/c", "docker.io/library/a.b/c:latest", "library/a.b/c:latest"),
        ("docker.io/localhost/x", "docker.io/localhost/x:latest", "docker.io/localhost/x:latest"),
    ],
)
def test_references_read_as_in_docker(text, canonical, familiar):
    reference = Reference.parse(text)
    assert str(reference) == canonical
    assert reference.familiar == (familiar or reference.familiar)
    assert Reference.parse(reference.familiar) == reference
    assert Reference.parse(str(reference)) == reference


def test_parts_are_told_apart():
    reference = Reference.parse(f"127.0.0.1:5000/team/base:v1@{ZERO}")
    assert reference == Reference("127.0.0.1:5000", "team/base", "v1", Digest.parse(ZERO))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "write"),
        (" python", "write"),
        ("python\n", "write"),
        ("Python", "lower-case"),
        ("x/Y", "lower-case"),
        ("x:", "tag"),
        ("x:-a", "tag"),
        ("x:" + "a" * 129, "tag"),
        ("x:a\u00e9", "tag"),
        ("a//b", "write"),
        ("a/", "write"),
        ("/a", "write"),
        ("a/../b", "write"),
        ("host.io/a/../b", "write"),
        ("a..b", "write"),
        ("a-", "write"),
        ("-a.io/x", "not a registry"),
        ("host:99999/x", "not a registry"),
        ("host:/x", "not a registry"),
        ("user@host/x", "digest"),
        ("http://host/x", "registry"),
        ("x@sha256:abc", "digest"),
        ("x@sha512:" + "0" * 128, "digest"),
        ("0" * 64, "image id"),
        ("a" * 256, "longer"),
        ("a" * 10_000, "too long"),
        ("a\0b", "write"),
    ],
)
def test_what_is_no_reference_is_refused_in_one_line(text, reason):
    with pytest.raises(InvalidReference) as caught:
        Reference.parse(text)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


word = st.text(string.ascii_lowercase + string.digits, min_size=1, max_size=8)
component = st.builds(
    lambda words, dot: dot.join(words),
    st.lists(word, min_size=1, max_size=3),
    st.sampled_from([".", "_", "__", "-", "---"]),
)
registries = st.one_of(
    st.sampled_from(["docker.io", "localhost", "[::1]:5000", "Host", "index.docker.io"]),
    st.builds(lambda host, port: f"{host}.io:{port}", word, st.integers(0, 65535)),
)
tags = st.text(string.ascii_letters + string.digits + "_.-", min_size=1, max_size=128).filter(
    lambda text: text[0] not in ".-"
)
digests = st.binary(max_size=8).map(Digest.of)


@settings(deadline=None)
@given(
    st.one_of(st.none(), registries),
    st.lists(component, min_size=1, max_size=4),
    st.one_of(st.none(), tags),
    st.one_of(st.none(), digests),
)
def test_every_valid_reference_survives_both_of_its_spellings(registry, path, tag, digest):
    text = "/".join(([registry] if registry else []) + path)
    text += (f":{tag}" if tag else "") + (f"@{digest}" if digest else "")
    reference = Reference.parse(text)
    assert Reference.parse(str(reference)) == reference
    assert Reference.parse(reference.familiar) == reference
    assert reference.tag == (tag or (None if digest else "latest"))
    assert reference.digest == digest


@settings(deadline=None)
@given(st.one_of(st.text(max_size=40), st.text("aA0./:@-_[]\n", max_size=40)))
def test_any_text_is_either_a_reference_or_refused(text):
    try:
        reference = Reference.parse(text)
    except InvalidReference:
        return
    assert Reference.parse(str(reference)) == reference
    assert ".." not in reference.repository.split("/")
    assert str(reference).isascii()
    assert not set(str(reference)) & set(" \n\0%?#")


def test_references_with_and_without_tags_have_an_order():
    texts = ["a/b:1", "a/b@sha256:" + "0" * 64, "a/b:2", "a/a"]
    found = sorted(map(Reference.parse, texts))
    assert [each.repository for each in found] == ["a/a", "a/b", "a/b", "a/b"]
    assert [each.tag for each in found[1:]] == ["1", "2", None]
