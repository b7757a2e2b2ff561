"""Names of containers, and those whose makers gave none: a quality and a builder of things."""

from __future__ import annotations

import re
import secrets

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}")

_QUALITIES = """
    able agile amber azure bold brave brisk bright calm candid clear clever cosy crisp deft
    eager early fair fancy fleet fresh frank gentle glad golden grand happy hardy honest ideal
    jolly keen kind lively loyal lucid merry mild modest neat nimble noble patient plain polite
    proud quick quiet ready robust serene sharp smart solid sound steady sunny swift tidy upbeat
    vivid warm wise witty zesty
""".split()
_BUILDERS = """
    ampere babbage banach bell bohr boole borg cantor carson cerf church clarke codd curie dahl
    darwin dijkstra euclid euler faraday fermi floyd franklin galois gauss goldberg hamilton
    hawking hilbert hoare hopper jacobi johnson kay kepler knuth lamport laplace leavitt liskov
    lovelace maxwell meitner mendel milner moore naur newton noether pascal perlis planck
    ramanujan ritchie shannon tarjan tesla thompson turing wiles wirth yonath
""".split()


def is_name(text: object) -> bool:
    """Tell whether a container can be called so."""
    return isinstance(text, str) and _NAME.fullmatch(text) is not None


def random_name() -> str:
    """Return a name such as ``keen_noether``; it may be in use."""
    return f"{secrets.choice(_QUALITIES)}_{secrets.choice(_BUILDERS)}"
