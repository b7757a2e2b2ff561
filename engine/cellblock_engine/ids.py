"""Which ids the containers of a store have: decided once, and written down in the store.

What is unpacked there has owners of these ids on the disk. A store that was made without
subordinate ids stays so when there are some later; one that was made with some needs them again.
"""

from __future__ import annotations

import json
import os

from .errors import StoreError
from .layout import Layout
from .linux import idmaps
from .linux.idmaps import IdMaps
from .store.staging import Staging


def id_maps(layout: Layout, *, single: bool = False) -> IdMaps | None:
    """Return the ids of this store's containers; None where each has a range of its own.

    That is so for root. ``single`` asks for one id in a new store. Raises StoreError where the
    ids that the store was made with cannot be had any more.
    """
    if os.geteuid() == 0 and idmaps.may_map_ranges():
        return None
    noted = _noted(layout)
    if noted is None:
        has_some = layout.containers.is_dir() or layout.layers.is_dir()
        chosen = None if single or has_some else idmaps.subordinate()
        return chosen or idmaps.single()
    if not noted.is_single and idmaps.is_barred():
        raise StoreError(
            f"the store {layout.home} has subordinate ids, which newuidmap cannot give to "
            "a process with no_new_privs: start without (systemd's NoNewPrivileges, Kubernetes' "
            "allowPrivilegeEscalation), or name another store with CELLBLOCK_HOME"
        )
    if not idmaps.are_granted(noted):
        raise StoreError(
            f"the store {layout.home} was made with the ids {_told(noted)}, which user "
            f"{os.geteuid()} has no more: give them back in /etc/subuid and /etc/subgid, or start "
            "anew with system reset"
        )
    return noted


def note(layout: Layout, staging: Staging, *, single: bool = False) -> None:
    """Write down which ids this store's containers have, unless that is done. Raises StoreError."""
    if _noted(layout) is None and (maps := id_maps(layout, single=single)) is not None:
        staging.publish_json(layout.ids, maps)


def _noted(layout: Layout) -> IdMaps | None:
    try:
        return IdMaps.of(json.loads(layout.ids.read_bytes()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, IndexError) as error:
        raise StoreError(f"{layout.ids} is damaged: restore it, or use system reset") from error


def _told(maps: IdMaps) -> str:
    return ", ".join(f"{first}-{first + count - 1}" for _, first, count in maps.uids)
