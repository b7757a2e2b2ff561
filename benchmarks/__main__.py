"""``make bench``: starts, pulls, images, messages and kernels, peers in the same rounds.

Needs root. A peer that is not installed is left out by name; Debian's packages are docker.io,
runc and bubblewrap; kern is kern-sandbox, which ``make`` installs beside the project's packages.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from support.images import base_layout
from support.registry import serving

from . import images, kernels, listings, messages, peers, pulls, starts
from .rounds import markdown


def main() -> int:
    """Measure, and print Markdown tables."""
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("--starts", type=int, default=20, metavar="N", help="rounds of starts")
    parser.add_argument("--pulls", type=int, default=5, metavar="N", help="rounds of pulls")
    parser.add_argument("--images", type=int, default=3, metavar="N", help="rounds of images")
    parser.add_argument("--listings", type=int, default=5, metavar="N", help="rounds of listings")
    parser.add_argument("--messages", type=int, default=5, metavar="N", help="rounds of messages")
    parser.add_argument("--kernels", type=int, default=5, metavar="N", help="rounds of kernels")
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        sys.stderr.write("benchmarks: run as root, because docker and runc are measured as root\n")
        return 1
    with ExitStack() as stack:
        # Short, and on a disk: docker's sockets are unix sockets, and tmpfs would flatter pulls.
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cb-bench-")))
        registry = stack.enter_context(serving(directory / "registry"))
        image = registry.push(base_layout(), "base")
        docker = peers.docker(stack, directory / "docker")
        print(f"Linux {platform.release()}, {os.cpu_count()} processors,", end=" ")
        print(f"load {os.getloadavg()[0]:.1f}, Python {platform.python_version()}\n")
        for name in peers.missing():
            print(f"{name} is not installed and is left out.\n")
        if arguments.starts:
            runs = starts.contestants(stack, directory, image, docker)
            print(markdown("start of `true`", runs, arguments.starts, reference="docker run"))
        if arguments.pulls:
            contest = pulls.contestants(directory, image, docker)
            print(markdown("pull into an empty store", contest, arguments.pulls, "docker pull"))
        if arguments.images:
            place = directory / "images"
            print(images.tables(stack, place, image, docker, arguments.images))
        if arguments.listings:
            print(listings.tables(stack, directory / "listings", docker, arguments.listings))
        if arguments.messages:
            print(messages.tables(stack, arguments.messages))
        if arguments.kernels:
            print(kernels.tables(stack, directory, arguments.kernels))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
