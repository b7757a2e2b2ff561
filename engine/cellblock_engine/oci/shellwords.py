"""Words and variables of a Dockerfile's instructions, as its own little shell reads them; no I/O.

Not a shell: quotes, backslashes, ``$NAME`` and ``${NAME}`` with ``-``, ``+`` and ``?`` are all
there is (Docker's Dockerfile reference, "Environment replacement"). What takes room or time is
bounded, as variables come from images that others made.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..errors import InvalidInput

LONGEST_WORD_BYTES = 128 * 2**10
"""What execve(2) takes of one string (MAX_ARG_STRLEN)."""
_MOST_EXPANDED = 4 * 2**20  # characters, of all words of an image's config
_DEEPEST = 50  # ${a:-${b:-...}}


def split_words(text: str) -> list[str]:
    """Return the words of ``text``, divided by blanks outside of quotes; quotes stay."""
    words: list[str] = []
    word, quote, at = "", "", 0
    while at < len(text):
        character = text[at]
        if not quote and character.isspace():
            words += [word] if word else []
            word, at = "", at + 1
            continue
        if character == "\\" and quote != "'":
            word += text[at : at + 2]
            at += 2
            continue
        if character == quote:
            quote = ""
        elif not quote and character in "'\"":
            quote = character
        word += character
        at += 1
    return [*words, word] if word else words


class Expansion:
    """Replaces variables by their values in ``env``, which may change between words."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self.env = env
        self._left = _MOST_EXPANDED

    def word(self, text: str) -> str:
        """Return ``text`` without its quotes and with values for variables; unset is empty.

        Raises InvalidInput for what cannot be read, and for what becomes too long.
        """
        value = _Reader(text, self.env).read("")
        self._left -= len(value)
        if self._left < 0:
            raise InvalidInput("the values are longer than an image's config may be: shorten them")
        return value


class _Reader:
    """One word that is being read, from its beginning to its end."""

    def __init__(self, text: str, env: Mapping[str, str]) -> None:
        self._text, self._env = text, env
        self._at = self._depth = 0

    def read(self, end: str) -> str:
        """Return what is before the character ``end``, or all; ``end`` itself is passed over."""
        found: list[str] = []
        length = 0
        while (character := self._next()) != end:
            if not character:
                raise self._wrong(f"it has no {end!r} where one is needed")
            if character == "'":
                piece = self._single()
            elif character == '"':
                piece = self._double()
            elif character == "$":
                piece = self._variable()
            elif character == "\\":
                piece = self._next()
            else:
                piece = character
            length += len(piece)
            if length > LONGEST_WORD_BYTES:
                raise self._wrong("it becomes longer than a program can be given (128 KiB)")
            found.append(piece)
        return "".join(found)

    def _single(self) -> str:
        end = self._text.find("'", self._at)
        if end < 0:
            raise self._wrong("a quote ' is not closed")
        piece, self._at = self._text[self._at : end], end + 1
        return piece

    def _double(self) -> str:
        found: list[str] = []
        length = 0
        while (character := self._next()) != '"':
            if not character:
                raise self._wrong('a quote " is not closed')
            if character == "$":
                character = self._variable()
            elif character == "\\" and self._peek() in ('"', "$", "\\"):
                character = self._next()
            length += len(character)
            if length > LONGEST_WORD_BYTES:
                raise self._wrong("it becomes longer than a program can be given (128 KiB)")
            found.append(character)
        return "".join(found)

    def _variable(self) -> str:
        if self._peek() != "{":
            name = self._name()
            return self._env.get(name, "") if name else "$"
        self._at += 1
        name = self._name()
        if not name:
            raise self._wrong("a ${ is not followed by a name")
        value, operator = self._env.get(name), self._next()
        if operator == "}":
            return value or ""
        if operator == ":":  # empty is as good as unset
            value, operator = value or None, self._next()
        if not operator:
            raise self._wrong("it has no '}' where one is needed")
        if operator not in ("-", "+", "?"):
            raise self._wrong(f"${{{name}}} has an operator other than :- :+ :? - + ?")
        self._depth += 1
        if self._depth > _DEEPEST:
            raise self._wrong(f"its variables are more than {_DEEPEST} deep in each other")
        word = self.read("}")
        self._depth -= 1
        if operator == "+":
            return "" if value is None else word
        if value is None and operator == "?":
            raise InvalidInput(f"variable {name} is not set in the image: {word or 'set it'}")
        return word if value is None else value

    def _name(self) -> str:
        begin = self._at
        if self._peek() in tuple("@*#?-$!"):  # a shell's own, of which there are none
            self._at += 1
            return self._text[begin : self._at]
        while (character := self._peek()) and (character.isalnum() or character == "_"):
            self._at += 1
            if self._text[begin].isdigit() and not self._peek().isdigit():
                break
        return self._text[begin : self._at]

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _next(self) -> str:
        character = self._peek()
        self._at += 1
        return character

    def _wrong(self, why: str) -> InvalidInput:
        return InvalidInput(f"{self._text[:60]!r} cannot be read: {why}")
