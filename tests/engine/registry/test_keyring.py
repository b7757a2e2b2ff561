"""Docker's config.json and its credential helpers, honest and hostile."""

from __future__ import annotations

import base64
import json
import os
import stat
import threading
import time

import pytest

from cellblock_engine.errors import AccessDenied, CellblockError, InvalidInput
from cellblock_engine.registry.auth import Credentials
from cellblock_engine.registry.keyring import Keyring

ANNA = Credentials("anna", "pa:ss wört")
HUB = "https://index.docker.io/v1/"

# Keeps everything in one JSON file beside itself, as its protocol has it.
HELPER = """#!/usr/bin/env python3
import json, pathlib, sys
book = pathlib.Path(__file__).with_suffix(".json")
known = json.loads(book.read_text()) if book.exists() else {}
verb, question = sys.argv[1], sys.stdin.read()
if verb == "store":
    known[json.loads(question)["ServerURL"]] = json.loads(question)
elif question not in known:
    print("credentials not found in native keychain")
    sys.exit(1)
elif verb == "erase":
    del known[question]
else:
    print(json.dumps(known[question]))
book.write_text(json.dumps(known))
"""


def coded(text: str) -> dict[str, str]:
    return {"auth": base64.b64encode(text.encode()).decode()}


@pytest.fixture
def programs(tmp_path):
    directory = tmp_path / "bin"
    directory.mkdir()
    return directory


@pytest.fixture
def keyring(tmp_path, programs):
    path = f"{programs}:{os.environ['PATH']}"
    return Keyring(tmp_path / "docker" / "config.json", {"PATH": path}, helper_timeout_s=20)


def write(keyring, config) -> None:
    keyring.path.parent.mkdir(exist_ok=True)
    text = config if isinstance(config, str) else json.dumps(config)
    keyring.path.write_text(text)


def read(keyring):
    return json.loads(keyring.path.read_text())


def helper(programs, name: str, script: str) -> None:
    program = programs / f"docker-credential-{name}"
    program.write_text(script)
    program.chmod(0o755)


@pytest.mark.parametrize(
    ("registry", "entry"),
    [
        ("reg.lan:5000", {"reg.lan:5000": coded("anna:pa:ss wört")}),
        ("reg.lan:5000", {"https://reg.lan:5000/v1/": coded("anna:pa:ss wört")}),
        ("reg.lan:5000", {"reg.lan:5000": {"username": "anna", "password": "pa:ss wört"}}),
        ("docker.io", {HUB: coded("anna:pa:ss wört")}),
        ("docker.io", {"docker.io": coded("anna:pa:ss wört")}),
        ("docker.io", {"index.docker.io": coded("anna:pa:ss wört")}),
    ],
)
def test_what_docker_wrote_is_found(keyring, registry, entry):
    write(keyring, {"auths": entry})
    assert keyring.find(registry) == ANNA
    for other in ("reg.lan", "lan:5000", "quay.io", "localhost:5000"):
        assert keyring.find(other) is None


def test_nobody_is_found_where_nothing_is(keyring):
    assert keyring.find("reg.lan") is None
    assert not keyring.path.exists()
    write(keyring, {"auths": {"reg.lan": {}}})
    assert keyring.find("reg.lan") is None


@pytest.mark.parametrize(
    "config",
    [
        "{",
        "[]",
        "\0",
        "{" * 100_000,
        '{"auths": []}',
        '{"auths": {"reg.lan": 7}}',
        '{"auths": {"reg.lan": {"auth": "!!"}}}',
        '{"auths": {"reg.lan": {"auth": "bm9jb2xvbg=="}}}',
        '{"auths": {"reg.lan": {"identitytoken": 7}}}',
        '{"credHelpers": {"reg.lan": "../../bin/sh"}}',
        '{"credsStore": "a/b"}',
        '{"credsStore": 7}',
        '"' + "x" * 2**20 + '"',
    ],
)
def test_a_file_of_no_use_is_said_so_and_never_overwritten(keyring, config):
    write(keyring, config)
    with pytest.raises(InvalidInput) as caught:
        keyring.find("reg.lan")
    assert str(keyring.path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("config", ["{", "[]", '{"auths": []}', '{"credsStore": "a/b"}'])
def test_a_damaged_file_is_not_replaced(keyring, config):
    write(keyring, config)
    with pytest.raises(InvalidInput):
        keyring.store("reg.lan", ANNA)
    with pytest.raises(InvalidInput):
        keyring.erase("reg.lan")
    assert keyring.path.read_text() == config


def test_what_is_stored_is_found_private_and_leaves_the_rest_alone(keyring):
    write(keyring, {"HttpHeaders": {"X": "1"}, "auths": {"quay.io": coded("a:b")}, "psFormat": "x"})
    keyring.path.chmod(0o644)
    where = keyring.store("reg.lan:5000", ANNA)
    assert str(keyring.path) in where
    assert ANNA.password not in where
    assert keyring.find("reg.lan:5000") == ANNA
    assert keyring.find("quay.io") == Credentials("a", "b")
    assert (read(keyring)["HttpHeaders"], read(keyring)["psFormat"]) == ({"X": "1"}, "x")
    assert stat.S_IMODE(keyring.path.stat().st_mode) == 0o600
    assert [path.name for path in keyring.path.parent.iterdir()] == ["config.json"]
    assert keyring.erase("reg.lan:5000") == "erased"
    assert keyring.erase("reg.lan:5000") == "absent"
    assert keyring.find("reg.lan:5000") is None
    assert list(read(keyring)["auths"]) == ["quay.io"]


def test_a_first_login_makes_the_file(keyring):
    keyring.store("docker.io", ANNA)
    assert list(read(keyring)["auths"]) == [HUB]
    assert stat.S_IMODE(keyring.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(keyring.path.parent.stat().st_mode) == 0o700


def test_a_link_stays_a_link(keyring, tmp_path):
    write(keyring, {})
    real = tmp_path / "real.json"
    keyring.path.rename(real)
    keyring.path.symlink_to(real)
    keyring.store("reg.lan", ANNA)
    assert keyring.path.is_symlink()
    assert "reg.lan" in real.read_text()


def test_many_at_once_lose_nothing(keyring):
    names = [f"reg{n}.lan" for n in range(12)]
    threads = [threading.Thread(target=keyring.store, args=(name, ANNA)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(read(keyring)["auths"]) == sorted(names)


@pytest.mark.parametrize("config", [{"credsStore": "box"}, {"credHelpers": {"reg.lan": "box"}}])
def test_a_helper_keeps_gives_and_forgets(keyring, programs, config):
    helper(programs, "box", HELPER)
    write(keyring, config)
    assert keyring.find("reg.lan") is None
    assert keyring.store("reg.lan", ANNA) == "kept by docker-credential-box"
    assert keyring.find("reg.lan") == ANNA
    assert read(keyring)["auths"] == {"reg.lan": {}}
    assert ANNA.password not in keyring.path.read_text()
    assert keyring.erase("reg.lan") == "erased"
    assert keyring.find("reg.lan") is None
    assert keyring.erase("reg.lan") == "absent"


def test_the_hub_has_its_own_name_with_helpers(keyring, programs):
    helper(programs, "box", HELPER)
    write(keyring, {"credHelpers": {HUB: "box"}})
    keyring.store("docker.io", ANNA)
    assert HUB in (programs / "docker-credential-box.json").read_text()
    assert keyring.find("docker.io") == ANNA


def test_identity_tokens_are_told_from_passwords(keyring, programs):
    write(keyring, {"auths": {"reg.lan": {**coded("00000000:"), "identitytoken": "long"}}})
    assert keyring.find("reg.lan") == Credentials("<token>", "long", "identity")
    helper(programs, "acr", '#!/bin/sh\necho \'{"Username": "<token>", "Secret": "x"}\'')
    write(keyring, {"credsStore": "acr"})
    assert keyring.find("reg.lan") == Credentials("<token>", "x", "identity")


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (None, "docker-credential-bad is not on PATH"),
        ("not a program", "docker-credential-bad"),
        ("#!/bin/sh\necho 'no way\x1b[31m'; exit 3", "failed to get"),
        ("#!/bin/sh\necho locked; exit 1", "failed to get: locked"),
        ("#!/bin/sh\nexit 0", "not valid JSON"),
        ("#!/bin/sh\necho '{\"Username\": 7}'", "'Username' is not a string"),
        ("#!/bin/sh\nexec yes", "is over"),
    ],
)
def test_a_helper_that_misbehaves_is_one_line(keyring, programs, script, words):
    if script is not None:
        helper(programs, "bad", script)
    write(keyring, {"credsStore": "bad"})
    with pytest.raises(CellblockError) as caught:
        keyring.find("reg.lan")
    assert words in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "script", ["#!/bin/sh\nexec sleep 60", "#!/bin/sh\nsleep 60 & echo '{'; exec >&-; wait"]
)
def test_a_helper_that_hangs_is_given_up(keyring, programs, script):
    helper(programs, "slow", script)
    write(keyring, {"credsStore": "slow"})
    begun = time.monotonic()
    with pytest.raises(AccessDenied, match=r"gave no answer to 'get' in 0.3 s"):
        Keyring(keyring.path, keyring.environ, helper_timeout_s=0.3).find("reg.lan")
    assert time.monotonic() - begun < 5


def test_it_is_where_docker_has_it():
    assert str(Keyring.of({"DOCKER_CONFIG": "/d", "HOME": "/h"}).path) == "/d/config.json"
    assert str(Keyring.of({"HOME": "/h"}).path) == "/h/.docker/config.json"
