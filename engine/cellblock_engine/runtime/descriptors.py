"""The descriptors a request brought, by name."""

from __future__ import annotations

import os


class Descriptors:
    """Received descriptors; closed by :meth:`close` unless somebody took them."""

    def __init__(self, names: list[str], fds: list[int]) -> None:
        """Raise ValueError where names and descriptors do not match; owns them from here."""
        self._fds = list(zip(names, fds, strict=False))
        if len(names) != len(fds):
            for fd in fds:
                os.close(fd)
            raise ValueError("as many descriptors as names are needed")

    def take(self, name: str) -> int | None:
        """Hand over the next descriptor of this name, None if there is none."""
        for index, (held, fd) in enumerate(self._fds):
            if held == name:
                del self._fds[index]
                return fd
        return None

    def take_stdin(self) -> int:
        """Hand over ``stdin``, or the null device where none was sent."""
        fd = self.take("stdin")
        return os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC) if fd is None else fd

    def take_all(self, name: str) -> tuple[int, ...]:
        """Hand over all of this name, in order."""
        taken = tuple(fd for held, fd in self._fds if held == name)
        self._fds = [(held, fd) for held, fd in self._fds if held != name]
        return taken

    def close(self) -> None:
        """Close what nobody took."""
        while self._fds:
            os.close(self._fds.pop()[1])
