"""What became of operations that are tried again and again beside others' on one store."""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Callable


class Tally:
    """``answers`` counts ends by operation; ``unexpected`` has the tracebacks of none of those."""

    def __init__(self, expected: tuple[type[Exception], ...]) -> None:
        self._expected = expected
        self.answers: Counter[str] = Counter()
        self.unexpected: list[str] = []

    def attempt(self, operation: Callable[[], object]) -> None:
        """Do one operation; others may have been faster."""
        try:
            operation()
            answer = "done"
        except self._expected as error:
            answer = type(error).__name__
        except Exception:  # noqa: BLE001 - that is what is looked for
            answer = "unexpected"
            self.unexpected.append(f"{operation.__name__}: {traceback.format_exc()}")
        self.answers[f"{operation.__name__} {answer}"] += 1
