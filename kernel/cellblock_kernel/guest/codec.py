"""Variables as bytes, and back: the same text serves the notebook and the inside of a container.

For any Python from 3.8 on; the standard library only, and of NumPy and pandas what the value
itself needs. What decoding can make is the list below and nothing else: no name in the bytes is
ever imported, called, evaluated or unpickled, and nothing is made that is larger than its bytes.

Bytes are a big-endian count, as many 64-bit sizes, and as many parts. The first part is a tree in
JSON; the others are the raw data of arrays and bytes, referred to by number. In the tree None,
booleans, numbers and text stand for themselves, and a list is a tag and its arguments::

    ["l", ...] list  ["t", ...] tuple  ["s", ...] set  ["f", ...] frozenset  ["d", [k, v], ...] dict
    ["b", PART] bytes  ["ba", PART] bytearray  ["c", re, im] complex
    ["date"|"datetime", ISO]  ["timedelta", days, seconds, microseconds]  ["NA"]  ["NaT"]
    ["n", DTYPE, SHAPE, PART] array  ["n0", DTYPE, PART] scalar of NumPy
    ["df", COLUMNS, INDEX, HEAD] DataFrame  ["se", COLUMN, INDEX, NAME] Series

A COLUMN is [KIND, ...] of :class:`Frames`; INDEX and HEAD are ["range", start, stop, step, NAME],
["flat", COLUMN, NAME] or ["multi", [COLUMN, ...], [NAME, ...]].
"""

# ruff: noqa: ANN401 -- a variable can be anything

from __future__ import annotations

import datetime
import json
import re
import struct
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

COUNT, SIZE = struct.Struct("!I"), struct.Struct("!Q")
MAX_PARTS = 1 << 20
PLAIN = {type(None), bool, int, float, str}
CONTAINERS: dict[type, str] = {list: "l", tuple: "t", set: "s", frozenset: "f"}
MAKERS: dict[str, Callable[[Any], Any]] = {"l": list, "t": tuple, "s": set, "f": frozenset}
DTYPE = re.compile(r"[<>|=](?:[biufcSUmM][1-9][0-9]{0,9}|m8\[\w{1,9}\]|M8\[\w{1,9}\])", re.ASCII)
ZONE = re.compile(r"[A-Za-z][A-Za-z0-9_+-]*(?:/[A-Za-z][A-Za-z0-9_+-]*){0,2}", re.ASCII)
OFFSET = re.compile(r"UTC([+-])(\d\d):(\d\d)", re.ASCII)
MASKED = re.compile(r"(?:U?Int(?:8|16|32|64)|Float(?:32|64)|boolean)\Z")
UNITS = ("s", "ms", "us", "ns")
CAN = (
    "None, booleans, numbers, text, bytes, dates, containers of these, NumPy arrays and DataFrames"
)


class CannotTravel(ValueError):
    """A value that has no safe form; the message says why, in a few words."""


class Malformed(ValueError):
    """Bytes that are no variable."""


def dumps(value: Any) -> bytes:
    """Return ``value`` as bytes. Raises CannotTravel."""
    parts: list[bytes] = []
    try:
        tree = json.dumps(Encoder(parts).tree(value), separators=(",", ":")).encode("ascii")
    except RecursionError:
        raise CannotTravel("it contains itself or is nested too deeply") from None
    except ValueError as error:  # an integer of thousands of digits
        raise error if isinstance(error, CannotTravel) else CannotTravel(str(error)) from None
    parts.insert(0, tree)
    if len(parts) > MAX_PARTS:
        raise CannotTravel(f"it has more than {MAX_PARTS} arrays and byte strings")
    sizes = (SIZE.pack(len(part)) for part in parts)
    return b"".join((COUNT.pack(len(parts)), *sizes, *parts))


def loads(data: bytes) -> Any:
    """Return the value in ``data``. Raises Malformed, and CannotTravel for want of a package."""
    try:
        parts = split(data)
        return Decoder(parts[1:]).value(json.loads(parts[0]))
    except (CannotTravel, Malformed):
        raise
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError) as error:
        raise Malformed(f"{type(error).__name__}: {error}") from None
    except (struct.error, RuntimeError, MemoryError, OSError, AssertionError) as error:
        raise Malformed(type(error).__name__) from None


def split(data: bytes) -> list[bytes]:
    """Return the parts."""
    (count,) = COUNT.unpack_from(data)
    start = COUNT.size + count * SIZE.size
    if not 0 < count <= MAX_PARTS or start > len(data):
        raise Malformed("the count of parts is wrong")
    parts = []
    for number in range(count):
        (size,) = SIZE.unpack_from(data, COUNT.size + number * SIZE.size)
        if size > len(data) - start:
            raise Malformed("a part is longer than the whole")
        parts.append(data[start : start + size])
        start += size
    if start != len(data):
        raise Malformed("bytes follow the last part")
    return parts


class Encoder:
    """Makes trees; the raw data goes to ``parts``."""

    def __init__(self, parts: list[bytes]) -> None:
        self.parts = parts

    def tree(self, value: Any) -> Any:
        """Return the tree of a value. Subclasses are refused: they would come back as less."""
        kind = type(value)
        if kind in PLAIN:
            return value
        if kind in CONTAINERS:
            if set(map(type, value)) <= PLAIN:
                return [CONTAINERS[kind], *value]
            return [CONTAINERS[kind], *map(self.tree, value)]
        if kind is dict:
            return ["d", *([self.tree(key), self.tree(each)] for key, each in value.items())]
        return self.leaf(value) or self.of_numpy(value) or self.of_pandas(value)

    def part(self, raw: bytes) -> int:
        """Keep raw data and return its number."""
        self.parts.append(raw)
        return len(self.parts) - 1

    def leaf(self, value: Any) -> list[Any] | None:
        """Return the tree of bytes, a complex number or a date. Of time zones, offsets travel."""
        kind = type(value)
        if kind in (bytes, bytearray):
            return ["b" if kind is bytes else "ba", self.part(bytes(value))]
        if kind is complex:
            return ["c", value.real, value.imag]
        if kind is datetime.date:
            return ["date", value.isoformat()]
        if kind is datetime.datetime:
            if type(value.tzinfo) not in (type(None), datetime.timezone):
                raise CannotTravel(f"it is a datetime of the zone {value.tzinfo}; use an offset")
            return ["datetime", value.isoformat()]
        if kind is datetime.timedelta:
            return ["timedelta", value.days, value.seconds, value.microseconds]
        return None

    def of_numpy(self, value: Any) -> list[Any] | None:
        """Return an array's or a NumPy scalar's tree."""
        numpy = sys.modules.get("numpy")
        if numpy is None:
            return None
        if type(value) is numpy.ndarray:
            return ["n", self.dtype(value.dtype), list(value.shape), self.part(value.tobytes())]
        if isinstance(value, numpy.generic):
            return ["n0", self.dtype(value.dtype), self.part(value.tobytes())]
        return None

    def dtype(self, dtype: Any) -> str:
        """Return what names a dtype of plain memory."""
        name: str = dtype.str
        if dtype.names is not None or dtype.subdtype is not None or not DTYPE.fullmatch(name):
            raise CannotTravel(
                f"it is an array of dtype {dtype}; numbers, booleans, times and text of a fixed "
                "width can travel"
            )
        return name

    def of_pandas(self, value: Any) -> list[Any]:
        """Return a DataFrame's or Series' tree. Raises CannotTravel for all that is left."""
        pandas = sys.modules.get("pandas")
        kind = type(value)
        if pandas is not None:
            if value is getattr(pandas, "NA", pandas):
                return ["NA"]
            if value is pandas.NaT:
                return ["NaT"]
            if kind is pandas.DataFrame:
                columns = [self.column(value.iloc[:, n]) for n in range(value.shape[1])]
                return ["df", columns, self.index(value.index), self.index(value.columns)]
            if kind is pandas.Series:
                name = self.tree(value.name)
                return ["se", self.column(value), self.index(value.index), name]
            if isinstance(value, pandas.Index):
                raise CannotTravel("it is an index; its .to_frame() can travel")
        raise CannotTravel(f"it is a {kind.__module__}.{kind.__qualname__}; what can: {CAN}")

    def index(self, index: Any) -> list[Any]:
        """Return the tree of an index."""
        pandas = sys.modules["pandas"]
        if type(index) is pandas.RangeIndex:
            return ["range", index.start, index.stop, index.step, self.tree(index.name)]
        if isinstance(index, pandas.MultiIndex):
            levels = [index.get_level_values(n) for n in range(index.nlevels)]
            columns = [self.column(level.to_series()) for level in levels]
            return ["multi", columns, [self.tree(name) for name in index.names]]
        return ["flat", self.column(index.to_series()), self.tree(index.name)]

    def column(self, series: Any) -> list[Any]:
        """Return the tree of a column (a Series)."""
        pandas, numpy = sys.modules["pandas"], sys.modules["numpy"]
        dtype, name = series.dtype, str(series.dtype)
        if isinstance(dtype, numpy.dtype) and name != "object":
            return ["array", self.tree(numpy.ascontiguousarray(series.to_numpy()))]
        if name in ("object", "str", "string"):
            missing = series.isna().tolist() if name != "object" else [False] * len(series)
            values = [None if gone else each for each, gone in zip(series.tolist(), missing)]  # noqa: B905 -- not in Python 3.8
            return ["object" if name == "object" else "text", name, self.tree(values)]
        if isinstance(dtype, pandas.CategoricalDtype):
            codes = numpy.asarray(series.cat.codes).astype("int64")
            categories = self.column(series.cat.categories.to_series())
            return ["category", self.tree(codes), categories, bool(series.cat.ordered)]
        if isinstance(dtype, pandas.DatetimeTZDtype):
            zone = str(dtype.tz)
            if not ZONE.fullmatch(zone) and not OFFSET.fullmatch(zone):
                raise CannotTravel(f"it has a column of the time zone {zone!r}")
            plain = series.dt.tz_convert("UTC").dt.tz_localize(None).to_numpy()
            return ["zoned", self.tree(numpy.ascontiguousarray(plain)), zone]
        if MASKED.match(name):
            plain_name = "bool" if name == "boolean" else name.lower()
            mask = series.isna().to_numpy()
            values = series.to_numpy(dtype=plain_name, na_value=False)
            return ["masked", name, self.tree(values), self.tree(mask)]
        raise CannotTravel(f"it has a column of dtype {name}")


class Decoder:
    """Makes values of trees that are not trusted."""

    def __init__(self, parts: list[bytes]) -> None:
        self.parts = parts

    def value(self, tree: Any) -> Any:
        """Return the value of a tree."""
        if type(tree) is not list:
            if type(tree) in PLAIN:
                return tree
            raise Malformed("an object where a list belongs")
        tag, rest = tree[0], tree[1:]
        if type(tag) is not str:
            raise Malformed("a list without a tag")
        if tag in MAKERS:
            return MAKERS[tag](each if type(each) in PLAIN else self.value(each) for each in rest)
        if tag == "d":
            return {self.value(key): self.value(each) for key, each in rest}
        if tag in ("df", "se", "NA", "NaT"):
            return self.of_pandas(tag, rest)
        make = {
            "b": self.part,
            "ba": lambda part: bytearray(self.part(part)),
            "c": complex,
            "n": self.array,
            "n0": lambda dtype, part: self.array(dtype, [], part)[()],
            "date": datetime.date.fromisoformat,
            "datetime": datetime.datetime.fromisoformat,
            "timedelta": datetime.timedelta,
        }.get(tag)
        if make is None:
            raise Malformed(f"an unknown tag {tag[:40]!r}")
        return make(*rest)  # type: ignore[operator]

    def part(self, number: Any) -> bytes:
        """Return a part's raw data."""
        if type(number) is not int or number < 0:
            raise Malformed("a part without a number")
        return self.parts[number]

    def array(self, dtype: Any, shape: Any, part: Any) -> Any:
        """Return an array of exactly the bytes there are."""
        numpy = package("numpy", "a NumPy array")
        if type(dtype) is not str or not DTYPE.fullmatch(dtype):
            raise Malformed("an array of an unknown dtype")
        if any(type(side) is not int or side < 0 for side in shape):
            raise Malformed("an array without a shape")
        kind, raw = numpy.dtype(dtype), self.part(part)
        count = 1
        for side in shape:
            count *= side
        if count * kind.itemsize != len(raw):
            raise Malformed("an array's shape is not that of its data")
        return numpy.frombuffer(raw, kind).reshape(shape).copy()

    def of_pandas(self, tag: str, rest: list[Any]) -> Any:
        """Return what pandas makes of columns."""
        pandas = package("pandas", "a DataFrame")
        if tag in ("NA", "NaT"):
            return getattr(pandas, tag)
        columns, index, head = rest
        if tag == "se":
            series = self.column(pandas, columns)
            series.index, series.name = self.index(pandas, index), self.value(head)
            return series
        made = {number: self.column(pandas, column) for number, column in enumerate(columns)}
        rows = self.index(pandas, index)
        if any(len(column) != len(rows) for column in made.values()):
            raise Malformed("columns of different lengths")
        frame = pandas.DataFrame(made) if made else pandas.DataFrame(index=rows)
        frame.index, frame.columns = rows, self.index(pandas, head)
        return frame

    def index(self, pandas: Any, tree: Any) -> Any:
        """Return an index."""
        kind, *rest = tree
        if kind == "range":
            start, stop, step, name = rest
            if not {type(start), type(stop), type(step)} == {int}:
                raise Malformed("a range without numbers")
            return pandas.RangeIndex(start, stop, step, name=self.value(name))
        if kind == "multi":
            columns, names = rest
            levels = [self.column(pandas, column) for column in columns]
            return pandas.MultiIndex.from_arrays(levels, names=list(map(self.value, names)))
        column, name = rest
        series = self.column(pandas, column)
        dtype = object if series.dtype == object else None  # Index() would guess again
        return pandas.Index(series, name=self.value(name), dtype=dtype)

    def column(self, pandas: Any, tree: Any) -> Any:
        """Return a column as a Series."""
        kind, *rest = tree
        if kind == "array":
            return pandas.Series(self.value(rest[0]))
        if kind == "object":
            return pandas.Series(self.value(rest[1]), dtype=object)
        if kind == "text":
            # before pandas 3, "str" means object and turns None into text
            name = "string" if rest[0] == "string" else "str"
            old = int(pandas.__version__.split(".")[0]) < 3
            return pandas.Series(
                self.value(rest[1]), dtype=object if old and name == "str" else name
            )
        if kind == "category":
            codes, categories, ordered = rest
            known = self.index(pandas, ["flat", categories, None])
            codes = self.value(codes)
            made = pandas.Categorical.from_codes(codes, known, ordered=ordered is True)
            return pandas.Series(made)
        if kind == "zoned":
            plain = pandas.Series(self.value(rest[0]))
            return plain.dt.tz_localize("UTC").dt.tz_convert(zone_of(rest[1]))
        if kind == "masked" and MASKED.match(rest[0]):
            values, mask = self.value(rest[1]), self.value(rest[2])
            names = {"b": "BooleanArray", "f": "FloatingArray"}
            array = getattr(pandas.arrays, names.get(values.dtype.kind, "IntegerArray"))
            return pandas.Series(array(values, mask))
        raise Malformed("a column of an unknown kind")


def zone_of(name: Any) -> Any:
    """Return a time zone by its name in the time zone database, or its offset."""
    offset = OFFSET.fullmatch(name)
    if offset is not None:
        minutes = int(offset[2]) * 60 + int(offset[3])
        delta = datetime.timedelta(minutes=-minutes if offset[1] == "-" else minutes)
        return datetime.timezone(delta)
    if not ZONE.fullmatch(name):
        raise Malformed("a time zone without a name")
    try:
        import zoneinfo  # noqa: PLC0415 -- not in Python 3.8
    except ImportError:
        return name
    return zoneinfo.ZoneInfo(name)


def package(name: str, what: str) -> Any:
    """Return NumPy or pandas, whose name is ours, never one from the bytes."""
    try:
        if name == "numpy":
            import numpy  # noqa: F401, PLC0415
        else:
            import pandas  # noqa: F401, PLC0415
    except ImportError:
        raise CannotTravel(f"it is {what}, and there is no {name} to hold it") from None
    return sys.modules[name]
