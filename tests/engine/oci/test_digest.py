import hashlib

import pytest

from cellblock_engine.errors import InvalidDigest
from cellblock_engine.oci.digest import Digest

HEX = hashlib.sha256(b"x").hexdigest()


def test_a_digest_reads_back_what_it_writes():
    digest = Digest.parse(f"sha256:{HEX}")
    assert digest == Digest.of(b"x")
    assert str(digest) == f"sha256:{HEX}"
    assert digest.short == HEX[:12]


@pytest.mark.parametrize(
    "text",
    [
        "",
        HEX,
        f"sha256:{HEX.upper()}",
        f"sha256:{HEX[:-1]}",
        f"sha256:{HEX}0",
        f"sha256:{HEX}\n",
        f"SHA256:{HEX}",
        f"sha512:{HEX}",
        f"sha256:{HEX[:32]}",
        "md5:" + "0" * 32,
        "sha256:../../" + "0" * 58,
        "sha256:" + "\u0661" * 64,
        f"sha256::{HEX}",
    ],
)
@pytest.mark.attack(44)
def test_any_other_form_is_refused_before_use(text):
    with pytest.raises(InvalidDigest) as caught:
        Digest.parse(text)
    assert "\n" not in str(caught.value)


def test_a_digest_cannot_be_built_around_the_check():
    with pytest.raises(InvalidDigest):
        Digest("sha256", "../../etc/passwd")
