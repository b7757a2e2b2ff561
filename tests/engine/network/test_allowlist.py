"""Names as they are allowed, and as they are asked for."""

from __future__ import annotations

import pytest

from cellblock_engine import InvalidInput, RunRequest
from cellblock_engine.network.allowlist import AllowedHost, parse_allowed_host, parse_target


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("pypi.org", AllowedHost("pypi.org")),
        ("PyPI.org", AllowedHost("pypi.org")),
        ("pypi.org:8443", AllowedHost("pypi.org", 8443)),
        ("*.example.org", AllowedHost("example.org", below=True)),
        ("*.example.org:80", AllowedHost("example.org", 80, below=True)),
        ("localhost:8080/private", AllowedHost("localhost", 8080, private=True)),
        ("mirror/private", AllowedHost("mirror", private=True)),
        ("xn--bcher-kva.example", AllowedHost("xn--bcher-kva.example")),
        ("1.example", AllowedHost("1.example")),
    ],
)
def test_what_is_meant(text, meant):
    assert parse_allowed_host(text) == meant
    assert parse_allowed_host(str(meant)) == meant


@pytest.mark.parametrize(
    "text",
    [
        *("", ".", "*", "*.", "*.org", "*org", "a.*.org", "*.*.org", "pypi.org.", ".pypi.org"),
        *("127.0.0.1", "1.2.3.4:443", "127.1", "2130706433", "0x7f000001", "0x7f.1", "a.0x7f"),
        *("::1", "[::1]", "[::1]:443", "fe80::1%eth0"),
        *("pypi.org:", "pypi.org:0", "pypi.org:65536", "pypi.org:443:443", "pypi.org:+1", "a:٣"),
        *("https://pypi.org", "pypi.org/", "pypi.org/simple", "pypi.org/Private/", "u@pypi.org"),
        *(
            "pypi..org",
            "-a.org",
            "a-.org",
            "a_b.org",
            "a b.org",
            "a.org\n",
            "a\0.org",
            "ä.org",
            "\u212a.org",
        ),
        *("*.example.org/private", "a" * 64 + ".org", ".".join(["a" * 60] * 5)),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_line(text):
    with pytest.raises(InvalidInput) as caught:
        parse_allowed_host(text)
    assert "\n" not in str(caught.value)
    with pytest.raises(InvalidInput):
        RunRequest(allow_hosts=("pypi.org", text))


def test_they_are_for_containers_without_a_network():
    with pytest.raises(InvalidInput, match="without a network"):
        RunRequest(allow_hosts=("pypi.org",), network="host")


def test_a_host_is_itself_at_its_port():
    rule = parse_allowed_host("pypi.org")
    assert rule.admits("pypi.org", 443)
    assert not rule.admits("pypi.org", 80)
    for other in ("a.pypi.org", "xpypi.org", "pypi.orgx", "pypi.org.evil.example", "org"):
        assert not rule.admits(other, 443)


def test_a_domain_is_what_is_below_it():
    rule = parse_allowed_host("*.example.org")
    assert rule.admits("a.example.org", 443)
    assert rule.admits("b.a.example.org", 443)
    for other in ("example.org", "evilexample.org", ".example.org.evil", "example.org.evil"):
        assert not rule.admits(other, 443)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("pypi.org:443", ("pypi.org", 443)),
        ("PYPI.ORG.:443", ("pypi.org", 443)),
        ("127.0.0.1:1", ("127.0.0.1", 1)),
        ("pypi.org", None),
        ("pypi.org:0", None),
        ("pypi.org:65536", None),
        ("pypi.org..:443", None),
        ("[::1]:443", None),
        ("pypi.org:443\n", None),
        ("pypi.org\0:443", None),
        ("a" * 64 + ":443", None),
    ],
)
def test_what_is_asked_for(text, meant):
    assert parse_target(text) == meant
