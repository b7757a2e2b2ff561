"""Which image was made of which by what recipe, so that it is made once: a file for each.

Only what is noted here counts. Labels and references of images are their makers' words, and a
registry's image that says it was made by a recipe is not.
"""

from __future__ import annotations

import json

from ..layout import Layout
from ..oci.digest import Digest
from ..private import make_private
from .staging import Staging

_MOST_BYTES = 4096


class Derivations:
    """The derivations that a store knows of. Several processes may work on one store."""

    def __init__(self, layout: Layout, staging: Staging) -> None:
        self._layout = layout
        self._staging = staging

    def find(self, base: Digest, recipe: str) -> Digest | None:
        """Return the id of the image made of ``base`` by ``recipe``, None if none is noted.

        The image itself may have been removed since.
        """
        try:
            with self._layout.derivation(base, recipe).open("rb") as file:
                noted = json.loads(file.read(_MOST_BYTES))
            if (noted["base"], noted["recipe"]) == (str(base), recipe):
                return Digest.parse(noted["derived"])
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            pass  # a damaged note is none: the image is made anew
        return None

    def note(self, base: Digest, recipe: str, derived: Digest) -> None:
        """Note it, in place of what was noted before. Raises OSError."""
        make_private(self._layout.home, self._layout.derivations)
        content = {"base": str(base), "recipe": recipe, "derived": str(derived)}
        self._staging.publish_json(self._layout.derivation(base, recipe), content)
