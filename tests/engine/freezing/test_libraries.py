"""Libraries are found where the dynamic loader would find them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cellblock_engine.freezing import elf, ldcache
from cellblock_engine.freezing.libraries import Libraries, Places, expanded
from support import capabilities
from support.elves import X86_64, write
from support.elves import elf as made

KIND = elf.Kind(2, 1, X86_64)


def of(path: str) -> elf.Elf:
    with open(path, "rb") as file:
        found = elf.read(file.fileno())
    assert found is not None
    return found


def needed(path: str, *, folders: tuple[Path, ...] = (), always: tuple[str, ...] = ()):
    libraries = Libraries(Places({}, tuple(map(str, folders))), KIND, always)
    libraries.add({path: of(path)})
    return set(libraries.found), libraries.missing


def test_ldd_agrees():
    ldd = capabilities.need_program("ldd")
    import _ssl

    loader = of(os.path.realpath(sys.executable)).interpreter
    assert loader is not None
    places = Places.of(os.path.realpath(loader), "", ldcache.read())
    for path in (os.path.realpath(sys.executable), _ssl.__file__):
        libraries = Libraries(places, of(path).kind)
        libraries.add({path: of(path)})
        done = subprocess.run([ldd, path], capture_output=True, text=True, check=True)
        said = {
            line.split(" => ")[1].split(" (")[0]
            for line in done.stdout.splitlines()
            if "=>" in line
        }
        real = {os.path.realpath(found) for found in libraries.found}
        assert {os.path.realpath(each) for each in said} <= real
        assert libraries.missing == {}


def test_origin_is_where_the_program_is(tmp_path):
    write(tmp_path / "lib/libone.so", made("libtwo.so"))
    write(tmp_path / "lib/libtwo.so", made())
    program = write(tmp_path / "bin/program", made("libone.so", rpath="$ORIGIN/../lib"))
    # libone.so says nothing of libtwo.so's place: the RPATH of what loads it goes on.
    found, missing = needed(program)
    assert found == {str(tmp_path / "lib/libone.so"), str(tmp_path / "lib/libtwo.so")}
    assert missing == {}


def test_a_runpath_is_for_the_program_alone(tmp_path):
    write(tmp_path / "lib/libone.so", made("libtwo.so"))
    write(tmp_path / "lib/libtwo.so", made())
    program = write(tmp_path / "bin/program", made("libone.so", runpath="${ORIGIN}/../lib"))
    found, missing = needed(program)
    assert found == {str(tmp_path / "lib/libone.so")}
    assert missing == {"libtwo.so": str(tmp_path / "lib/libone.so")}
    assert needed(program, folders=(tmp_path / "lib",))[1] == {}


def test_the_interpreters_rpath_serves_what_it_loads(tmp_path):
    write(tmp_path / "lib/libone.so", made())
    module = write(tmp_path / "site/module.so", made("libone.so"))
    assert needed(module)[1] == {"libone.so": module}
    assert needed(module, always=(str(tmp_path / "lib"),))[1] == {}


def test_another_machines_library_is_passed_over(tmp_path):
    write(tmp_path / "a/libone.so", made(machine=183))
    write(tmp_path / "b/libone.so", b"no library at all, but a text that is long enough for one")
    (tmp_path / "c/libone.so").mkdir(parents=True)
    right = write(tmp_path / "d/libone.so", made())
    program = write(tmp_path / "program", made("libone.so"))
    folders = tuple(tmp_path / name for name in "abcd")
    assert needed(program, folders=folders) == ({right}, {})


def test_names_with_a_slash_are_paths(tmp_path):
    one = write(tmp_path / "libone.so", made())
    program = write(tmp_path / "program", made(one, "../libtwo.so", "/etc/passwd"))
    found, missing = needed(program)
    assert found == {one}
    assert set(missing) == {"../libtwo.so", "/etc/passwd"}


def test_libraries_that_need_each_other_end(tmp_path):
    write(tmp_path / "libone.so", made("libtwo.so"))
    write(tmp_path / "libtwo.so", made("libone.so"))
    program = write(tmp_path / "program", made("libone.so"))
    assert len(needed(program, folders=(tmp_path,))[0]) == 2


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        (("$ORIGIN",), ("/opt/bin",)),
        (("${ORIGIN}/../lib", "/x"), ("/opt/lib", "/x")),
        (("lib", "", "$LIB/x", "/a/$PLATFORM"), ()),
    ],
)
def test_variables_of_a_path(written, meant):
    assert expanded(written, "/opt/bin/program") == meant
