"""A layer's archive becomes a directory in overlayfs form.

Whiteouts become 0/0 character devices and opaque directories carry ``user.overlay.opaque``
(image-spec layer.md; kernel overlayfs.rst), so that the directory serves as a lower layer as it
is. What only makes sense beside the layers below is recorded for :mod:`.chains`: directories that
the archive implies without describing them, and hard links to files it does not contain.

Runs in the unpacker, on names nobody vouches for: see :mod:`.directories` for why nothing here
leaves the tree. Nothing is ever opened but directories and the files just created.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from abc import ABC, abstractmethod
from typing import NamedTuple

from ..errors import CellblockError, InvalidLayer, StoreError
from ..linux import idmaps
from ..linux.owners import ATTRIBUTE
from . import owners, tar
from .directories import MAX_PATH_BYTES, WHITEOUT, Attributes, Directories, is_opaque, is_whiteout
from .room import raise_if_full

CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_MAX_NAME_BYTES = 255
WHITEOUT_PREFIX = b".wh."
_META_PREFIX = b".wh..wh."  # AUFS's own; image-spec gives meaning to .opq alone
OPAQUE_MARKER = b".wh..wh..opq"
_UNUSUAL = re.compile(rb"(?:^|/)\.{0,2}(?:/|\Z)|\0")  # empty, dots only, or with a NUL byte
_MAX_XATTR_BYTES = 2**16  # XATTR_SIZE_MAX
_KEPT_XATTRS = (b"security.capability", b"system.posix_acl_access", b"system.posix_acl_default")
_OWNER = ATTRIBUTE.encode()
_MAX_TIME_NS = 2**63 - 1  # the year 2262; the file system clamps further


class Unpacked(NamedTuple):
    """What a layer holds. Paths have no leading slash; ``links`` go from path to target.

    ``whiteouts`` are the directories that got one, ``emptied`` those implied ones that an opaque
    marker is in: what they are themselves, the layers below still say.
    """

    size_bytes: int
    entries: int
    implied: list[bytes]
    links: dict[bytes, bytes]
    whiteouts: list[bytes]
    emptied: list[bytes]
    opaque: bool

    def record(self) -> dict[str, object]:
        """Return what the layer's ``layer.json`` says."""
        return {
            "size_bytes": self.size_bytes,
            "entries": self.entries,
            "implied": [os.fsdecode(path) for path in self.implied],
            "whiteouts": [os.fsdecode(path) for path in self.whiteouts],
            "emptied": [os.fsdecode(path) for path in self.emptied],
            "links": {os.fsdecode(p): os.fsdecode(t) for p, t in self.links.items()},
            "opaque": self.opaque,
        }


def unpack(stream: tar.Stream, root: int, *, max_entries: int) -> Unpacked:
    """Unpack the archive into the empty directory ``root`` and read the stream to its end.

    As root, owners and device nodes are as recorded; else devices are left out, and in a process
    of one id owners are written down (:mod:`.owners`). Raises InvalidLayer, StoreFull or
    StoreError.
    """
    layer = _Unpacked(stream, root)
    try:
        for entry in tar.entries(stream, max_entries):
            layer.add(entry)
        stream.drain()
        return layer.finish()
    finally:
        layer.close()


def is_kept(key: bytes) -> bool:
    """Tell the attributes that a container may see from overlayfs's own, labels, foreign ones.

    What names an owner is ours, wherever it comes from.
    """
    own = key.startswith(b"user.") and not key.startswith(b"user.overlay.")
    return (own and key != _OWNER) or key in _KEPT_XATTRS


def _refused(error: OSError, name: bytes) -> CellblockError:
    shown = repr(os.fsdecode(name[-80:]))
    raise_if_full(error, f"{shown} of the layer")
    if error.errno in (errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL, errno.EMLINK, errno.ENOENT):
        return InvalidLayer(f"entry {shown} of the layer cannot be made: {error.strerror}")
    return StoreError(f"cannot unpack {shown} of the layer: {error.strerror}")


def _disowned(error: OSError, name: bytes, meant: Attributes | tar.Entry) -> Exception:
    """Return what is to be told of a file that cannot be given to whom it is meant for."""
    if error.errno != errno.EINVAL:  # EINVAL: chown(2), of ids that the user namespace lacks
        return error
    return owners.unmapped(name, meant.uid, meant.gid)


def _normal(name: bytes) -> bytes:
    """Return the path from the layer's root that an entry's name means. Raises InvalidLayer."""
    if len(name) <= _MAX_NAME_BYTES and not _UNUSUAL.search(name):
        return name
    parts = [part for part in name.split(b"/") if part not in (b"", b".")]
    if b".." in parts:
        raise InvalidLayer(f"entry {name[-80:]!r} of the layer leaves its directory")
    names = (part.removeprefix(WHITEOUT_PREFIX) for part in parts)  # which is never made itself
    if len(name) > MAX_PATH_BYTES or any(len(each) > _MAX_NAME_BYTES for each in names):
        raise InvalidLayer(f"the name {name[-60:]!r} in the layer is too long for a file system")
    if b"\0" in name:
        raise InvalidLayer(f"the name {name[-80:]!r} in the layer has a NUL byte")
    return b"/".join(parts)


class LayerTree(ABC):
    """The tree as far as it is made; what files contain is for whoever makes it."""

    def __init__(self, root: int) -> None:
        self._root = root
        self._directories = Directories(root)
        self._links: dict[bytes, bytes] = {}
        self._whiteouts: set[bytes] = set()
        self._emptied: set[bytes] = set()
        self._size_bytes = self._entries = 0
        self._opaque = False
        self._owner = os.geteuid(), os.getegid()
        self._privileged = self._owner[0] == 0
        self._records_owners = owners.are_recorded()
        self._makes_devices = self._privileged and idmaps.may_map_ranges()

    def close(self) -> None:
        """Close all descriptors but the root's."""
        self._directories.close()

    @abstractmethod
    def create_file(self, entry: tar.Entry, fd: int, name: bytes) -> None:
        """Make the regular file ``name`` in the directory ``fd``. Raises FileExistsError."""

    def add(self, entry: tar.Entry) -> None:
        """Make what an entry describes. Raises InvalidLayer, StoreFull, StoreError."""
        try:
            self._add(entry)
        except OSError as error:
            raise _refused(error, entry.name) from error

    def _add(self, entry: tar.Entry) -> None:
        self._entries += 1
        path = _normal(entry.name)
        if b".wh." in path and self._is_marker(path):
            return
        if not path:
            self._describe_root(entry)
            return
        if entry.kind == tar.HARD_LINK:
            self._link(entry, path)
            return
        fd, real, name = self._directories.parent(path)
        if entry.kind == tar.DIRECTORY:
            self._directories.make(fd, real, name, _attributes(entry))
            return
        try:
            self._create(entry, fd, name)
        except FileExistsError:
            self._directories.remove(fd, real, name)
            self._create(entry, fd, name)

    def finish(self) -> Unpacked:
        """Give the directories their attributes; deepest first, as modes may close them."""
        implied = []
        described = self._directories.described
        for real in sorted(described, reverse=True):
            fd = self._directories.exact(real)
            if fd is None:
                continue  # replaced by something else since
            attributes = described[real]
            try:
                if attributes is not None:
                    self.apply(fd, attributes, real)
                else:
                    os.fchmod(fd, 0o755)
                    implied.append(real)
            except OSError as error:
                raise _refused(error, real) from error
        links = {path: target for path, target in self._links.items() if self._is_pending(path)}
        emptied = sorted(self._emptied.intersection(implied))
        counts = self._size_bytes, self._entries
        return Unpacked(*counts, implied, links, sorted(self._whiteouts), emptied, self._opaque)

    def _is_pending(self, path: bytes) -> bool:
        """Tell whether nothing took the place of a recorded link since."""
        head, _, name = path.rpartition(b"/")
        fd = self._directories.exact(head)
        try:
            return fd is not None and is_whiteout(os.stat(name, dir_fd=fd, follow_symlinks=False))
        except FileNotFoundError:
            return False

    def _describe_root(self, entry: tar.Entry) -> None:
        if entry.kind != tar.DIRECTORY:
            raise InvalidLayer("the layer's root is not a directory")
        self._directories.described[b""] = _attributes(entry)

    def _create(self, entry: tar.Entry, fd: int, name: bytes) -> None:
        if entry.kind == tar.FILE:
            self.create_file(entry, fd, name)
            self._size_bytes += entry.size
            return
        if entry.kind == tar.SYMLINK:
            if not entry.link or len(entry.link) > MAX_PATH_BYTES or b"\0" in entry.link:
                raise InvalidLayer(f"the symbolic link {entry.name[-80:]!r} has no usable target")
            os.symlink(entry.link, name, dir_fd=fd)
        elif not self._create_node(entry, fd, name):
            return
        if (entry.uid, entry.gid) != self._owner and not self._records_owners:
            try:
                os.chown(name, entry.uid, entry.gid, dir_fd=fd, follow_symlinks=False)
            except OSError as error:
                raise _disowned(error, entry.name, entry) from error
        if entry.kind != tar.SYMLINK:
            os.chmod(name, entry.mode, dir_fd=fd)  # chown(2) clears set-id bits, the umask others
        os.utime(name, ns=_times(entry.mtime_ns), dir_fd=fd, follow_symlinks=False)

    def _create_node(self, entry: tar.Entry, fd: int, name: bytes) -> bool:
        """Make a FIFO or device; False where this user may not."""
        if entry.kind == tar.FIFO:
            os.mkfifo(name, entry.mode, dir_fd=fd)
            return True
        major, minor = entry.device
        if (major, minor) == (0, 0) or not (0 <= major < 2**12 and 0 <= minor < 2**20):
            raise InvalidLayer(f"the device {entry.name[-80:]!r} in the layer is {major}:{minor}")
        if not self._makes_devices:
            return False
        kind = stat.S_IFCHR if entry.kind == tar.CHARACTER else stat.S_IFBLK
        os.mknod(name, kind | entry.mode, os.makedev(major, minor), dir_fd=fd)
        return True

    def apply(self, fd: int, attributes: Attributes | tar.Entry, name: bytes) -> None:
        """Set owner, mode, attributes and time, in the order in which they survive each other."""
        if self._records_owners:
            owners.record(fd, attributes.uid, attributes.gid)
        elif (attributes.uid, attributes.gid) != self._owner:
            try:
                os.fchown(fd, attributes.uid, attributes.gid)  # clears set-id bits, capabilities
            except OSError as error:
                raise _disowned(error, name, attributes) from error
        for key, value in attributes.xattrs.items():  # while an ordinary owner may still write
            self._set_xattr(fd, key, value)
        os.fchmod(fd, attributes.mode)
        os.utime(fd, ns=_times(attributes.mtime_ns))

    def _set_xattr(self, fd: int, key: bytes, value: bytes) -> None:
        """Set what is kept, as far as this user may."""
        if not is_kept(key) or not (self._privileged or key.startswith(b"user.")):
            return
        if self._records_owners and key.startswith(b"system."):  # lists of users that are not there
            return
        if b"\0" in key or len(key) > _MAX_NAME_BYTES or len(value) > _MAX_XATTR_BYTES:
            raise InvalidLayer(f"the extended attribute {key[:60]!r} in the layer is too large")
        try:
            os.setxattr(fd, key, value)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.E2BIG, errno.ERANGE):  # of the inode's room
                raise InvalidLayer(
                    f"the extended attribute {key[:60]!r} in the layer is too large "
                    "for the file system of the store"
                ) from error
            raise

    def _link(self, entry: tar.Entry, path: bytes) -> None:
        """Link to a file of this layer, else record the link and hide what is below it."""
        target = _normal(entry.link)
        source = self._directories.existing_parent(target) if target else None
        if source is not None:
            source_fd, source_real, source_name = source
            target = source_real + b"/" + source_name if source_real else source_name
            # Its descriptor must outlive the next look-up.
            source_fd = os.dup(source_fd)
            try:
                self._link_existing(source_fd, source_name, target, path)
            finally:
                os.close(source_fd)
        elif target:
            self._record_link(target, path)
        else:
            raise InvalidLayer(f"the hard link {path[-80:]!r} in the layer has no target")

    def _link_existing(
        self, source_fd: int, source_name: bytes, target: bytes, path: bytes
    ) -> None:
        fd, real, name = self._directories.parent(path)
        place = real + b"/" + name if real else name
        if place == target:
            return
        try:
            status = os.stat(source_name, dir_fd=source_fd, follow_symlinks=False)
        except FileNotFoundError:
            self._record_link(target, path)
            return
        if stat.S_ISDIR(status.st_mode):
            raise InvalidLayer(f"the hard link {path[-80:]!r} in the layer leads to a directory")
        if is_whiteout(status):
            if target not in self._links:
                raise InvalidLayer(f"the hard link {path[-80:]!r} leads to a file that is removed")
            self._record_link(self._links[target], path)
            return
        try:
            os.link(source_name, name, src_dir_fd=source_fd, dst_dir_fd=fd, follow_symlinks=False)
        except FileExistsError:
            self._directories.remove(fd, real, name)
            os.link(source_name, name, src_dir_fd=source_fd, dst_dir_fd=fd, follow_symlinks=False)

    def _record_link(self, target: bytes, path: bytes) -> None:
        """Put a whiteout where the chain of layers will put a copy of a lower file."""
        self._directories.record(len(target) + len(path))
        fd, real, name = self._directories.parent(path)
        self._directories.remove(fd, real, name)
        os.mknod(name, stat.S_IFCHR, WHITEOUT, dir_fd=fd)
        self._links[real + b"/" + name if real else name] = target

    def _is_marker(self, path: bytes) -> bool:
        """Act on a whiteout or opaque marker; False if ``path`` is neither."""
        *above, name = path.split(b"/")
        if any(part.startswith(_META_PREFIX) for part in above):
            return True
        if any(part.startswith(WHITEOUT_PREFIX) for part in above):
            raise InvalidLayer(f"entry {path[-80:]!r} of the layer is inside of a whiteout")
        if not name.startswith(WHITEOUT_PREFIX):
            return False
        if name == OPAQUE_MARKER:
            self._make_opaque(path)
        elif not name.startswith(_META_PREFIX):
            self._white_out(path, name.removeprefix(WHITEOUT_PREFIX))
        return True

    def _make_opaque(self, path: bytes) -> None:
        """Hide all that lower layers have in a directory."""
        found = self._directories.marker_parent(path)
        if found is None:
            return
        fd, real, _ = found
        if not real:
            self._opaque = True  # overlayfs does not ask the root: the chain leaves out the rest
        elif not is_opaque(fd):
            self._directories.set_opaque(fd, b".")
            self._directories.record(len(real))
            self._emptied.add(real)
            # Whiteouts in it have become pointless, and overlayfs would list them as files.
            with os.scandir(fd) as found_there:
                names = [os.fsencode(entry.name) for entry in found_there]
            for name in names:
                status = os.stat(name, dir_fd=fd, follow_symlinks=False)
                if is_whiteout(status) and real + b"/" + name not in self._links:
                    os.unlink(name, dir_fd=fd)

    def _white_out(self, path: bytes, hidden: bytes) -> None:
        """Hide what lower layers have under this name; what this layer has there stays."""
        if hidden in (b"", b".", b".."):
            raise InvalidLayer(f"the whiteout {path[-80:]!r} in the layer names no file")
        found = self._directories.marker_parent(path)
        if found is None:
            return
        fd, real, _ = found
        try:
            status = os.stat(hidden, dir_fd=fd, follow_symlinks=False)
        except FileNotFoundError:
            if not real or not is_opaque(fd):
                os.mknod(hidden, stat.S_IFCHR, WHITEOUT, dir_fd=fd)
                if real not in self._whiteouts:
                    self._directories.record(len(real))
                    self._whiteouts.add(real)
            return
        if stat.S_ISDIR(status.st_mode):
            self._directories.set_opaque(fd, hidden)
            self._emptied.discard(real + b"/" + hidden if real else hidden)


class _Unpacked(LayerTree):
    """The tree as far as an archive is unpacked."""

    def __init__(self, stream: tar.Stream, root: int) -> None:
        super().__init__(root)
        self._stream = stream

    def create_file(self, entry: tar.Entry, fd: int, name: bytes) -> None:
        file = os.open(name, CREATE, 0o600, dir_fd=fd)
        try:
            if entry.size:
                for piece in self._stream.pieces(entry.size):
                    written = os.write(file, piece)
                    while written < len(piece):
                        written += os.write(file, piece[written:])
            self.apply(file, entry, entry.name)
        finally:
            os.close(file)


def _attributes(entry: tar.Entry) -> Attributes:
    return Attributes(entry.mode, entry.uid, entry.gid, entry.mtime_ns, entry.xattrs)


def _times(mtime_ns: int) -> tuple[int, int]:
    ns = max(-_MAX_TIME_NS, min(mtime_ns, _MAX_TIME_NS))
    return ns, ns
