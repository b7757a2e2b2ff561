"""Docker as a peer: instructions mean the same to it, and flat archives go both ways."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from cellblock_engine import Engine, ImportRequest, InvalidInput, RunRequest
from cellblock_engine.oci.instructions import configured, parse_changes
from support import tars
from support.commits import ended, names_in
from support.docker import Docker

pytestmark = pytest.mark.usefixtures("root")

MEMBERS = (
    *("Cmd", "Entrypoint", "Env", "ExposedPorts", "Labels", "OnBuild"),
    *("StopSignal", "User", "Volumes", "WorkingDir"),
)
SET = r"ENV A=a B='b c' EMPTY="
READ = (
    (r'CMD ["a", "b c"]',),
    (r"CMD a  'b' $A",),
    (r"CMD [a]",),
    (r"cmd   x",),
    (r'CMD ["a"]', r'ENTRYPOINT ["b"]'),
    (r'ENTRYPOINT ["b"]', r'CMD ["a"]'),
    (r"ENTRYPOINT b $A",),
    (SET, r'ENV C=$A D="$B x" E=\$A F="\$A \n" G=\a', r"ENV A=n H=$A I=${A}x"),
    (SET, r"ENV J ${B} 'k'  l=m"),
    (SET, r"ENV K=${NONE:-x} L=${EMPTY:-$B} N=${A:+v} O=${NONE:+v}."),
    (SET, r"ENV Q=$NONE. R='$A' S=a\ b T=x$ U=$1y V=${A}${B}"),
    (SET, r"ENV W='x''y' X=a'b'\"c\" Y=a=b Z=",),
    (SET, r'LABEL org.x="1 2" $A=$B multi=x', r"LABEL old style  value", r'LABEL "a b"=c'),
    (SET, r"EXPOSE 80 53/UDP 8000-8002/tcp", r"EXPOSE 90"),
    (SET, r"VOLUME /a /$A", r'VOLUME ["/b c"]'),
    (r"WORKDIR /a/../b//c/", r"WORKDIR d", r"WORKDIR .."),
    (SET, r"WORKDIR $A/x",),
    (SET, r"USER $A:1",),
    (SET, r"ONBUILD RUN $A  x", r"ONBUILD ENV A=b"),
)  # fmt: skip
REFUSED = (
    "RUN x", "ADD a b", "FROM x", "CMD --x", "ENV A", "ENV =b", "ENV A=b C", "EXPOSE x",
    "USER", "LABEL a", "ONBUILD FROM x", "ONBUILD ONBUILD RUN x", "STOPSIGNAL NONE", "VOLUME",
    'VOLUME [""]', "ENV A='b", "ENV A=${", "ENV A=${}", "ENV A=${A:?no}", "WORKDIR",
)  # fmt: skip


WHICH = ("ours", "theirs", "again")
OWN = {".", ".dockerenv", "dev/console", "dev/pts", "dev/shm", "etc/mtab"}
OWN |= {"etc/hosts", "etc/hostname", "etc/resolv.conf"}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("flat") / "in.tar"
    path.write_bytes(tars.archive(tars.file(b"file", b"content\n")))
    return path


@pytest.fixture
def engine(committing_engine: Engine) -> Engine:
    return committing_engine


def imported(docker: Docker, tree: Path, changes: tuple[str, ...]) -> dict[str, Any]:
    """Return what Docker makes of changes to nothing."""
    flags = [word for change in changes for word in ("--change", change)]
    image = docker("import", *flags, str(tree)).strip()
    config = json.loads(docker("image", "inspect", "--format", "{{json .Config}}", image))
    return {name: config[name] for name in MEMBERS if config.get(name)}


def test_docker_reads_instructions_likewise(docker: Docker, tree: Path):
    wrong = []
    for changes in READ:
        theirs = imported(docker, tree, changes)
        config = configured({}, parse_changes(changes))
        ours = {name: config[name] for name in MEMBERS if config.get(name)}
        if ours != theirs:
            wrong.append((changes, ours, theirs))
    assert wrong == []


def test_docker_refuses_likewise(docker: Docker, tree: Path):
    taken = []
    for change in REFUSED:
        with pytest.raises(InvalidInput):
            configured({}, parse_changes([change]))
        try:
            taken.append((change, imported(docker, tree, (change,))))
        except subprocess.CalledProcessError:
            continue
    assert taken == []


def test_flat_archives_go_both_ways(
    docker: Docker, engine: Engine, base_image: str, tmp_path: Path
):
    code = "import os; os.mkdir('/srv/d'); open('/srv/d/f', 'w').write('of ours\\n')"
    ended(engine, base_image, code + "; os.link('/srv/d/f', '/srv/g'); os.unlink('/etc/issue')")
    engine.export("box", tmp_path / "ours.tar")
    docker("import", str(tmp_path / "ours.tar"), "flat/ours:1")
    show = ("sh", "-c", "cat /srv/d/f; ls /etc/issue; stat -c %h /srv/g")
    ran = docker("create", "--network=none", "flat/ours:1", *show).strip()
    docker("export", "-o", str(tmp_path / "theirs.tar"), ran)
    engine.import_image(tmp_path / "theirs.tar", "flat/theirs", ImportRequest())
    assert engine.run("flat/theirs", show).stdout == b"of ours\n2\n"
    engine.create(RunRequest(image="flat/theirs", argv=("true",), name="again"))
    engine.export("again", tmp_path / "again.tar")
    names = [names_in((tmp_path / f"{which}.tar").read_bytes()) for which in WHICH]
    assert names[0] ^ names[1] <= OWN
    assert names[1] ^ names[2] <= OWN
