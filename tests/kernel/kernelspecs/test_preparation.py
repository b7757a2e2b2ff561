"""What a preparation asks of the engine, and why it says that it failed."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from cellblock_engine import Digest, Exit, OutOfMemory, TimedOut
from cellblock_kernel import PreparationFailed
from cellblock_kernel.kernelspecs.preparation import prepare

IMAGE = SimpleNamespace(id=Digest.of(b"image"))
TUNNEL = "OSError('Tunnel connection failed: 502 pypi.org cannot be reached: timed out')"
RETRY = f"WARNING: Retrying after connection broken by 'ProxyError('x', {TUNNEL})': /simple/"
NOT_FOUND = "ERROR: No matching distribution found for ipykernel"


class Failing:
    """An engine whose pip ends as told; it notes what it was asked for."""

    def __init__(self, end: Exit, stderr: str = "", missing: dict[str, str] | None = None) -> None:
        self._end, self._stderr, self._missing = end, stderr, missing or {}
        self.removed: list[str] = []

    def derived_image(self, base, recipe):
        return None

    def info(self):
        return SimpleNamespace(missing_limits=self._missing)

    def spawn(self, request):
        self.request = request
        said = (b"", self._stderr.encode(), self._end)
        return nullcontext(
            SimpleNamespace(container=SimpleNamespace(id="c"), communicate=lambda *_, **__: said)
        )

    def container(self, identifier):
        return SimpleNamespace(remove=lambda force: self.removed.append(identifier))


@pytest.fixture(autouse=True)
def pypi(monkeypatch):
    for name in ("INDEX_URL", "EXTRA_INDEX_URL", "NO_INDEX"):
        monkeypatch.delenv(f"PIP_{name}", raising=False)
    monkeypatch.setenv("PIP_INDEX_URL", "https://pypi.org/simple")


def failed(engine) -> str:
    with pytest.raises(PreparationFailed) as raised:
        prepare(engine, IMAGE, "python3", "img:1", lambda step: None)
    assert engine.removed == ["c"]
    return str(raised.value)


def test_it_is_off_line_but_for_the_indexes_and_limited():
    engine = Failing(Exit(1, None))
    failed(engine)
    request = engine.request
    assert (request.network, request.user, request.timeout_s) == ("none", "0", 600)
    assert request.allow_hosts[:2] == ("pypi.org", "files.pythonhosted.org")
    assert (request.limits.memory_bytes, request.limits.pids) == (2 << 30, 512)
    assert not any(bind.writable for bind in request.binds)
    assert all(bind.target.startswith("/dev/.cellblock/") for bind in request.binds)
    engine = Failing(Exit(1, None), missing={"memory": "no controller"})
    failed(engine)
    assert (engine.request.limits.memory_bytes, engine.request.limits.pids) == (None, 512)


@pytest.mark.parametrize(
    ("end", "stderr", "why"),
    [
        (Exit(137, TimedOut(limit_s=600)), "", "timed out: the limit of 600 s passed"),
        (
            Exit(137, OutOfMemory(limit_bytes=2 << 30, peak_bytes=2 << 30, own=True)),
            "",
            "out of memory: the limit of",
        ),
        (Exit(1, None), f"{RETRY}\n{NOT_FOUND}\n", "pypi.org cannot be reached: timed out; see"),
        (Exit(1, None), f"{RETRY}\nERROR: no room\n", "no room; see"),  # it was reached later
        (
            Exit(1, None),
            f"ERROR: Could not install: {TUNNEL}",
            "pypi.org cannot be reached: timed out;",
        ),
        (Exit(1, None), NOT_FOUND, "No matching distribution found for ipykernel; see"),
        (Exit(3, None), "", "exit status 3; see"),
    ],
)
def test_why_it_failed(end, stderr, why):
    line = failed(Failing(end, stderr))
    assert f"cannot be given it: {why}" in line
    assert "--timeout" not in line
    assert "--memory" not in line
    assert line.isprintable()
