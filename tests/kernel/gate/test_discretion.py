"""What is left out of the sources that are recorded."""

from __future__ import annotations

import pytest

from cellblock_kernel.gate.discretion import discreet, is_secret


@pytest.mark.parametrize(
    "source",
    [
        "# cellblock: secret\nx = 1",
        "#cellblock:secret",
        "%%bash\n# Cellblock: Secret \necho",
        "x = 1\n  // cellblock: secret\n",
        "-- cellblock: secret\nselect 1",
        "# cellblock: secret\r\nx = 1\r\n",
    ],
)
def test_a_cell_is_marked_by_a_comment(source: str):
    assert is_secret(source, {})


@pytest.mark.parametrize(
    "source", ["", "x = '# cellblock: secret'", "# cellblock: secrets", "# secret"]
)
def test_other_cells_are_not(source: str):
    assert not is_secret(source, {"tags": "secret", "cellId": "1"})
    assert is_secret(source, {"tags": ["other", "secret"]})
    assert not is_secret(source, {"tags": [["secret"], {}, 7]})


@pytest.mark.parametrize(
    ("source", "recorded"),
    [
        ("%env TOKEN=hunter2", "%env TOKEN=…"),
        ("%env TOKEN hunter2 and more", "%env TOKEN=…"),
        ("x\n  %set_env TOKEN = hunter2\ny", "x\n  %set_env TOKEN=…\ny"),
        ("%env", "%env"),
        ("%env TOKEN", "%env TOKEN"),
        ("os.environ['TOKEN'] = 'hunter2'; y", "os.environ['TOKEN'] = …; y"),
        ('environ["T"]=f"hunter2"', 'environ["T"]=…'),
        ('os.environ["TOKEN"] = r"""hunter2\n2"""; y', 'os.environ["TOKEN"] = …; y'),
        ("os.environ['TOKEN'] = '''\nhunter2''; y", "os.environ['TOKEN'] = …"),
        (r"os.environ['TOKEN'] = 'a\'hunter2'; y", "os.environ['TOKEN'] = …; y"),
        ("os.environ['TOKEN']: str = 'hunter2'", "os.environ['TOKEN']: str = …"),
        ("os.environ['TOKEN'] = ask()", "os.environ['TOKEN'] = ask()"),
        (
            "!pip install -i https://me:hunter2@index.lan/simple foo",
            "!pip install -i https://…@index.lan/simple foo",
        ),
        (f"git clone https://me:{'hunter2' * 600}@host/x", "git clone https://…@host/x"),
        ("git clone https://hunter2@host/x", "git clone https://…@host/x"),
        ("see https://host/x?mail=a@b.c", "see https://host/x?mail=a@b.c"),
    ],
)
def test_what_is_put_into_the_environment_and_credentials_are_left_out(source: str, recorded: str):
    assert discreet(source) == recorded


@pytest.mark.parametrize(
    "piece", ["a://", "%env x ", "environ['", "environ['']='", "#", "# cellblock:", "a:b@", " "]
)
def test_no_source_takes_long(piece: str):
    source = piece * (65_536 // len(piece))
    discreet(source)
    is_secret(source, {})
