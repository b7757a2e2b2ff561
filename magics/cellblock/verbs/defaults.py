"""What the flags of ``run`` mean where they are not written: the user's settings."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cellblock_engine import Limits, RunDefaults, RunRequest


def settled(request: RunRequest, defaults: RunDefaults) -> RunRequest:
    """Return the request with every limit that it leaves open set as the defaults have it."""
    return replace(
        request,
        limits=_filled(request.limits, defaults.limits),
        timeout_s=defaults.timeout_s if request.timeout_s is None else request.timeout_s,
    )


def _filled(limits: Limits, defaults: Limits) -> Limits:
    missing = [each.name for each in fields(limits) if getattr(limits, each.name) is None]
    return replace(limits, **{name: getattr(defaults, name) for name in missing})
