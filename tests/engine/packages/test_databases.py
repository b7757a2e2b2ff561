"""What the files of package tools say, also where they were written to mislead."""

from __future__ import annotations

import pytest

from cellblock_engine.packages.databases import (
    alpine_packages,
    debian_packages,
    python_package,
)

STATUS = b"""\
Package: bash
Essential: yes
Status: install ok installed
Version: 5.2.15-2+b7
Description: GNU Bourne Again SHell
 Version: 9
 .
 more

Package: gone
Status: deinstall ok config-files
Version: 1

Package: libstdc++6
Status: hold ok installed
Version: 1:12.2.0-14+deb12u1~x

Package: bad\x1b[2J
Status: install ok installed
Version: 1

Package: odd
Status: install ok installed
Version: 1 ; rm -rf
"""


def test_dpkg_lists_what_is_installed():
    assert list(debian_packages(STATUS)) == [
        ("bash", "5.2.15-2+b7"),
        ("libstdc++6", "1:12.2.0-14+deb12u1~x"),
        ("odd", ""),
    ]


def test_paragraphs_without_a_status_count_where_there_is_no_dpkg():
    content = b"Package: tzdata\nVersion: 2024a\n"
    assert list(debian_packages(content)) == []
    assert list(debian_packages(content, every=True)) == [("tzdata", "2024a")]


def test_apk_lists_what_is_installed():
    content = b"C:Q1x=\nP:musl\nV:1.2.5-r0\nA:x86_64\nF:lib\n\nP:ca-certificates\nV:20240226-r0\n\n"
    assert list(alpine_packages(content)) == [
        ("musl", "1.2.5-r0"),
        ("ca-certificates", "20240226-r0"),
    ]


@pytest.mark.parametrize(
    ("folder", "metadata", "told"),
    [
        (
            "x.dist-info",
            b"Metadata-Version: 2.1\nName: Foo_.Bar\nVersion: 1.0rc1\n\nName: no",
            "foo-bar 1.0rc1",
        ),
        ("x.dist-info", b"name: foo\r\nVERSION: 1\r\n\r\nbody", "foo 1"),
        ("jupyter_core-5.7.2.dist-info", b"", "jupyter-core 5.7.2"),
        ("six-1.16.0-py3.11.egg-info", b"", "six 1.16.0"),
        ("six.egg-info", b"", "six "),
        ("six-1.dist-info", b"Name: \x1b[31m\nVersion: 2\n", "six 1"),
        ("x.dist-info", b"Name: foo\nVersion: 1\x07\n", "foo "),
        ("x.dist-info", b"Name: foo\nVersion: " + b"1" * 10_000, "foo "),
        (".dist-info", b"", None),
        ("\udcff.dist-info", b"Name: " + b"a" * 300, None),
        ("..dist-info", b"", None),
    ],
)
def test_python_is_told_by_its_file_or_else_its_name(
    folder: str, metadata: bytes, told: str | None
):
    found = python_package(folder, metadata)
    assert (found and " ".join(found)) == told
