import pytest

from cellblock_engine.errors import InvalidAnswer
from cellblock_engine.registry.origin import Origin


@pytest.mark.parametrize(
    ("registry", "expected"),
    [
        ("docker.io", "https://registry-1.docker.io"),
        ("quay.io", "https://quay.io"),
        ("quay.io:80", "https://quay.io:80"),
        ("localhost", "http://localhost"),
        ("localhost:5000", "http://localhost:5000"),
        ("LOCALHOST:5000", "http://localhost:5000"),
        ("127.9.9.9:1", "http://127.9.9.9:1"),
        ("[::1]:5000", "http://[::1]:5000"),
        ("[::2]:5000", "https://[::2]:5000"),
        ("10.0.0.1:5000", "https://10.0.0.1:5000"),
        ("127.0.0.1.evil.test", "https://127.0.0.1.evil.test"),
        ("localhost.evil.test", "https://localhost.evil.test"),
        ("2130706433", "https://2130706433"),
        ("0.0.0.0:5000", "https://0.0.0.0:5000"),
    ],
)
@pytest.mark.attack(54)
def test_plain_http_is_for_this_machine_only(registry, expected):
    assert str(Origin.of_registry(registry)) == expected


@pytest.mark.parametrize(
    "url",
    [
        "",
        "/relative",
        "ftp://host/",
        "file:///etc/passwd",
        "https://",
        "https://user@host/",
        "https://quay.io@evil.test/",
        "https://host:port/",
        "https://host:99999/",
        "https://[::1/",
        "javascript:alert(1)",
    ],
)
def test_other_addresses_are_refused(url):
    with pytest.raises(InvalidAnswer, match="refers to"):
        Origin.of_url(url)


@pytest.mark.parametrize(
    ("source", "target", "allowed"),
    [
        ("https://a.test", "https://b.test", True),
        ("https://a.test", "http://a.test", False),
        ("https://a.test", "http://127.0.0.1", False),
        ("https://127.0.0.1", "http://127.0.0.1", False),
        ("http://127.0.0.1", "http://127.0.0.1:81", True),
        ("http://127.0.0.1", "http://b.test", False),
        ("http://127.0.0.1", "https://b.test", True),
    ],
)
@pytest.mark.attack(54)
def test_who_may_send_a_client_where(source, target, allowed):
    assert Origin.of_url(source).may_refer_to(Origin.of_url(target)) is allowed
