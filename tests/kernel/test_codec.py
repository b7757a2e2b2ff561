"""Variables as bytes: what can travel comes back the same; hostile bytes make nothing."""

from __future__ import annotations

import contextlib
import datetime
import json
import math
import pickle
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellblock_kernel.guest import codec
from cellblock_kernel.guest.codec import CannotTravel, Malformed, dumps, loads

UTC1 = datetime.timezone(datetime.timedelta(hours=1))


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        10**100,
        -0.0,
        math.inf,
        "text \ud800 ü\0",
        b"\0\xff",
        bytearray(b"x"),
        1j,
        [1, [2, (3, {"a": None})]],
        {1: 2, (1, 2): {3}, None: frozenset("a")},
        datetime.date(2026, 1, 2),
        datetime.datetime(2026, 1, 2, 3, 4, 5, 6),
        datetime.datetime(2026, 1, 2, tzinfo=UTC1),
        datetime.timedelta(days=-1, microseconds=5),
    ],
)
def test_plain_values_come_back_the_same(value):
    back = loads(dumps(value))
    assert back == value
    assert type(back) is type(value)


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6).reshape(2, 3),
        np.arange(6).reshape(2, 3).T,
        np.zeros((0, 4), "f4"),
        np.array(5.5),
        np.array(["a", "bcd"]),
        np.array([b"a"]),
        np.array([True, False]),
        np.array(["2026-01-01"], "M8[D]"),
        np.array([1, 2], ">i2"),
        np.array([1j]),
    ],
)
def test_arrays_come_back_the_same_and_writable(array):
    back = loads(dumps(array))
    assert back.dtype == array.dtype
    assert back.shape == array.shape
    assert back.tobytes() == array.tobytes()
    assert back.flags.writeable


@pytest.mark.parametrize("scalar", [np.float32(1.5), np.int8(-3), np.bool_(True), np.str_("x")])
def test_scalars_of_numpy(scalar):
    back = loads(dumps(scalar))
    assert (back, type(back)) == (scalar, type(scalar))


FRAME = pd.DataFrame(
    {
        "int": [1, 2, 3],
        "float": [1.5, np.nan, 3],
        "text": ["a", None, "c"],
        "object": pd.Series([1, "x", None], dtype=object),
        "string": pd.array(["a", None, "c"], dtype="string"),
        "category": pd.Categorical(["lo", "hi", None], ["lo", "hi"], ordered=True),
        "time": pd.to_datetime(["2026-01-01", None, "2026-03-01"]),
        "zoned": pd.to_datetime(["2026-01-01", None, "2026-07-01"]).tz_localize("Europe/Paris"),
        "Int": pd.array([1, None, 3], dtype="Int64"),
        "Float": pd.array([1.5, None, 3], dtype="Float32"),
        "bool": pd.array([True, None, False], dtype="boolean"),
        "delta": pd.to_timedelta(["1s", None, "3D"]),
    }
)


@pytest.mark.parametrize(
    "frame",
    [
        FRAME,
        FRAME.set_index("text"),
        FRAME.set_index(["int", "time"]),
        FRAME.set_index("category"),
        FRAME.groupby("int").agg({"float": ["min", "max"]}),
        FRAME.iloc[:0],
        pd.DataFrame(),
        pd.DataFrame(index=[3, 4]),
        pd.DataFrame([[1, 2]], columns=["same", "same"]),
        pd.DataFrame({"a": [1]}).rename_axis(index="i", columns="c"),
    ],
)
def test_frames_come_back_the_same(frame):
    pd.testing.assert_frame_equal(loads(dumps(frame)), frame)


def test_series_and_frames_inside_containers():
    back = loads(dumps({"f": FRAME, "s": FRAME["float"]}))
    pd.testing.assert_frame_equal(back["f"], FRAME)
    pd.testing.assert_series_equal(back["s"], FRAME["float"])


class Text(str):
    __slots__ = ()


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (object(), "builtins.object"),
        ([lambda: None], "builtins.function"),
        (Text("x"), "Text"),
        (np.array([object()]), "dtype object"),
        (np.zeros(1, [("a", "i4")]), "dtype"),
        (np.ma.array([1]), "MaskedArray"),
        (pd.DataFrame({"a": [object()]}), "builtins.object"),
        (pd.DataFrame({"a": pd.period_range("2026", periods=1, freq="D")}), "dtype period"),
        (pd.Index([1]), "index"),
        pytest.param(10**5000, "digits", id="digits"),
        (sys, "builtins.module"),
    ],
)
def test_what_cannot_travel_says_why(value, why):
    with pytest.raises(CannotTravel, match=why):
        dumps(value)


def test_what_contains_itself_cannot_travel():
    loop: list = []
    loop.append(loop)
    with pytest.raises(CannotTravel, match="contains itself"):
        dumps(loop)


def packed(tree: object, *parts: bytes) -> bytes:
    parts = (json.dumps(tree).encode(), *parts)
    sizes = b"".join(struct.pack("!Q", len(part)) for part in parts)
    return struct.pack("!I", len(parts)) + sizes + b"".join(parts)


class Canary:
    def __reduce__(self):
        return (exec, ("import sys; sys.modules['builtins'].canary_sang = True",))


SONG = pickle.dumps(Canary())


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff" * 20,
        SONG,
        packed({}),
        packed([]),
        packed([1]),
        packed(["os.system", "x"]),
        packed(["__class__"]),
        packed(["b", -1], b"x"),
        packed(["b", 1], b"x"),
        packed(["n", "|O8", [1], 0], SONG[:8]),
        packed(["n", "O", [1], 0], SONG[:8]),
        packed(["n", "i4,O", [1], 0], SONG[:12]),
        packed(["n", "<i8", [1 << 60], 0], b"12345678"),
        packed(["n", "<i8", [-1, -1], 0], b"12345678"),
        packed(["n", "<U0", [1 << 40], 0], b""),
        packed(["n", "<i8", [1.0], 0], b"12345678"),
        packed(["n", "<i8", [1] * 99, 0], b"12345678"),
        packed(["n", "<M8[x]", [1], 0], b"12345678"),
        packed(["d", ["k"]]),
        packed(["d", [["l"], 1]]),
        packed(["date", "now"]),
        packed(["timedelta", 10**30, 0, 0]),
        packed(
            ["df", [["array", ["n", "<i8", [1], 0]]], ["range", 0, 1 << 60, 1, None], []], b"8" * 8
        ),
        packed(["df", [["masked", "eval", 1, 2]], ["range", 0, 1, 1, None], []]),
        packed(["se", ["zoned", ["n", "<M8[s]", [1], 0], "dateutil//etc/passwd"], [], 1], b"0" * 8),
        packed(["se", ["zoned", ["n", "<M8[s]", [1], 0], "../../etc/passwd"], [], 1], b"0" * 8),
        packed(
            ["se", ["category", ["n", "<i8", [1], 0], ["object", "object", ["l"]], 1], [], 1],
            b"8" * 8,
        ),
        b"\0\0\0\1" + b"\0" * 7 + b"\7" + b"[" * 7,
        packed(0)[:-1] + b"[" * 100_000,
    ],
)
@pytest.mark.attack(64)
def test_hostile_bytes_are_malformed(data):
    with pytest.raises(Malformed):
        loads(data)


@pytest.mark.attack(64)
def test_a_canary_proves_that_nothing_is_unpickled():
    import builtins

    exec_works = pickle.loads(SONG)  # the canary can sing
    assert exec_works is None
    assert builtins.__dict__.pop("canary_sang") is True
    for data in (SONG, packed(["b", 0], SONG), packed("x", SONG)):
        with contextlib.suppress(Malformed):
            assert loads(data) in (SONG, "x")
    assert not hasattr(builtins, "canary_sang")
    assert "pickle" not in Path(codec.__file__).read_text().replace("unpickled", "")


@settings(max_examples=200, deadline=None)
@given(
    st.recursive(
        st.none()
        | st.integers()
        | st.text(max_size=8)
        | st.sampled_from(["n", "df", "l", "d", "b"]),
        lambda inner: st.lists(inner, max_size=5),
        max_leaves=15,
    ),
    st.binary(max_size=16),
)
@pytest.mark.attack(64)
def test_any_tree_is_a_value_or_malformed(tree, part):
    with contextlib.suppress(Malformed, CannotTravel):
        loads(packed(tree, part))


def test_other_versions_of_python_read_the_same_bytes(python):
    script = (
        "import sys, importlib.util as u\n"
        f"spec = u.spec_from_file_location('codec', {codec.__file__!r})\n"
        "codec = u.module_from_spec(spec); spec.loader.exec_module(codec)\n"
        "sys.stdout.buffer.write(codec.dumps(codec.loads(sys.stdin.buffer.read())))"
    )
    value = {
        "a": [1, (2, b"x")],
        3: {4},
        "t": datetime.datetime(2026, 1, 2, tzinfo=UTC1),
        "z": None,
    }
    done = subprocess.run(
        [python, "-c", script], input=dumps(value), capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert loads(done.stdout) == value


def test_without_numpy_an_array_is_refused_by_name(tmp_path):
    (tmp_path / "blob").write_bytes(dumps(np.arange(3)))
    script = (
        "import sys; sys.modules['numpy'] = None\n"
        f"sys.path.insert(0, {str(Path(codec.__file__).parent)!r})\n"
        "import codec\n"
    )
    script = script.replace(
        "import codec",
        "import importlib.util as u\n"
        f"s = u.spec_from_file_location('c', {codec.__file__!r}); c = u.module_from_spec(s)\n"
        "s.loader.exec_module(c)\n"
        f"c.loads(open({str(tmp_path / 'blob')!r}, 'rb').read())",
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert "CannotTravel: it is a NumPy array, and there is no numpy to hold it" in done.stderr
