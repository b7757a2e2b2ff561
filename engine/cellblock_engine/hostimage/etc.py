"""What of /etc a sandbox may see: files that everybody may read and that hold no credentials.

Decides, and rewrites the account files; copies nothing. Being readable by "other" comes first;
the patterns below are for administrators who left a secret readable.
"""

from __future__ import annotations

import fnmatch
import re
import stat

MAX_FILE_BYTES = 4 * 2**20
MAX_TOTAL_BYTES = 64 * 2**20
MAX_ENTRIES = 20_000
_LAST_SYSTEM_ID = 999  # login.defs SYS_UID_MAX
_NOBODY_ID = 65534

# The runtime gives each container its own.
_PROVIDED = ("hostname", "hosts", "resolv.conf")

# Says whose machine this is, or is of no use without the machine's services.
_NOT_FOR_SANDBOXES = (
    "machine-id",
    "fstab",
    "crypttab",
    "exports",
    "auto.*",
    "cron*",
    "init.d",
    "rc?.d",
    "systemd",
    "sudoers*",
    "subuid*",
    "subgid*",
)

_SECRET_NAMES = (
    "*shadow*",
    "*passwd-",
    "group-",
    "*~",
    "*.bak",
    "*.orig",
    "*.old",
    "*.save",
    "*.dpkg-*",
    "*.rpm*",
    "*.swp",
    "*.key",
    "*_key",
    "*-key.pem",
    "*privkey*",
    "*_rsa",
    "*_ed25519",
    "*_ecdsa",
    "*.keytab",
    "*.kdbx",
    "*.p12",
    "*.pfx",
    "*.psk",
    "*.ovpn",
    "*credential*",
    "*secret*",
    "*token*",
    "*password*",
    ".git*",
    ".netrc",
    "netrc",
    ".pgpass",
    ".pypirc",
    ".my.cnf",
    "auth.conf*",
    "auth.json",
    "authinfo",
    "environment*",
    "odbc.ini",
    "nslcd.conf",
    "*ldap.conf",
    "*krb5.conf.d",
    "msmtprc",
    "ssmtp",
    "wpa_supplicant*",
    "private",
    "ssh",
    "ssh_host_*",
    "docker",
    "containerd",
    "containers",
    "crio",
    "cni",
    "kubernetes",
    "rancher",
    "k3s",
    "aws",
    ".aws",
    "amazon",
    "azure",
    "boto*",
    "gcloud",
    "google*",
    "s3cfg",
    "rclone*",
    "cloud",
    "jupyter*",
    "ipython",
    "letsencrypt",
    "acme*",
    "wireguard",
    "openvpn",
    "ipsec*",
    "swanctl",
    "strongswan*",
    "networkmanager",
    "netplan",
    "ppp",
    "ldap",
    "samba",
    "mysql",
    "postgresql*",
    "redis",
    "mongo*",
    "rabbitmq",
    "grafana",
    "vault*",
    "consul*",
    "nomad*",
    "salt",
    "puppet*",
    "chef",
    "ansible",
    "postfix",
    "exim*",
    "dovecot",
)
# Configuration whose names or samples look like secrets, and which programs cannot do without.
_KNOWN_HARMLESS = ("pam.d/*", "ssl/openssl.cnf", "pki/tls/openssl.cnf", "nsswitch.conf")

_SECRET_CONTENT = re.compile(
    rb"""
      -----BEGIN\ (?:[A-Z0-9]+\ )*PRIVATE\ KEY
    | ://[^\s/@:'"]*:[^\s/@'"]+@                # user and password in a URL
    | https?://[^\s/@:'"]+@                     # a token in a URL
    | (?:^|\n)[ \t]*[^\s#;=]*(?:password|passwd|secret|token|_auth|api_?key|access_?key)
      [ \t]*[=:][ \t]*\S
    """,
    re.IGNORECASE | re.VERBOSE,
)


def may_enter(relative: str, mode: int) -> bool:
    """Tell whether the directory at ``relative`` (to /etc) may be looked into and copied."""
    return mode & 0o005 == 0o005 and not _named_like_a_secret(relative)


def may_copy(relative: str, mode: int, size: int) -> bool:
    """Tell whether the regular file at ``relative`` may be opened to be copied."""
    readable = stat.S_ISREG(mode) and bool(mode & stat.S_IROTH)
    return readable and size <= MAX_FILE_BYTES and not _named_like_a_secret(relative)


def may_link(relative: str) -> bool:
    """Tell whether the symbolic link at ``relative`` may be copied."""
    return not _named_like_a_secret(relative)


def holds_credentials(content: bytes) -> bool:
    """Tell whether a file's content has a private key, a password or a token in clear."""
    return _SECRET_CONTENT.search(content) is not None


def rewrite(relative: str, content: bytes) -> bytes | None:
    """Return what a sandbox sees of a file, None where it must not see it at all."""
    if relative in ("passwd", "group"):
        kept = _accounts(content, kept_fields=7 if relative == "passwd" else 4)
        return _without_members(kept) if relative == "group" else b"".join(kept)
    if not _matches(relative, _KNOWN_HARMLESS) and holds_credentials(content):
        return None
    return content


def _accounts(content: bytes, kept_fields: int) -> list[bytes]:
    """Return the lines of system accounts, without password hashes; people are left out."""
    lines = []
    for line in content.splitlines():
        fields = line.split(b":")
        if len(fields) != kept_fields or not fields[2].isdigit():
            continue
        if int(fields[2]) <= _LAST_SYSTEM_ID or int(fields[2]) == _NOBODY_ID:
            fields[1] = b"x"
            lines.append(b":".join(fields) + b"\n")
    return lines


def _without_members(lines: list[bytes]) -> bytes:
    """Return the lines of a group file with nobody in the groups: members are people's names."""
    return b"".join(line.rpartition(b":")[0] + b":\n" for line in lines)


def _named_like_a_secret(relative: str) -> bool:
    if relative in _PROVIDED:
        return True
    if _matches(relative, _KNOWN_HARMLESS):
        return False
    name = relative.rpartition("/")[2].lower()
    return _matches(name, _NOT_FOR_SANDBOXES) or _matches(name, _SECRET_NAMES)


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
