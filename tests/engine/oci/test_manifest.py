import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellblock_engine.errors import InvalidAnswer
from cellblock_engine.oci import manifest as m
from cellblock_engine.oci.digest import Digest
from cellblock_engine.oci.platform import Platform

DIGEST = str(Digest.of(b"x"))


def descriptor(media_type=m.OCI_CONFIG, **more):
    return {"mediaType": media_type, "digest": DIGEST, "size": 3, **more}


def a_manifest(**more):
    layers = [descriptor(m.OCI_LAYER + "+gzip")]
    return {"schemaVersion": 2, "config": descriptor(), "layers": layers, **more}


def an_index(**more):
    platform = {"os": "linux", "architecture": "arm64", "variant": "v8"}
    entry = descriptor(m.OCI_MANIFEST, platform=platform)
    return {"schemaVersion": 2, "manifests": [entry], **more}


def parse(document, media_type=None):
    return m.parse_manifest(json.dumps(document).encode(), media_type)


@pytest.mark.parametrize(
    ("served", "embedded", "found"),
    [
        (None, None, m.OCI_MANIFEST),
        (m.OCI_MANIFEST, None, m.OCI_MANIFEST),
        (m.DOCKER_MANIFEST, m.DOCKER_MANIFEST, m.DOCKER_MANIFEST),
        (f"{m.OCI_MANIFEST}; charset=utf-8", m.OCI_MANIFEST, m.OCI_MANIFEST),
        ("application/json", m.DOCKER_MANIFEST, m.DOCKER_MANIFEST),
        ("application/octet-stream", None, m.OCI_MANIFEST),
    ],
)
def test_a_manifest_is_read(served, embedded, found):
    document = a_manifest(mediaType=embedded)
    parsed = parse(document, served)
    assert isinstance(parsed, m.Manifest)
    assert parsed.media_type == found
    assert parsed.config == m.Descriptor(m.OCI_CONFIG, Digest.of(b"x"), 3)
    assert [layer.media_type for layer in parsed.layers] == [m.OCI_LAYER + "+gzip"]


def test_an_index_is_read():
    parsed = parse(an_index(mediaType=m.OCI_INDEX), m.OCI_INDEX)
    assert isinstance(parsed, m.Index)
    assert parsed.manifests[0].platform == Platform("linux", "arm64")


def test_annotations_and_urls_are_kept():
    layer = descriptor(m.DOCKER_FOREIGN_LAYER + ".gzip", urls=["https://x.test/"])
    parsed = parse(a_manifest(layers=[layer | {"annotations": {"a": "b"}}]))
    assert parsed.layers[0].urls == ("https://x.test/",)
    assert parsed.layers[0].annotations == {"a": "b"}


@pytest.mark.parametrize(
    ("document", "served"),
    [
        pytest.param(a_manifest() | an_index(), None, id="both"),
        pytest.param(a_manifest() | an_index(), m.OCI_INDEX, id="both, served as an index"),
        pytest.param(an_index() | {"layers": []}, m.OCI_INDEX, id="an index with layers"),
        pytest.param(a_manifest(), m.OCI_INDEX, id="a manifest served as an index"),
        pytest.param(an_index(), m.OCI_MANIFEST, id="an index served as a manifest"),
        pytest.param(a_manifest(mediaType=m.OCI_INDEX), None, id="a manifest calls itself index"),
        pytest.param(a_manifest(mediaType=m.DOCKER_MANIFEST), m.OCI_MANIFEST, id="two types"),
        pytest.param(a_manifest(mediaType=3), None, id="a number for a type"),
        pytest.param(a_manifest(), "text/html", id="served as a page"),
        pytest.param(a_manifest(mediaType="text/html"), None, id="calls itself a page"),
        pytest.param({"schemaVersion": 2}, None, id="neither"),
        pytest.param({"schemaVersion": 2}, m.OCI_INDEX, id="an index without manifests"),
        pytest.param(a_manifest(config=None), None, id="no config"),
        pytest.param(a_manifest(layers=["x"]), None, id="a layer that is a string"),
        pytest.param(a_manifest(layers={}), None, id="layers that are an object"),
        pytest.param(a_manifest(layers=[descriptor(size=-1)]), None, id="negative size"),
        pytest.param(a_manifest(layers=[descriptor(size=2**63)]), None, id="size of 2^63"),
        pytest.param(a_manifest(layers=[descriptor(size=1.5)]), None, id="fractional size"),
        pytest.param(a_manifest(layers=[descriptor(size=True)]), None, id="boolean size"),
        pytest.param(
            a_manifest(layers=[descriptor(digest="sha256:../../x")]), None, id="digest of a path"
        ),
        pytest.param(a_manifest(layers=[descriptor()] * 501), None, id="too many layers"),
        pytest.param(an_index(manifests=[descriptor()] * 1001), None, id="too many manifests"),
        pytest.param(
            an_index(manifests=[descriptor(platform={"os": "linux"})]), None, id="half a platform"
        ),
        pytest.param(a_manifest(schemaVersion=1), None, id="schema 1"),
        pytest.param(a_manifest(fsLayers=[]), None, id="schema 1 and 2"),
        pytest.param([], None, id="an array"),
    ],
)
@pytest.mark.attack(44, 45, 46)
def test_what_is_doubtful_is_refused_in_one_line(document, served):
    with pytest.raises(InvalidAnswer) as caught:
        parse(document, served)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"<html>",
        b"\xff\xfe{}",
        b'{"schemaVersion": 2, "schemaVersion": 2}',
        b'{"a":' * 100_000,
        b"[" * 100_000,
        b'{"schemaVersion": ' + b"9" * 10_000 + b"}",
        b" " * (4 * 2**20 + 1),
    ],
)
@pytest.mark.attack(46)
def test_what_is_no_plain_json_is_refused(raw):
    with pytest.raises(InvalidAnswer):
        m.parse_manifest(raw, m.OCI_MANIFEST)


def test_three_hundred_layers_are_fine():
    parsed = parse(a_manifest(layers=[descriptor(m.OCI_LAYER)] * 300))
    assert len(parsed.layers) == 300


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@settings(deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["schemaVersion", "mediaType", "config", "layers", "manifests"]),
        json_values | st.just(2),
    ),
    st.sampled_from([None, m.OCI_INDEX, m.OCI_MANIFEST, "application/json"]),
)
def test_any_json_is_read_or_refused(members, served):
    try:
        parsed = parse(a_manifest() | members, served)
    except InvalidAnswer:
        return
    assert isinstance(parsed, m.Manifest | m.Index)
