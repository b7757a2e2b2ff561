"""Code that tries to get out, for :mod:`support.inside`: each line notes an errno, or "allowed"."""

from __future__ import annotations

NESTED_NAMESPACES = """
NEWUSER, SIGCHLD = 0x10000000, 17
def unshare(flags):
    if libc.unshare(flags) != 0:
        raise OSError(ctypes.get_errno(), "")
def child(call):
    if call() == 0:
        os._exit(0)
attempt("unshare", lambda: unshare(NEWUSER))
attempt("unshare with the rest", lambda: unshare(NEWUSER | 0x00020000 | 0x40000000))
attempt("clone", lambda: child(lambda: syscall(56, 220, NEWUSER | SIGCHLD, 0, 0, 0, 0)))
clone_args = (ctypes.c_uint64 * 11)(NEWUSER, 0, 0, 0, SIGCHLD)
attempt("clone3", lambda: child(lambda: syscall(435, 435, ctypes.byref(clone_args), 88)))
"""

MOUNTS = """
os.makedirs("/tmp/m", exist_ok=True)
attempt("mount", lambda: syscall(165, 40, b"none", b"/tmp/m", b"tmpfs", 0, 0))
attempt("bind", lambda: syscall(165, 40, b"/etc", b"/tmp/m", 0, 4096, 0))
attempt("remount", lambda: syscall(165, 40, 0, b"/proc/sys", 0, 32 | 4096, 0))
attempt("umount", lambda: syscall(166, 39, b"/proc/sys", 2))
attempt("fsopen", lambda: syscall(430, 430, b"tmpfs", 0))
attempt("open_tree", lambda: syscall(428, 428, -100, b"/", 1))
attempt("move_mount", lambda: syscall(429, 429, -100, b"/proc", -100, b"/tmp/m", 0))
attempt("mount_setattr", lambda: syscall(442, 442, -100, b"/proc/sys", 0, bytes(32), 32))
attempt("pivot_root", lambda: syscall(155, 41, b"/", b"/tmp"))
for name in ("mnt", "net", "pid", "ipc", "uts", "user", "cgroup"):
    fd = os.open(f"/proc/self/ns/{name}", os.O_RDONLY)
    attempt(f"setns {name}", lambda: syscall(308, 268, fd, 0))
for flag in (0x00020000, 0x20000000, 0x40000000, 0x08000000, 0x04000000, 0x02000000):
    attempt(f"unshare {flag:x}", lambda: syscall(272, 97, flag))
attempt("chroot", lambda: os.chroot("/tmp/m"))
"""

CGROUP_FILES = """
outcome["walked"] = "EROFS"
for directory, _, files in os.walk("/sys/fs/cgroup"):
    for file in files:
        path = os.path.join(directory, file)
        attempt(path, lambda: os.close(os.open(path, os.O_WRONLY)))
    attempt(directory, lambda: os.mkdir(os.path.join(directory, "mine")))
for name in ("release_agent", "devices/devices.allow", "memory/memory.limit_in_bytes"):
    attempt(name, lambda: open("/sys/fs/cgroup/" + name, "w").write("a"))
"""

KERNEL_SETTINGS = """
for path in (
    "/proc/sys/kernel/core_pattern", "/proc/sys/kernel/modprobe", "/proc/sysrq-trigger",
    "/proc/sys/kernel/hostname", "/proc/sys/vm/panic_on_oom", "/proc/sys/fs/binfmt_misc/register",
    "/proc/sys/net/ipv4/ip_forward", "/proc/sys/user/max_user_namespaces",
    "/proc/irq/0/smp_affinity", "/proc/bus/pci/devices", "/sys/kernel/uevent_helper",
    "/sys/kernel/mm/ksm/run", "/sys/module/overlay/parameters/metacopy", "/sys/power/state",
):
    attempt(path, lambda: os.close(os.open(path, os.O_WRONLY)))
outcome["writable mounts"] = [path for path in ("/proc/sys", "/proc/sysrq-trigger", "/proc/bus",
                              "/proc/fs", "/proc/irq", "/sys") if os.path.exists(path)
                              and not os.statvfs(path).f_flag & os.ST_RDONLY]
"""

DEVICES = """
from stat import S_IFBLK, S_IFCHR
from os import makedev, mknod
def make_and_open(kind, letter, directory, numbers):
    for number in numbers:
        path = f"{directory}/{letter}{number[0]}-{number[1]}"
        attempt(f"mknod {letter} {number}", lambda: mknod(path, kind, makedev(*number)))
        attempt(f"open {letter} {number}", lambda: os.close(os.open(path, os.O_RDONLY)))
make_and_open(S_IFBLK, "b", "/tmp", ((8, 0), (253, 0), (254, 0), (259, 0), (7, 0)))
make_and_open(S_IFCHR, "c", "/dev", ((1, 1), (1, 2), (10, 229), (10, 200), (5, 1), (4, 0)))
"""

FILE_HANDLES = """
handle = ctypes.create_string_buffer(8 + 128)
ctypes.c_uint.from_buffer(handle).value = 128
mount_id = ctypes.c_int()
name = lambda: syscall(303, 264, -100, b"/", handle, ctypes.byref(mount_id), 0)
try:
    name()
except OSError:
    ctypes.c_uint.from_buffer(handle).value = 8
    handle[4:8] = (1).to_bytes(4, "little")
    handle[8:16] = (2).to_bytes(8, "little")
root = os.open("/", os.O_RDONLY)
attempt("of the root", lambda: syscall(304, 265, root, handle, 0))
handle[8:16] = (2).to_bytes(8, "little")
attempt("of inode 2", lambda: syscall(304, 265, root, handle, 0))
"""

TERMINALS = """
master, slave = os.openpty()
text = ctypes.create_string_buffer(b"x")
for request in (0x5412, 0x541C):
    attempt(hex(request), lambda: syscall(16, 29, slave, request, text))
    attempt(hex(request) + " high", lambda: syscall(16, 29, slave, request | 1 << 32, text))
"""

SOCKETS = """
RAW, DGRAM, STREAM = socket.SOCK_RAW, socket.SOCK_DGRAM, socket.SOCK_STREAM
for name, family, kind, protocol in (
    ("ALG", 38, 5, 0), ("VSOCK", 40, STREAM, 0), ("VSOCK dgram", 40, DGRAM, 0),
    ("PACKET", 17, RAW, 3), ("KEY", 15, RAW, 2), ("XFRM", 16, RAW, 6),
    ("NETFILTER", 16, RAW, 12), ("AUDIT", 16, RAW, 9), ("UEVENT", 16, RAW, 15),
    ("GENERIC", 16, RAW, 16), ("CRYPTO", 16, RAW, 21), ("BLUETOOTH", 31, RAW, 1),
    ("CAN", 29, RAW, 1), ("TIPC", 30, DGRAM, 0), ("XDP", 44, RAW, 0), ("RDS", 21, 5, 0),
):
    attempt(name, lambda: syscall(41, 198, family, kind, protocol))
"""

KERNEL_INTERFACES = """
block = ctypes.create_string_buffer(256)
attempt("io_uring_setup", lambda: syscall(425, 425, 4, block))
attempt("io_uring_enter", lambda: syscall(426, 426, 0, 0, 0, 0, 0, 0))
attempt("io_uring_register", lambda: syscall(427, 427, 0, 0, 0, 0))
attempt("bpf", lambda: syscall(321, 280, 0, block, 72))
attempt("userfaultfd", lambda: syscall(323, 282, 0))
attempt("perf_event_open", lambda: syscall(298, 241, block, 0, -1, -1, 0))
attempt("keyctl", lambda: syscall(250, 219, 0, -3, 0))
attempt("add_key", lambda: syscall(248, 217, b"user", b"k", b"v", 1, -3))
attempt("request_key", lambda: syscall(249, 218, b"user", b"k", 0, -3))
attempt("kexec_load", lambda: syscall(246, 104, 0, 0, 0, 0))
attempt("init_module", lambda: syscall(175, 105, block, 256, b""))
attempt("finit_module", lambda: syscall(313, 273, 0, b"", 0))
attempt("delete_module", lambda: syscall(176, 106, b"overlay", 0))
attempt("swapon", lambda: syscall(167, 224, b"/etc/passwd", 0))
attempt("reboot", lambda: syscall(169, 142, -18751619, 672274793, 0, 0))
attempt("acct", lambda: syscall(163, 89, b"/tmp/acct"))
attempt("settimeofday", lambda: syscall(164, 170, block, 0))
attempt("syslog", lambda: syscall(103, 116, 3, block, 256))
attempt("quotactl", lambda: syscall(179, 60, 0x800002, b"/dev/vda", 0, block))
"""

FOREIGN_CALLS = """
import mmap, signal
def in_child(name, call):
    pid = os.fork()
    if pid == 0:
        os._exit(0 if call() > 0 else 1)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    outcome[name] = {0: "allowed", 1: "ENOSYS"}.get(status, "killed" if status < 0 else "?")
def i386():
    code = mmap.mmap(-1, 4096, prot=7)
    code.write(bytes.fromhex("b814000000cd80c3"))  # getpid of i386 by int 0x80
    address = ctypes.addressof(ctypes.c_char.from_buffer(code))
    return ctypes.CFUNCTYPE(ctypes.c_int)(address)()
in_child("i386", i386)
in_child("x32", lambda: libc.syscall(ctypes.c_long(0x40000000 | 39)))
in_child("native", lambda: libc.syscall(ctypes.c_long(39)))
"""

FULL_MEMORY = """
def fill(directory):
    written = 0
    with open(directory + "/fill", "wb", buffering=0) as file:
        while written < 200 << 20:
            written += file.write(bytes(1 << 20))
for directory in ("/dev/shm", "/dev"):
    attempt("fill " + directory, lambda: fill(directory))
def inodes(directory):
    for number in range(20_000):
        os.close(os.open(f"{directory}/i{number}", os.O_CREAT | os.O_WRONLY))
os.unlink("/dev/fill")
attempt("inodes /dev", lambda: inodes("/dev"))
"""

FLOODS = """
import resource
kept = []
def until(call, most=200_000):
    for number in range(most):
        kept.append(call(number))
attempt("descriptors", lambda: until(lambda n: os.dup(0)))
for fd in kept: os.close(fd)
kept.clear()
attempt("terminals", lambda: until(lambda n: os.open("/dev/ptmx", os.O_RDWR), 5000))
for fd in kept: os.close(fd)
kept.clear()
def queue(number):
    fd = libc.mq_open(b"/q%d" % number, os.O_CREAT | os.O_RDWR, 0o600, None)
    if fd < 0:
        raise OSError(ctypes.get_errno(), "")
    os.close(fd)
attempt("queues", lambda: until(queue, 5000))
def segment(number):
    if libc.shmget(0, ctypes.c_size_t(4096), 0o600 | 0o1000) < 0:
        raise OSError(ctypes.get_errno(), "")
attempt("segments", lambda: until(segment, 50_000))
def semaphore(number):
    if libc.semget(0, 1, 0o600 | 0o1000) < 0:
        raise OSError(ctypes.get_errno(), "")
attempt("semaphores", lambda: until(semaphore, 50_000))
"""

SETUID_PROGRAM = """
import shutil, subprocess
shutil.copy("/usr/bin/python3", "/srv/p")
os.chmod("/srv/p", 0o4755)
program = ["/srv/p", "-c", "import os; print(os.geteuid())"]
ran = subprocess.run(program, user=1000, group=1000, capture_output=True, text=True)
outcome["setuid program"] = {"0": "allowed", "1000": "EPERM"}[ran.stdout.strip()]
"""

MANY_PROCESSES = """
children = []
def fork():
    for _ in range(300):
        pid = os.fork()
        if pid == 0:
            import time
            time.sleep(60)
            os._exit(0)
        children.append(pid)
attempt("300 processes", fork)
for pid in children:
    os.kill(pid, 9)
"""

MUCH_MEMORY = """
pid = os.fork()
if pid == 0:
    kept = [bytearray(b"x") * (1 << 20) for _ in range(400)]
    os._exit(0)
outcome["400 MiB"] = "allowed" if os.waitpid(pid, 0)[1] == 0 else "ENOMEM"
"""

# The code of lines of the list of attacks, and the errnos that mean "refused".
BY_LINE = {
    1: (NESTED_NAMESPACES, {"ENOSPC", "EPERM", "ENOSYS"}),
    2: (MOUNTS, {"EPERM", "ENOSYS", "EINVAL"}),
    3: (CGROUP_FILES, {"EROFS", "EACCES", "EPERM", "ENOENT"}),
    4: (KERNEL_SETTINGS, {"EROFS", "EACCES", "EPERM", "ENOENT"}),
    5: (DEVICES, {"EPERM", "EACCES", "ENOENT"}),
    6: (FILE_HANDLES, {"EPERM", "ENOSYS"}),
    12: (TERMINALS, {"EPERM"}),
    13: (SOCKETS, {"EPERM", "EACCES", "EAFNOSUPPORT", "EPROTONOSUPPORT", "EINVAL"}),
    14: (KERNEL_INTERFACES, {"EPERM", "ENOSYS"}),
    15: (FOREIGN_CALLS, {"killed", "ENOSYS"}),
    16: (SETUID_PROGRAM, {"EPERM"}),
    21: (MANY_PROCESSES, {"EAGAIN"}),
    22: (MUCH_MEMORY, {"ENOMEM"}),
    23: (FULL_MEMORY, {"ENOSPC"}),
    24: (FLOODS, {"EMFILE", "ENFILE", "ENOSPC", "ENOMEM", "EIO"}),
}
