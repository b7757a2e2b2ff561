import json
from datetime import UTC, datetime

import pytest

from cellblock_engine.errors import InvalidAnswer
from cellblock_engine.oci.config import ImageConfig, parse_config
from cellblock_engine.oci.digest import Digest
from cellblock_engine.oci.platform import Platform

LAYER = Digest.of(b"layer")


def document(**more):
    rootfs = {"type": "layers", "diff_ids": [str(LAYER)]}
    return {"os": "linux", "architecture": "amd64", "rootfs": rootfs, **more}


def parse(value):
    return parse_config(json.dumps(value).encode())


def test_a_full_config_is_read():
    parsed = parse(
        document(
            created="2024-05-01T10:11:12.123456789Z",
            author="someone",
            config={
                "Entrypoint": ["/entry"],
                "Cmd": ["a", "b c"],
                "Env": ["PATH=/bin", "EMPTY=", "EQ=a=b"],
                "User": "1000:1000",
                "WorkingDir": "/srv",
                "StopSignal": "SIGINT",
                "Labels": {"a": "b"},
                "ExposedPorts": {"80/tcp": {}},
                "Volumes": {"/data": {}},
                "Unknown": 1,
            },
            history=[
                {"created": "2024-05-01T10:11:12+02:00", "created_by": "ADD x"},
                {"empty_layer": True, "comment": "c"},
            ],
        )
    )
    assert parsed.platform == Platform("linux", "amd64")
    assert parsed.created == datetime(2024, 5, 1, 10, 11, 12, 123456, UTC)
    assert parsed.author == "someone"
    assert parsed.diff_ids == (LAYER,)
    assert parsed.config == ImageConfig(
        entrypoint=("/entry",),
        cmd=("a", "b c"),
        env=("PATH=/bin", "EMPTY=", "EQ=a=b"),
        user="1000:1000",
        working_dir="/srv",
        stop_signal="SIGINT",
        labels={"a": "b"},
        exposed_ports=("80/tcp",),
        volumes=("/data",),
    )
    assert [entry.created_by for entry in parsed.history] == ["ADD x", ""]
    assert [entry.empty_layer for entry in parsed.history] == [False, True]


def test_nulls_are_as_good_as_nothing():
    config = dict.fromkeys(["Entrypoint", "Cmd", "Env", "User", "Labels", "Volumes"])
    parsed = parse(document(config=config, history=None, created=None))
    assert parsed.config == ImageConfig()
    assert parse(document()).config == ImageConfig()


@pytest.mark.parametrize("text", ["0001-01-01T00:00:00Z", "yesterday", "2024-01-01T00:00:00", ""])
def test_a_time_nobody_can_use_is_no_time(text):
    assert parse(document(created=text)).created is None


@pytest.mark.parametrize(
    "value",
    [
        [],
        {},
        document(os=None),
        document(architecture=7),
        document(rootfs=None),
        document(rootfs={"type": "other", "diff_ids": []}),
        document(rootfs={"type": "layers", "diff_ids": ["sha256:../x"]}),
        document(rootfs={"type": "layers", "diff_ids": [str(LAYER)] * 600}),
        document(config=[]),
        document(config={"Cmd": "a string"}),
        document(config={"Cmd": ["a\0b"]}),
        document(config={"Cmd": ["\ud800"]}),
        document(config={"Env": ["NOVALUE"]}),
        document(config={"Env": ["=x"]}),
        document(config={"Labels": {"a": 1}}),
        document(config={"User": 0}),
        document(config={"Volumes": ["/x"]}),
    ],
)
@pytest.mark.attack(44, 48)
def test_what_cannot_be_meant_is_refused(value):
    with pytest.raises(InvalidAnswer) as caught:
        parse(value)
    assert "\n" not in str(caught.value)
