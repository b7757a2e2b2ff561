"""Which servers may be talked to without protection, and who may learn credentials; no I/O.

By default: https with a verified certificate, plain http on this machine only, credentials for
the registry itself only. Everything beyond that was named by the user, host by host.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..oci.reference import DOCKER_HUB
from ..settings import Registries
from .origin import Origin

# Docker Hub's tokens come from another host; this one pair is known, no other is trusted.
_HUB_TOKENS = Origin("https", "auth.docker.io", 443)


@dataclass(frozen=True)
class Trust:
    """What the user has allowed beyond the rules of :class:`.origin.Origin`."""

    registries: Registries

    def origin(self, registry: str) -> Origin:
        """Return where a registry, by its name in references, is served. Raises InvalidAnswer."""
        if registry in self.registries.plain_http:
            return Origin.of_url(f"http://{registry}")
        if registry in self.registries.unverified_tls:
            return Origin.of_url(f"https://{registry}")
        return Origin.of_registry(registry)

    def allows(self, origin: Origin) -> bool:
        """Tell whether an origin may be talked to at all: over https, or as plain http by name."""
        return origin.scheme == "https" or origin.is_loopback or self._is_plain(origin)

    def verifies(self, origin: Origin) -> bool:
        """Tell whether an https origin has to show a certificate that the system trusts."""
        named = (Origin.of_url(f"https://{name}") for name in self.registries.unverified_tls)
        return origin not in named

    def may_refer(self, source: Origin, target: Origin) -> bool:
        """Tell whether an answer from ``source`` may send a client to ``target``.

        Never from https to plain http; from plain http to http hosts that were named as well.
        """
        return source.may_refer_to(target) or (source.scheme == "http" and self._is_plain(target))

    def may_learn(self, registry: str, server: Origin) -> bool:
        """Tell whether a token server may be given the credentials for a registry."""
        named = self.registries.token_servers.get(registry, ())
        return (
            server == self.origin(registry)
            or (registry == DOCKER_HUB and server == _HUB_TOKENS)
            or server in (self.origin(name) for name in named)
        )

    def _is_plain(self, origin: Origin) -> bool:
        named = (Origin.of_url(f"http://{name}") for name in self.registries.plain_http)
        return origin in named
