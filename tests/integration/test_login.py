"""A real docker-registry that wants a password: login, pull, run, logout."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from cellblock_engine import AccessDenied, Engine, InvalidInput, InvalidReference
from support import capabilities
from support.layouts import LayoutWriter, small_tar
from support.registry import Registry, serving

LOGIN = "anna:pa:ss wört"
NAME, _, PASSWORD = LOGIN.partition(":")


@pytest.fixture(scope="module")
def private(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Registry, str]]:
    """A registry for one user only, and the reference of an image in it."""
    for program in ("docker-registry", "skopeo", "htpasswd"):
        capabilities.need_program(program)
    directory = tmp_path_factory.mktemp("private")
    writer = LayoutWriter(directory / "layout")
    writer.image([writer.layer(small_tar(directory / "t.tar", {"f": b"1"}))])
    with serving(directory / "registry", LOGIN) as registry:
        yield registry, registry.push(writer.directory, "secret")


@pytest.fixture(autouse=True)
def docker_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    return tmp_path / "docker" / "config.json"


def test_login_pull_logout(engine: Engine, private: tuple[Registry, str], docker_config: Path):
    registry, reference = private
    with pytest.raises(AccessDenied, match=f"log in to {registry.host} first"):
        engine.pull(reference)
    with pytest.raises(AccessDenied, match="check user name and password"):
        engine.login(registry.host, NAME, "wrong")
    assert not docker_config.exists()
    assert str(docker_config) in engine.login(registry.host, NAME, PASSWORD)
    assert engine.pull(reference).references
    assert engine.logout(registry.host)
    assert not engine.logout(registry.host)
    with pytest.raises(AccessDenied):
        engine.pull(reference)


def test_docker_and_we_read_the_same_file(
    engine: Engine, private: tuple[Registry, str], docker_config: Path
):
    import subprocess

    registry, reference = private
    argv = ["skopeo", "inspect", "--tls-verify=false", "--authfile", str(docker_config)]
    engine.login(registry.host, NAME, PASSWORD)
    ours = subprocess.run([*argv, f"docker://{reference}"], capture_output=True, check=False)
    assert ours.returncode == 0, ours.stderr
    engine.logout(registry.host)
    argv = ["skopeo", "login", "--tls-verify=false", "--authfile", str(docker_config)]
    argv += ["--username", NAME, "--password-stdin", registry.host]
    subprocess.run(argv, input=PASSWORD.encode(), capture_output=True, check=True)
    assert engine.pull(reference).references


@pytest.mark.parametrize(
    ("registry", "name", "password", "kind"),
    [
        ("reg lan", "anna", "x", InvalidReference),
        ("lan", "anna", "x", InvalidReference),
        ("reg.lan", "", "x", InvalidInput),
        ("reg.lan", "anna", "", InvalidInput),
        ("reg.lan", "an:na", "x", InvalidInput),
        ("reg.lan", "anna", "x\ny", InvalidInput),
        ("reg.lan", "anna", "x" * 20000, InvalidInput),
    ],
)
def test_what_cannot_be_meant_is_not_sent(engine: Engine, registry, name, password, kind):
    with pytest.raises(kind) as caught:
        engine.login(registry, name, password)
    assert len(password) < 5 or password not in str(caught.value)


def test_command_line(cellblock, private: tuple[Registry, str], tmp_path: Path, docker_config):
    registry, reference = private
    home = tmp_path / "store"
    denied = cellblock("pull", reference, home=home)
    assert denied.returncode == 125
    assert denied.stderr.splitlines()[-1].startswith("cellblock: access to secret on")
    login = ["login", "-u", NAME, "--password-stdin", f"http://{registry.host}/v2/"]
    wrong = cellblock(*login, stdin="wrong\n", home=home)
    assert wrong.returncode == 125
    assert "check user name and password" in wrong.stderr
    done = cellblock(*login, stdin=PASSWORD + "\n", home=home)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"Login Succeeded: {NAME} on {registry.host}")
    assert PASSWORD not in done.stdout
    assert list(json.loads(docker_config.read_text())["auths"]) == [registry.host]
    assert cellblock("pull", reference, home=home).returncode == 0
    out = cellblock("logout", registry.host, home=home)
    assert out.stdout == f"Removed the login credentials for {registry.host}\n"
    assert cellblock("logout", registry.host).stdout == f"Not logged in to {registry.host}\n"


def test_a_token_server(engine: Engine, docker_config: Path):
    from cellblock_engine.registry.auth import Credentials
    from support import fakeregistry

    anna = Credentials(NAME, PASSWORD)
    with fakeregistry.serving() as fake:
        image = fakeregistry.an_image()
        reference = fake.serve(image)
        tokens = fakeregistry.demand_tokens(fake, {anna.header})
        with pytest.raises(AccessDenied, match="answered 401"):
            engine.login(fake.host, NAME, "wrong")
        with pytest.raises(AccessDenied, match="answered 401"):
            engine.pull(reference)
        engine.login(fake.host, NAME, PASSWORD)
        assert "scope" not in tokens[-1]
        assert engine.pull(reference).references
        assert tokens[-1]["scope"] == ["repository:img:pull"]
        assert tokens[-1]["account"] == [NAME]
