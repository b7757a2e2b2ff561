import os

import pytest

from cellblock_engine.errors import InvalidInput
from cellblock_engine.oci.platform import Platform


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("linux/amd64", Platform("linux", "amd64")),
        ("linux/x86_64", Platform("linux", "amd64")),
        ("amd64", Platform("linux", "amd64")),
        ("linux/amd64/v1", Platform("linux", "amd64")),
        ("linux/amd64/v3", Platform("linux", "amd64", "v3")),
        ("linux/arm64/v8", Platform("linux", "arm64")),
        ("Linux/AARCH64", Platform("linux", "arm64")),
        ("linux/arm", Platform("linux", "arm", "v7")),
        ("linux/arm/6", Platform("linux", "arm", "v6")),
        ("armhf", Platform("linux", "arm", "v7")),
        ("windows/amd64", Platform("windows", "amd64")),
    ],
)
def test_spellings_are_normalised(text, expected):
    assert Platform.parse(text) == expected
    assert Platform.parse(str(expected)) == expected


@pytest.mark.parametrize(
    "text", ["", "/", "linux/", "a/b/c/d", "linux/amd 64", "linux/\n", "x" * 99]
)
def test_what_is_no_platform_is_refused(text):
    with pytest.raises(InvalidInput, match="platform"):
        Platform.parse(text)


def test_the_host_is_this_kernel():
    host = Platform.host()
    assert host.os == os.uname().sysname.lower()
    assert host.runs(host) is not None
    assert Platform.parse("linux") == host


@pytest.mark.parametrize(
    ("machine", "image", "rank"),
    [
        ("linux/amd64", "linux/amd64", 1),
        ("linux/amd64/v3", "linux/amd64", 1),
        ("linux/amd64/v3", "linux/amd64/v2", 2),
        ("linux/amd64", "linux/amd64/v2", None),
        ("linux/arm/v7", "linux/arm/v6", 6),
        ("linux/arm/v6", "linux/arm/v7", None),
        ("linux/amd64", "linux/386", None),
        ("linux/amd64", "linux/arm64", None),
        ("linux/amd64", "windows/amd64", None),
        ("linux/s390x", "linux/s390x", 0),
        ("linux/mips64le/hard", "linux/mips64le/soft", None),
        ("linux/mips64le/hard", "linux/mips64le/hard", 0),
    ],
)
def test_what_runs_where(machine, image, rank):
    assert Platform.parse(machine).runs(Platform.parse(image)) == rank
