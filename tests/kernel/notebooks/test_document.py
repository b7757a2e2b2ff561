"""The file of a notebook: what is set in it, and what is not touched."""

from __future__ import annotations

import json
import os
import stat

import nbformat
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellblock_engine import Conflict, InvalidInput
from cellblock_kernel.notebooks import document
from cellblock_kernel.notebooks.document import Notebook, Place


def write(path, content):
    with Place.of(path) as place:
        place.write(content)


VALUE = {"lock": {"image": "größe", "n": [1, {}]}}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "n.ipynb"


def text_of(metadata, **dumps):
    found = {"cells": [], "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(found, ensure_ascii=False, **dumps)


def set_in(path, text, key="cellblock", value=VALUE):
    path.write_bytes(text.encode())
    return Notebook.read(path).with_metadata(key, value).decode()


def test_a_notebook_as_nbformat_writes_it_stays_so(path):
    cells = [nbformat.v4.new_code_cell("x = 1.0"), nbformat.v4.new_markdown_cell("ü\n\tb")]
    notebook = nbformat.v4.new_notebook(cells=cells)
    spec = {"name": "k", "display_name": "k"}
    for metadata in (
        {},
        {"a": 1},
        {"a": 1, "kernelspec": spec},
        {"z": 1},
        {"cellblock": {"x": []}},
    ):
        notebook.metadata = nbformat.from_dict(metadata)
        nbformat.write(notebook, path)
        made = Notebook.read(path).with_metadata("cellblock", VALUE)
        notebook.metadata["cellblock"] = VALUE
        nbformat.write(notebook, path)
        assert made == path.read_bytes()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            '{"cells":[],"metadata":{},"nbformat":4}',
            '{"cells":[],"metadata":{"k": 1},"nbformat":4}',
        ),
        (
            '{"cells":[], "metadata" : {"z":1e400, "z":NaN} ,"nbformat":4}\n\n',
            '{"cells":[], "metadata" : {"k": 1, "z":1e400, "z":NaN} ,"nbformat":4}\n\n',
        ),
        (
            '{"metadata":{"k":[9]},"cells":[],"metadata":{"k":[8],"k":{"a":"}"}},"nbformat":4}',
            '{"metadata":{"k":[9]},"cells":[],"metadata":{"k":[8],"k":1},"nbformat":4}',
        ),
        (
            '{\r\n\t"nbformat": 4,\r\n\t"metadata": {},\r\n\t"cells": [],\r\n\t"s": "\\ud800"\r\n}',
            '{\r\n\t"nbformat": 4,\r\n\t"metadata": {\r\n\t\t"k": 1\r\n\t},\r\n\t"cells": [],'
            '\r\n\t"s": "\\ud800"\r\n}',
        ),
        (
            '{\n "cells": [],\n "metadata": {\n  "a": 1\n },\n "nbformat": 4\n}\n',
            '{\n "cells": [],\n "metadata": {\n  "a": 1,\n  "k": 1\n },\n "nbformat": 4\n}\n',
        ),
    ],
)
def test_every_other_byte_is_kept(path, before, after):
    assert set_in(path, before, "k", 1) == after


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@settings(max_examples=30)
@given(
    metadata=st.dictionaries(st.text() | st.just("cellblock"), JSON),
    indent=st.sampled_from([None, 0, 1, 2, "\t"]),
    ascii_=st.booleans(),
)
def test_only_the_value_is_set(tmp_path_factory, metadata, indent, ascii_):
    path = tmp_path_factory.getbasetemp() / "given.ipynb"
    found = {"metadata": metadata, "cells": [{"metadata": {"cellblock": 1}}], "nbformat": 4}
    made = set_in(path, json.dumps(found, indent=indent, ensure_ascii=ascii_))
    assert json.loads(made) == found | {"metadata": metadata | {"cellblock": VALUE}}
    again = set_in(path, made)
    assert again == made


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "Expecting value"),
        (b"\xff", "can't decode"),
        (b"\xef\xbb\xbf{}", "BOM"),
        (b"[1]", "has no cells"),
        (b'{"cells": 1, "metadata": {}, "nbformat": 4}', "has no cells"),
        (b'{"cells": [], "metadata": [], "nbformat": 4}', "has no metadata"),
        (b'{"cells": [], "metadata": {}, "nbformat": 3}', "convert it with jupyter nbconvert"),
        (b'{"cells": [], "metadata": {}, "nbformat": "4"}', "its nbformat is not 4"),
        (b'{"worksheets": [], "metadata": {}, "nbformat": 3}', "has no cells"),
        (b"[" * 200_000, "recursion"),
        (b'{"cells": []}' + b" " * 2000, "is larger than"),
    ],
)
def test_what_is_no_notebook_is_refused_in_one_line(path, content, why, monkeypatch):
    if "larger" in why:
        monkeypatch.setattr(document, "MOST_BYTES", 1000)
    path.write_bytes(content)
    with pytest.raises(InvalidInput, match="is no notebook: ") as refused:
        Notebook.read(path)
    assert why in str(refused.value)
    assert str(refused.value).isprintable()
    assert path.read_bytes() == content


def test_what_is_no_file_is_refused(path):
    with pytest.raises(InvalidInput, match=r"cannot read notebook .*No such file"):
        Notebook.read(path)
    with pytest.raises(InvalidInput, match=r"is no ordinary file|Is a directory"):
        Notebook.read(path.parent)
    os.mkfifo(path)
    with pytest.raises(InvalidInput, match="is no ordinary file"):
        Notebook.read(path)


def test_mode_owner_attributes_and_links_stay(path):
    path.write_text(text_of({}))
    path.chmod(0o640)
    os.setxattr(path, "user.colour", b"blue")
    os.utime(path, (1, 1))
    if os.getuid() == 0:
        os.chown(path, 1234, 4321)
    before = path.stat()
    link = path.with_name("link.ipynb")
    link.symlink_to(path)
    notebook = Notebook.read(link)
    notebook.replace(notebook.with_metadata("k", 1))
    after = path.stat()
    assert link.is_symlink()
    assert (after.st_mode, after.st_uid, after.st_gid) == (
        before.st_mode,
        before.st_uid,
        before.st_gid,
    )
    assert os.getxattr(path, "user.colour") == b"blue"
    assert after.st_mtime > 1
    assert json.loads(path.read_text())["metadata"] == {"k": 1}
    assert sorted(each.name for each in path.parent.iterdir()) == ["link.ipynb", "n.ipynb"]


def test_a_notebook_that_was_saved_meanwhile_is_left_alone(path):
    path.write_text(text_of({}))
    notebook = Notebook.read(path)
    path.write_text(text_of({"saved": 1}))
    with pytest.raises(Conflict, match="was changed meanwhile, and is left alone"):
        notebook.replace(notebook.with_metadata("k", 1))
    assert json.loads(path.read_text())["metadata"] == {"saved": 1}
    path.unlink()
    with pytest.raises(Conflict):
        notebook.replace(b"")
    assert list(path.parent.iterdir()) == []


def test_a_new_file_has_the_mode_of_new_files(path):
    before = os.umask(0o027)
    try:
        write(path, b"x")
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    with pytest.raises(InvalidInput, match="cannot write"):
        write(path / "below", b"x")


def test_nothing_is_left_of_a_write_that_fails(path, monkeypatch):
    path.write_bytes(b"old")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InvalidInput, match=r"cannot write .*: No space left"):
        write(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(path.parent.iterdir()) == [path]


def test_what_is_written_goes_where_it_was_to_go(tmp_path):
    folder, elsewhere = tmp_path / "folder", tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.mkdir()
    (elsewhere / "n.ipynb").write_bytes(b"theirs")
    (elsewhere / "n.ipynb").chmod(0o4777)
    with Place.of(folder / "n.ipynb") as place:
        folder.rename(tmp_path / "moved")
        folder.symlink_to(elsewhere)
        (tmp_path / "moved" / "n.ipynb").symlink_to(elsewhere / "n.ipynb")
        place.write(b"ours")
    made = tmp_path / "moved" / "n.ipynb"
    assert (made.read_bytes(), made.is_symlink()) == (b"ours", False)
    assert not made.stat().st_mode & 0o4111
    assert (elsewhere / "n.ipynb").read_bytes() == b"theirs"
    assert list(elsewhere.iterdir()) == [elsewhere / "n.ipynb"]


@pytest.mark.parametrize("indent", [None, 1])
def test_half_a_character_in_what_is_kept_stays_as_it_was(path, indent):
    text = text_of({}, indent=indent)
    known = {"ours": {"x": "\ud800 größe"}}
    found = set_in(path, text, value=known)
    assert "\\ud800 größe" in found
    assert json.loads(found)["metadata"]["cellblock"] == known


def test_a_link_in_the_place_of_a_result_leads_nowhere(tmp_path):
    (tmp_path / "profile").write_bytes(b"mine")
    (tmp_path / "out.ipynb").symlink_to("profile")
    write(tmp_path / "out.ipynb", b"result")
    assert (tmp_path / "profile").read_bytes() == b"mine"
    assert (tmp_path / "out.ipynb").read_bytes() == b"result"
    assert not (tmp_path / "out.ipynb").is_symlink()
