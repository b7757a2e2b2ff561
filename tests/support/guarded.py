"""A guard before a kernel that a test plays, and what may be in what passes it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from html.parser import HTMLParser

from cellblock_kernel.gate.guard import Guard
from cellblock_kernel.gate.ledger import Ledger
from cellblock_kernel.gate.messages import Message

HTTP = ("http://", "https://", "mailto:")


class Guarded:
    """A guard and a ledger as they stand in a gate, between the lists of what has passed them."""

    def __init__(self) -> None:
        self.ledger = Ledger()
        self.guard = Guard(self.ledger)
        self.guard.passage = self
        self.answered: list[tuple[str, Message]] = []

    def ask(self, kind="execute_request", content=None, channel="shell", **header):
        """Ask as a front end; return the request if it passed."""
        message = Message.of(kind, content or {"code": "1"})
        message = message.but(header={**message.header, **header})
        passed = []
        for each in self.ledger.inward(channel, message):
            passed += self.guard.inward(channel, each)
        assert passed in ([message], [])
        return passed[0] if passed else None

    def say(self, channel, message):
        """Say as the kernel; return what passed, which must bear nothing that it had said."""
        passed = []
        for each in self.guard.outward(channel, message):
            passed += self.ledger.outward(channel, each)
        for each in passed:
            json.dumps(each.content, ensure_ascii=False, allow_nan=False).encode()
            assert each.metadata == {}
            assert each.buffers == []
            assert set(each.header) == {
                *("msg_id", "msg_type", "username", "session", "date", "version"),
            }
        return passed

    def publish(self, kind, content, request):
        """Publish for a request; return kinds and contents of what passed."""
        said = Message.of(kind, content, parent=request.header if request else None)
        return [(each.kind, each.content) for each in self.say("iopub", said)]

    def reply(self, kind, content, request, channel="shell"):
        """Reply to a request; return the content of what passed, None for nothing."""
        said = Message.of(kind, content, parent=request.header)
        passed = self.say(channel, said)
        return passed[0].content if passed else None

    def begin(self, code="1", **content):
        """Ask for a cell and let it begin."""
        request = self.ask(content={"code": code, **content})
        assert self.publish("status", {"execution_state": "busy"}, request)
        return request

    def end(self, request):
        """End a cell; return what was published last."""
        self.reply("execute_reply", {"status": "ok"}, request)
        return self.publish("status", {"execution_state": "idle"}, request)

    def pass_inward(self, channel, message, beyond):
        raise AssertionError

    def pass_outward(self, channel, message, beyond):
        assert beyond is self.guard
        self.ledger.outward(channel, message)
        self.answered.append((channel, message))


def acts(html: str) -> list[str]:
    """Return what in markup could act on a page or load something, as a parser of its own reads."""
    found = _Acting()
    found.feed(html)
    found.close()
    return found.what


class _Acting(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.what: list[str] = []

    def handle_starttag(self, tag, attrs):
        if tag in "script style link meta base iframe object embed form svg math template".split():
            self.what.append(tag)
        for name, value in attrs:
            url = (value or "").strip().lower()
            if name.startswith(("on", "data-")) or name in ("id", "name", "srcset", "srcdoc"):
                self.what.append(name)
            if name == "src" and not url.startswith("data:image/"):
                self.what.append(url)
            if name == "href" and not url.startswith(HTTP):
                self.what.append(url)
            if name == "style" and ("url" in url or "\\" in url):
                self.what.append(url)


def strings(plain: object) -> Iterator[str]:
    """Yield all text in JSON."""
    if isinstance(plain, str):
        yield plain
    elif isinstance(plain, dict):
        for key, value in plain.items():
            yield key
            yield from strings(value)
    elif isinstance(plain, list):
        for value in plain:
            yield from strings(value)
