"""The config file and the variables that override it."""

from __future__ import annotations

from pathlib import Path

import pytest

from cellblock_engine import Engine, InvalidInput, Settings
from cellblock_engine.settings import _KEYS, SYSTEM_FILE, config_files

ALL = """
[store]
home = "/srv/cellblock"
[run]
network = "host"
memory = "512m"
cpus = 1.5
pids-limit = 64
timeout = "2m"
[kernel]
volumes = ["/data:/data:ro"]
env = ["PROJECT", "A=b"]
[registries]
plain-http = ["registry.lan:5000"]
unverified-tls = ["10.0.0.7:5000"]
mirrors = { "docker.io" = ["mirror.lan:5000", "cache.lan/hub"] }
[registries.token-servers]
"registry.gitlab.com" = ["gitlab.com"]
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "config.toml"


def load(file: Path, **environ: str) -> Settings:
    return Settings.load({"CELLBLOCK_CONFIG": str(file), **environ})


def test_every_key_is_read(file):
    file.write_text(ALL)
    settings = load(file)
    assert settings.home == Path("/srv/cellblock")
    assert (settings.run.network, settings.run.timeout_s) == ("host", 120)
    limits = settings.run.limits
    assert (limits.memory_bytes, limits.cpus, limits.pids) == (512 << 20, 1.5, 64)
    assert (settings.kernel.volumes, settings.kernel.env) == (
        ("/data:/data:ro",),
        ("PROJECT", "A=b"),
    )
    registries = settings.registries
    assert registries.plain_http == {"registry.lan:5000"}
    assert registries.unverified_tls == {"10.0.0.7:5000"}
    assert registries.mirrors == {"docker.io": ("mirror.lan:5000", "cache.lan/hub")}
    assert registries.token_servers == {"registry.gitlab.com": ("gitlab.com",)}


def test_nothing_settled_is_all_defaults(tmp_path):
    assert Settings.load({"HOME": str(tmp_path)}) == Settings()


def test_variables_override_the_file(file):
    file.write_text(ALL)
    settings = load(
        file,
        CELLBLOCK_HOME="/elsewhere",
        CELLBLOCK_RUN_NETWORK="none",
        CELLBLOCK_RUN_MEMORY="64m",
        CELLBLOCK_RUN_CPUS="0.5",
        CELLBLOCK_RUN_PIDS_LIMIT="9",
        CELLBLOCK_RUN_TIMEOUT="",
        CELLBLOCK_KERNEL_VOLUMES="/a:/b, ./c:/c",
        CELLBLOCK_KERNEL_ENV="",
        CELLBLOCK_REGISTRIES_PLAIN_HTTP="",
        CELLBLOCK_REGISTRIES_UNVERIFIED_TLS="a.lan, b.lan:1",
        CELLBLOCK_REGISTRIES_MIRRORS="quay.io=m.lan,index.docker.io=m.lan/hub,quay.io=n.lan",
        CELLBLOCK_REGISTRIES_TOKEN_SERVERS="a.lan=auth.lan",
    )
    assert settings.home == Path("/elsewhere")
    assert (settings.run.network, settings.run.timeout_s) == ("none", 120)
    limits = settings.run.limits
    assert (limits.memory_bytes, limits.cpus, limits.pids) == (64 << 20, 0.5, 9)
    assert (settings.kernel.volumes, settings.kernel.env) == (("/a:/b", "./c:/c"), ())
    registries = settings.registries
    assert registries.plain_http == frozenset()
    assert registries.unverified_tls == {"a.lan", "b.lan:1"}
    assert registries.mirrors == {"quay.io": ("m.lan", "n.lan"), "docker.io": ("m.lan/hub",)}
    assert registries.token_servers == {"a.lan": ("auth.lan",)}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[registries]\nplain_http = []", "unknown key 'registries.plain_http'; did you mean"),
        ("[registry]\n", "unknown key 'registry'; did you mean 'registries'?"),
        ("zzz = 1", "unknown key 'zzz'; known are kernel, registries, run, store"),
        ("run = 1", "run wants a table"),
        ("[run]\nmemory = true", "run.memory wants a size"),
        ("[run]\nmemory = '1k'", "run.memory memory limit 1024 is too small"),
        ("[run]\ncpus = '2'", "run.cpus wants a number"),
        ("[run]\npids-limit = 0", "pids limit 0 is out of range"),
        ("[run]\ntimeout = 'soon'", "run.timeout timeout 'soon' is not a duration"),
        ("[run]\nnetwork = 'lan'", "run.network wants one of none, host"),
        ("[store]\nhome = 'relative'", "store.home wants an absolute path"),
        ("[registries]\nplain-http = 'a.lan'", "wants a list of registries"),
        ("[registries]\nplain-http = ['http://a.lan']", "'http://a.lan' is not a registry"),
        ("[registries]\nplain-http = ['*']", "'*' is not a registry"),
        ("[registries]\nplain-http = [7]", "wants a text"),
        ("[kernel]\nvolumes = '/a:/a'", "kernel.volumes wants a list"),
        ("[registries]\nmirrors = ['a.lan']", "registries.mirrors wants a table"),
        ("[registries]\nmirrors = {'docker.io' = 'a.lan'}", "wants a list for 'docker.io'"),
        ("[registries]\nmirrors = {'docker.io' = ['https://a.lan']}", "wants host:port"),
        ("[registries]\nmirrors = {'docker.io' = ['a.lan/../x']}", "a path that no registry"),
        ("[registries]\nmirrors = {'docker.io' = ['a.lan/x?y']}", "a path that no registry"),
        ("[run", "is not valid TOML"),
        ("a = '" + "\\u0000", "is not valid TOML"),
        ("# " + "x" * 2**20, "is larger than"),
    ],
)
def test_what_is_not_understood_is_one_line(file, text, words):
    file.write_text(text)
    with pytest.raises(InvalidInput) as caught:
        load(file)
    assert str(caught.value).startswith(str(file))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("CELLBLOCK_RUN_CPUS", "many"),
        ("CELLBLOCK_RUN_PIDS_LIMIT", "1.5"),
        ("CELLBLOCK_RUN_NETWORK", "lan"),
        ("CELLBLOCK_REGISTRIES_MIRRORS", "a.lan"),
        ("CELLBLOCK_REGISTRIES_PLAIN_HTTP", "a b"),
    ],
)
def test_a_variable_that_is_not_understood_is_named(variable, text):
    with pytest.raises(InvalidInput, match=f"^{variable} "):
        Settings.load({"HOME": "/nowhere", variable: text})


def test_a_file_that_was_named_has_to_be_there(tmp_path):
    with pytest.raises(InvalidInput, match="does not exist"):
        load(tmp_path / "missing.toml")
    with pytest.raises(InvalidInput, match="cannot be read"):
        load(tmp_path)


def test_where_files_are_looked_for(monkeypatch):
    own = Path("/home/anna/.config/cellblock/config.toml")
    environ = {"HOME": "/home/anna", "XDG_CONFIG_HOME": "relative/is/ignored"}
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert config_files(environ) == (own,)
    assert config_files({"XDG_CONFIG_HOME": "/x"}) == (Path("/x/cellblock/config.toml"),)
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert config_files(environ) == (SYSTEM_FILE, own)


def test_the_users_file_has_the_last_word_key_by_key(tmp_path, monkeypatch):
    system, own = tmp_path / "system.toml", tmp_path / "cellblock" / "config.toml"
    own.parent.mkdir()
    system.write_text("[run]\nmemory = '64m'\ncpus = 1\n")
    own.write_text("[run]\ncpus = 2\n")
    monkeypatch.setattr("cellblock_engine.settings.SYSTEM_FILE", system)
    monkeypatch.setattr("os.geteuid", lambda: 0)
    limits = Settings.load({"XDG_CONFIG_HOME": str(tmp_path)}).run.limits
    assert (limits.memory_bytes, limits.cpus) == (64 << 20, 2)


def test_the_store_is_where_the_file_says(file, tmp_path, monkeypatch):
    file.write_text(f"[store]\nhome = '{tmp_path}/from-file'\n")
    monkeypatch.setenv("CELLBLOCK_CONFIG", str(file))
    monkeypatch.delenv("CELLBLOCK_HOME", raising=False)
    assert Engine.open().info().home == tmp_path / "from-file"
    monkeypatch.setenv("CELLBLOCK_HOME", str(tmp_path / "from-variable"))
    assert Engine.open().info().home == tmp_path / "from-variable"
    assert Engine.open(tmp_path / "from-call").info().home == tmp_path / "from-call"


def test_every_key_and_variable_is_documented():
    page = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text()
    for name, key in _KEYS.items():
        assert f"`{name}`" in page
        assert f"`{key.variable}`" in page
