"""history, diff, images --tree, df and prune: what they ask of the engine, and what is seen."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest

from cellblock import notebook, terminal
from cellblock.frames import frame
from cellblock.tables import View, text, utc_now
from cellblock.verbs import VERBS
from cellblock.verbs.group import find
from cellblock.verbs.outcome import Acknowledged, Chart, Identifiers, Outcome
from cellblock_engine import Change, ContainerNotFound, Digest, InvalidInput, Unsupported
from magics.test_verbs import Says, call
from support.fake_engine import FakeEngine, image


def do(fake: FakeEngine, line: str, answer: str = "") -> Outcome:
    asked = replace(call(fake, line), asking=Says(answer))
    return find(line.split(), VERBS, prog="cellblock", overview=str).verb.action(asked)


def cells(outcome: Outcome, *, wide: bool = False) -> list[list[str]]:
    lines = text(outcome.table, View(utc_now(), wide=wide)).splitlines()
    return [re.split(r" {2,}", line) for line in lines]


@pytest.fixture(autouse=True)
def kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """No kernelspec of this machine's plays a part."""
    monkeypatch.setattr("cellblock_kernel.installed_kernelspecs", lambda: ())


def test_history_has_a_row_for_each_step(fake):
    titles, newest, oldest = cells(do(fake, "history python:3.12-slim"))
    assert titles == [
        "LAYER",
        "CREATED",
        "CREATED BY",
        "SIZE",
        "FILES",
        "CELLS",
        "PACKAGES",
        "COMMENT",
    ]
    assert (newest[0], *newest[2:]) == ("<none>", 'CMD ["$python$"]', "0B", "2-4", "+six 1.16")
    assert newest[1].endswith(" ago")
    assert oldest[1] == "N/A"
    assert oldest[3:] == ["48MB", "9", "why"]
    assert len(oldest[2]) == 45
    assert "\x1b" not in oldest[2]
    whole = cells(do(fake, "history --no-trunc python:3.12-slim"), wide=True)[2]
    assert whole[0] == str(fake.stored[0].layers[0])
    assert len(whole[2]) > 45
    short = do(fake, "history -q python:3.12-slim")
    assert short == Identifiers((fake.stored[0].layers[0].hex[:12],))


def test_history_keeps_its_types(fake):
    data = frame(do(fake, "history python:3.12-slim").table)
    kinds = {name: str(kind) for name, kind in data.dtypes.items()}
    assert kinds["created"] == "datetime64[us, UTC]"
    assert (kinds["size_bytes"], kinds["files"]) == ("int64", "Int64")
    assert data.diffid.isna().tolist() == [True, False]
    assert data.cells.isna().tolist() == data.packages.isna().tolist() == [False, True]
    assert "48MB" in data._repr_html_()
    assert "\x1b" not in data._repr_html_()
    assert fake.stored[0].layers[0].hex[:12] in repr(data[["diffid"]])


def test_diff_is_of_a_container_or_of_two_images(fake):
    assert cells(do(fake, "diff up")) == [
        ["CHANGE", "KIND", "SIZE", "PATH"],
        ["C", "directory", "0B", "/etc"],
        ["A", "file", "2kB", "/etc/\ufffd[2J$x"],
        ["D", "directory", "4kB", "/usr"],
    ]
    fake.stored.append(image("debian:12"))
    assert do(fake, "diff python:3.12-slim debian:12") == do(fake, "diff up")
    assert do(fake, "diff debian:12 debian:12").table.rows == ()
    data = frame(do(fake, "diff up").table)
    assert data[data.change == "A"].size_bytes.sum() == 2000
    for name in ("nope", "No/Such"):
        with pytest.raises(ContainerNotFound):
            do(fake, f"diff {name}")
    with pytest.raises(InvalidInput, match="debian:12 is an image: diff takes a container, or two"):
        do(fake, "diff debian:12")
    with pytest.raises(InvalidInput, match="a container, or two images"):
        do(fake, "diff a b c")


def test_json_is_of_the_same_rows(fake, capfd):
    assert terminal.render(do(fake, "diff --json up")) == 0
    rows = json.loads(capfd.readouterr().out)
    assert rows[2] == {"change": "D", "path": "/usr", "kind": "directory", "size_bytes": 4000}
    assert terminal.render(do(fake, "history --json python:3.12-slim")) == 0
    assert json.loads(capfd.readouterr().out)[0]["diffid"] is None


def test_plots_are_bars_of_layers_and_a_treemap_of_folders(fake):
    assert do(fake, "diff --plot up") == Chart(
        "Changes in up",
        ("/usr", "/etc"),
        (("added", (0, 2000)), ("changed", (0, 0)), ("deleted", (4000, 0))),
        "treemap",
    )
    chart = do(fake, "history --plot python:3.12-slim")
    assert chart.series == (("size", (48_000_000,)),)
    assert chart.labels[0].startswith("1  RUN make")
    for flag in ("-q", "--json"):
        with pytest.raises(InvalidInput, match="--plot draws"):
            do(fake, f"history --plot {flag} python:3.12-slim")


def test_a_plot_is_a_figure_in_a_notebook_and_refused_elsewhere(fake):
    for line in ("history --plot python:3.12-slim", "diff --plot up"):
        figure = notebook.render(do(fake, line))
        (axes,) = figure.axes
        assert axes.patches
        assert not [words for words in axes.get_yticklabels() if "\x1b" in words.get_text()]
        assert figure._repr_png_().startswith(b"\x89PNG")
        with pytest.raises(InvalidInput, match="draws in a notebook"):
            terminal.render(do(fake, line))


def test_a_treemap_has_areas_of_bytes_and_says_whose(fake, monkeypatch):
    changes = (
        Change("A", "/opt/lib/$big$\x1b", "file", 30_000_000),
        Change("C", "/opt/lib/other", "file", 10_000_000),
        Change("D", "/opt/old", "directory", 20_000_000),
        Change("A", "/srv/tiny", "file", 1),
    )
    monkeypatch.setattr(fake, "diff", lambda name: changes)
    (axes,) = notebook.render(do(fake, "diff --plot up")).axes
    areas = [patch.get_width() * patch.get_height() for patch in axes.patches]
    assert [round(area / sum(areas), 3) for area in areas if area] == [0.5, 0.167, 0.333]
    assert [words.get_text() for words in axes.texts] == ["/opt/lib\n40MB", "/opt/old\n20MB"]
    assert [words.get_text() for words in axes.get_legend().texts] == [
        "added",
        "changed",
        "deleted",
    ]
    monkeypatch.setattr(fake, "diff", lambda name: changes[:0])
    assert notebook.render(do(fake, "diff --plot up"))._repr_png_()


def test_a_plot_without_matplotlib_says_so(fake, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(Unsupported, match="pip install matplotlib"):
        notebook.render(do(fake, "diff --plot up"))


def test_a_tree_has_images_below_those_whose_layers_they_continue(fake):
    base, layer = fake.stored[0], Digest.of(b"layer")
    middle = replace(image("mine/middle:1"), layers=(layer, Digest.of(b"2")))
    top = replace(image("mine/top:1"), layers=(*middle.layers, Digest.of(b"3")))
    other = replace(image("other:1"), layers=(Digest.of(b"other"), Digest.of(b"2")))
    fake.stored += [top, other, middle]
    outcome = do(fake, "images --tree")
    found = [(row.repository, row.depth, row.parent_id) for row in outcome.table.rows]
    assert found == [
        ("other", 0, None),
        ("python", 0, None),
        ("mine/middle", 1, str(base.id)),
        ("mine/top", 2, str(middle.id)),
    ]
    shown = text(outcome.table, View(utc_now())).splitlines()
    assert [line.split("  ")[0] for line in shown[1:4]] == ["other", "python", "└─ mine/middle"]
    assert shown[4].startswith("   └─ mine/top")
    data = frame(outcome.table)
    assert (str(data.depth.dtype), data.parent_id.isna().sum()) == ("int64", 2)
    assert do(fake, "images --tree -q") == do(fake, "images -q")


def test_images_without_a_name_are_listed_when_asked_for(fake):
    assert len(do(fake, "images").table.rows) == 1
    rows = do(fake, "images -a").table.rows
    assert [row.repository for row in rows] == ["python", None]


def test_df_says_what_could_go(fake):
    assert cells(do(fake, "df")) == [
        ["TYPE", "TOTAL", "ACTIVE", "SIZE", "RECLAIMABLE"],
        ["Images", "2", "1", "200kB", "50kB (25%)"],
        ["Containers", "2", "1", "0B", "0B"],
    ]
    assert do(fake, "system df") == do(fake, "df")
    assert frame(do(fake, "df").table).reclaimable_bytes.sum() == 50_000
    assert do(fake, "df --json").style == "json"


@pytest.mark.parametrize(
    ("line", "asked"),
    [
        ("container prune", "prune True None []"),
        ("image prune", "prune False tagged []"),
        ("image prune -a", "prune False used []"),
        ("system prune", "prune True tagged []"),
        ("system prune -a", "prune True used []"),
    ],
)
def test_prune_asks_unless_it_is_told_not_to(fake, line, asked):
    assert do(fake, line, "no") == Acknowledged(("Nothing was removed",))
    assert fake.done == []
    lines = (
        "Deleted container: gone",
        "Untagged: a:1",
        f"Deleted: {Digest.of(b'a')}",
        "Total reclaimed space: 1.5kB",
    )
    assert do(fake, line, "y").lines == lines
    assert do(fake, f"{line} -f").lines == lines
    assert fake.done == [(asked, "False")] * 2


def test_a_dry_run_asks_nobody(fake):
    assert do(fake, "system prune --dry-run").lines == (
        "Would delete container: gone",
        "Would untag: a:1",
        f"Would delete: {Digest.of(b'a')}",
        "Space that would be reclaimed: 1.5kB",
    )
    assert fake.done == [("prune True tagged []", "True")]


def test_images_of_installed_kernels_are_kept(fake, monkeypatch):
    class Spec:
        def __init__(self, digest: str | None) -> None:
            self.digest = digest

    wanted = Digest.of(b"kernel")
    specs = (Spec(str(wanted)), Spec(None), Spec("no digest"))
    monkeypatch.setattr("cellblock_kernel.installed_kernelspecs", lambda: specs)
    do(fake, "image prune -a -f")
    assert fake.done == [(f"prune False used {[wanted]}", "False")]
