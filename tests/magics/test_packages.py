"""packages: what it asks of the engine, and what is seen."""

from __future__ import annotations

import json

import pytest

from cellblock import terminal
from cellblock.frames import frame
from cellblock_engine import ContainerNotFound, ImageNotFound, InvalidInput
from magics.test_reading import cells, do
from support.fake_engine import image


def test_packages_are_those_of_an_image(fake):
    assert cells(do(fake, "packages python:3.12-slim")) == [
        ["KIND", "NAME", "VERSION", "PLACE"],
        ["debian", "bash", "5.2", "/var/lib/dpkg/status"],
        ["python", "numpy", "2.0", "/opt/\ufffd[2J/site-packages"],
    ]
    data = frame(do(fake, "packages python:3.12-slim").table)
    assert data[data.kind == "python"].version.tolist() == ["2.0"]
    assert "\x1b" not in data._repr_html_()
    with pytest.raises(ImageNotFound):
        do(fake, "packages nowhere")


def test_packages_of_a_container_are_asked_for_as_such(fake):
    assert cells(do(fake, "packages --container up"))[1:] == [
        ["python", "numpy", "1.26", "/srv/site-packages"]
    ]
    with pytest.raises(ContainerNotFound):
        do(fake, "packages --container python:3.12-slim")


def test_of_two_images_the_difference_is_listed(fake, capfd):
    fake.stored.append(image("debian:12"))
    shown = do(fake, "packages python:3.12-slim debian:12")
    assert cells(shown) == [
        ["CHANGE", "KIND", "NAME", "OLD", "NEW", "PLACE"],
        ["changed", "python", "numpy", "1.26", "2.0", "/srv/site-packages"],
        ["added", "python", "six", "1.16", "/srv/site-packages"],  # nothing is old
    ]
    assert frame(shown.table).old.isna().tolist() == [False, True]
    assert do(fake, "packages debian:12 debian:12").table.rows == ()
    assert terminal.render(do(fake, "packages --json python:3.12-slim debian:12")) == 0
    assert json.loads(capfd.readouterr().out)[1]["new"] == "1.16"


@pytest.mark.parametrize("words", ["a b c", "--container up gone"])
def test_more_names_are_refused(fake, words):
    with pytest.raises(InvalidInput, match="packages takes an image"):
        do(fake, f"packages {words}")


def test_the_name_of_a_container_is_not_taken_for_an_images(fake):
    with pytest.raises(InvalidInput, match="up is a container: give --container as well"):
        do(fake, "packages up")
    with pytest.raises(ImageNotFound):
        do(fake, "packages nope")
