"""What ELF files need: as binutils say, of files made by hand, and of broken ones."""

from __future__ import annotations

import os
import re
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cellblock_engine.freezing import elf
from support import capabilities
from support.elves import X86_64
from support.elves import elf as made

WHOLE = made("libone.so.1", "libtwo.so", rpath="$ORIGIN/../lib:/opt/lib", interpreter="/lib/ld.so")


def read(content: bytes) -> elf.Elf | None:
    fd = os.memfd_create("elf")
    try:
        os.write(fd, content)
        return elf.read(fd)
    finally:
        os.close(fd)


def test_what_a_file_says_is_read():
    assert read(WHOLE) == elf.Elf(
        elf.Kind(2, 1, X86_64),
        "/lib/ld.so",
        ("libone.so.1", "libtwo.so"),
        ("$ORIGIN/../lib", "/opt/lib"),
        (),
    )
    other = read(made("libone.so.1", runpath="/a::/b"))
    assert other is not None
    assert (other.interpreter, other.rpath, other.runpath) == (None, (), ("/a", "/b"))


def test_binutils_agree_on_real_libraries():
    readelf = capabilities.need_program("readelf")
    import _ssl

    for path in (os.path.realpath(sys.executable), _ssl.__file__, "/bin/sh"):
        said = subprocess.run([readelf, "-dl", path], capture_output=True, text=True, check=True)
        with open(path, "rb") as file:
            found = elf.read(file.fileno())
        assert found is not None
        assert list(found.needed) == re.findall(r"\(NEEDED\).*\[(.*)\]", said.stdout)
        loader = re.findall(r"program interpreter: (.*)\]", said.stdout)
        assert [found.interpreter] == (loader or [None])
    assert "libc.so.6" in found.needed


@pytest.mark.parametrize("length", range(0, len(WHOLE), 7))
def test_a_file_that_is_cut_off_is_none(length):
    assert read(WHOLE[:length]) is None


@given(st.data())
def test_any_bytes_are_a_file_or_none(data):
    broken = bytearray(WHOLE)
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(broken) - 1))
        broken[at] = data.draw(st.integers(0, 255))
    found = read(bytes(broken))
    assert found is None or all("\0" not in name for name in found.needed)


@pytest.mark.parametrize(
    ("at", "value"),
    [
        pytest.param(32, struct.pack("<Q", 2**64 - 1), id="segments beyond all files"),
        pytest.param(56, struct.pack("<H", 0xFFFF), id="65535 segments"),
        pytest.param(64 + 56 + 32, struct.pack("<Q", 2**62), id="a dynamic section of 4 EiB"),
        pytest.param(64 + 56 + 8, struct.pack("<Q", 2**64 - 8), id="one that wraps around"),
        pytest.param(64 + 16, struct.pack("<Q", 2**63), id="strings that are loaded nowhere"),
        pytest.param(5, b"\x03", id="an unknown byte order"),
    ],
)
def test_numbers_are_not_believed(at, value):
    assert read(WHOLE[:at] + value + WHOLE[at + len(value) :]) is None


def test_a_big_endian_word_of_32_bits_is_read_too(tmp_path: Path):
    head = b"\x7fELF" + bytes((1, 2, 1)) + bytes(9)
    head += struct.pack(">HHIIIIIHHHHHH", 2, 8, 1, 0, 52, 0, 0, 52, 32, 1, 0, 0, 0)
    name = b"/lib/ld.so.1\0"
    table = struct.pack(">IIIIIIII", 3, 84, 0, 0, len(name), len(name), 4, 1)
    found = read(head + table + name)
    assert found == elf.Elf(elf.Kind(1, 2, 8), "/lib/ld.so.1", (), (), ())
