"""Changes summed up by folder, for a treemap."""

from __future__ import annotations

from cellblock.verbs.folders import by_folder
from cellblock_engine import Change


def added(*sizes: tuple[str, int]) -> list[Change]:
    return [Change("A", path, "file", size_bytes) for path, size_bytes in sizes]


def totals(changes: list[Change]) -> dict[str, int]:
    return {folder: sums.total() for folder, sums in by_folder(changes).items()}


def test_folders_are_looked_into_and_the_rest_of_one_stands_beside():
    found = totals(added(("/usr/lib/a/1", 5), ("/usr/lib/b/1", 9), ("/usr/lib/2", 1), ("/3", 2)))
    assert found == {"/usr/lib/b": 9, "/usr/lib/a": 5, "/": 2, "/usr/lib": 1}
    assert list(found.values()) == sorted(found.values(), reverse=True)


def test_of_too_many_folders_the_largest_stand_for_themselves():
    crowd = added(*((f"/home/{number}/file", 100 + number) for number in range(100)))
    found = totals(crowd + added(("/opt/a/1", 3), ("/opt/b/1", 4)))
    assert list(found)[:3] == ["/home", "/home/99", "/home/98"]
    assert (len(found), sum(found.values())) == (23, 100 * 100 + 99 * 50 + 7)
    assert (found["/opt/a"], found["/opt/b"]) == (3, 4)
    deep = added(*((f"/{'abcdefgh'[n % 8]}/{n}/{k}/f", 1) for n in range(80) for k in range(9)))
    assert len(totals(deep)) <= 40
    assert sum(totals(deep).values()) == 720


def test_a_deleted_folder_is_itself_and_what_has_no_bytes_is_not_there():
    deleted = Change("D", "/usr/share/doc", "directory", 70)
    changed = Change("C", "/usr/share", "directory", 0)
    found = by_folder([changed, deleted, *added(("/usr/share/doc2/1", 5))])
    assert {folder: dict(sums) for folder, sums in found.items()} == {
        "/usr/share/doc": {"D": 70},
        "/usr/share/doc2": {"A": 5},
    }
    assert by_folder([changed]) == {}
