"""Inside the machine: run the selected tests as each user, and leave the results to the host.

It is started by the root file system's only service of ours and sees the checkout read-only. For
each user there are ``USER.xml``, a JUnit file, and ``USER.log``, what pytest printed;
``codes.json`` has pytest's exit codes.
"""

from __future__ import annotations

import json
import os
import pwd
import shutil
import subprocess
import sys
import time
from pathlib import Path

CHECKOUT = Path("/checkout")
RESULTS = Path("/results")
ORDER = RESULTS / "order.json"
CACHE = "/var/cache/rig"
SESSION_DEADLINE_S = 60
TEST_TIMEOUT_S = 300  # forks take 20 times as long as on a real machine


def main() -> int:
    """Carry out the host's order; returns 0 whatever the tests say."""
    order = json.loads(ORDER.read_text())
    end = time.monotonic() + order["deadline_s"]
    codes = {}
    for left, (user, arguments) in zip(
        range(len(order["tests"]), 0, -1), order["tests"].items(), strict=True
    ):
        share_s = (end - time.monotonic()) / left
        codes[user] = run(user, arguments, timeout_s=max(share_s, 1))
        (RESULTS / "codes.json").write_text(json.dumps(codes))
    os.sync()
    return 0


def run(user: str, arguments: list[str], *, timeout_s: float) -> int | None:
    """Run pytest as one user; returns its exit code, None where it was cut short."""
    account = pwd.getpwnam(user)
    report = Path(account.pw_dir) / "results.xml"
    environment = {
        "HOME": account.pw_dir,
        "USER": user,
        "LANG": "C.UTF-8",
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "PYTHONDONTWRITEBYTECODE": "1",
        "XDG_CACHE_HOME": CACHE,
        "CELLBLOCK_VM_USER": user,
    }
    pytest = [
        *(sys.executable, "-m", "pytest", "-v", "--color=no", f"--junit-xml={report}"),
        *("-p", "no:cacheprovider", "-o", f"timeout={TEST_TIMEOUT_S}"),
        f"--session-timeout={timeout_s}",  # after it the test at hand is the last
        *("-o", f"junit_suite_name={user}", *arguments),
    ]
    argv = [*becoming(user, account.pw_uid, environment), *pytest]
    with (RESULTS / f"{user}.log").open("wb") as log:
        try:
            code = subprocess.run(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                check=False,
                cwd=CHECKOUT,
                env=environment,
                timeout=timeout_s + TEST_TIMEOUT_S,
            ).returncode
        except subprocess.TimeoutExpired:
            return None
    if report.exists():
        shutil.copyfile(report, RESULTS / f"{user}.xml")
    return code


def becoming(user: str, uid: int, environment: dict[str, str]) -> list[str]:
    """Return the words before a command that run it as ``user``.

    One who lingers has a systemd, and runs in the control groups that it was given.
    """
    if uid == 0:
        return []
    if not Path("/var/lib/systemd/linger", user).exists():
        return ["runuser", "-u", user, "--"]
    runtime = f"/run/user/{uid}"
    deadline = time.monotonic() + SESSION_DEADLINE_S
    while not Path(runtime, "bus").exists() and time.monotonic() < deadline:
        time.sleep(0.5)
    environment |= {
        "XDG_RUNTIME_DIR": runtime,
        "DBUS_SESSION_BUS_ADDRESS": f"unix:path={runtime}/bus",
    }
    given = [f"--setenv={name}={value}" for name, value in environment.items()]
    service = ["systemd-run", "--user", "--wait", "--pipe", "--collect", "--quiet"]
    return ["runuser", "-u", user, "--", *service, f"--working-directory={CHECKOUT}", *given]


if __name__ == "__main__":
    sys.exit(main())
