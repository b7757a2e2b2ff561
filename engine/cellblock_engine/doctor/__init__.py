"""What a machine offers to its user, and what is wrong in a store.

The probes (:mod:`..linux.probes`) answer, the rungs judge, whoever asked shows. Nothing here
prints, and but for a repair nothing is changed.
"""

from __future__ import annotations

from .check import Check, Damage, Diagnosis
from .diagnosis import diagnose

__all__ = ["Check", "Damage", "Diagnosis", "diagnose"]
