"""What passes from a kernel that is not trusted, and for which cell."""

from __future__ import annotations

import json
import time

import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st

from cellblock_kernel.gate.answers import REQUESTS
from cellblock_kernel.gate.messages import Message
from cellblock_kernel.gate.shown import OUTPUTS
from cellblock_kernel.outputs.text import clean
from support.guarded import Guarded, acts, strings

TITLE = "\x1b]0;title\x07"
PASTE = "\x1b]52;c;ZXZpbA==\x07"
LINK = "\x1b]8;;http://evil\x1b\\"
HOSTILE = f"{TITLE}{PASTE}{LINK}\x1b[31mred\x1b[0m\ud800"
SHOWN = "\x1b[31mred\x1b[0m"


@pytest.fixture
def guarded():
    return Guarded()


@pytest.mark.parametrize(
    ("kind", "content", "shown"),
    [
        ("stream", {"name": "stdout", "text": HOSTILE}, {"name": "stdout", "text": SHOWN}),
        ("clear_output", {"wait": True, "x": 1}, {"wait": True}),
        ("clear_output", {"wait": "yes"}, {"wait": False}),
        (
            "error",
            {"ename": HOSTILE, "evalue": HOSTILE, "traceback": [HOSTILE, 7], "x": 1},
            {"ename": "red", "evalue": "red", "traceback": [SHOWN, ""]},
        ),
        ("error", {"traceback": 7}, {"ename": "", "evalue": "", "traceback": []}),
        (
            "execute_input",
            {"code": "import os", "execution_count": 3},
            {"code": "asked", "execution_count": 3},
        ),
        (
            "execute_result",
            {"data": {"text/plain": HOSTILE}, "execution_count": True},
            {"data": {"text/plain": SHOWN}, "metadata": {}, "transient": {}, "execution_count": 0},
        ),
        (
            "display_data",
            {"data": {"text/plain": ["a", "b"], "text/html": ["<b id=x>", "c"]}, "metadata": 7},
            {
                "data": {"text/plain": "ab", "text/html": "<b>c</b>"},
                "metadata": {},
                "transient": {},
            },
        ),
    ],
)
@pytest.mark.attack(58, 60, 63)
def test_outputs_are_made_anew(guarded, kind, content, shown):
    request = guarded.begin("asked")
    assert guarded.publish(kind, content, request) == [(kind, shown)]


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("comm_open", {"comm_id": "c", "target_name": "jupyter.widget"}),
        ("comm_msg", {"comm_id": "c", "data": {}}),
        ("comm_close", {"comm_id": "c"}),
        ("debug_event", {"event": "stopped"}),
        ("status", {"execution_state": "restarting"}),
        ("stream", {"name": "stdlog", "text": "x"}),
        ("stream", {"name": ["stdout"], "text": "x"}),
        ("iopub_welcome", {"subscription": "x"}),
        ("shutdown_reply", {"status": "ok"}),
        ("execute_reply", {"status": "ok"}),
        ("custom_thing", {}),
    ],
)
@pytest.mark.attack(61)
def test_nothing_else_is_published(guarded, kind, content):
    request = guarded.begin()
    assert guarded.publish(kind, content, request) == []


def test_what_was_left_out_is_said_once_before_the_end(guarded):
    request = guarded.begin()
    for _ in range(3):
        guarded.publish("comm_open", {}, request)
        guarded.publish("display_data", {"data": {"text/html": "<script>"}}, request)
    (kind, content), (last, _) = guarded.end(request)
    assert (kind, content["name"], last) == ("stream", "stderr", "status")
    assert content["text"] == (
        "cellblock: reduced for safety: a widget, scripts; a kernel that is installed without "
        "--untrusted shows all\n"
    )
    assert guarded.end(guarded.begin()) == [("status", {"execution_state": "idle"})]


def test_a_sequence_may_come_in_two_messages(guarded):
    request = guarded.begin()
    out = []
    for text in ("a\x1b[3", "1mb\x1b]0;", "title\x07c\x1b"):
        out += guarded.publish("stream", {"name": "stdout", "text": text}, request)
    out += guarded.end(request)
    assert "".join(content.get("text", "") for _, content in out) == "a\x1b[31mbc"


class TestCells:
    @pytest.mark.attack(62)
    def test_only_the_one_whose_turn_it_is_is_shown_anything(self, guarded):
        first = guarded.begin()
        second = guarded.ask()
        text = {"name": "stdout", "text": "x"}
        assert guarded.publish("stream", text, second) == []
        assert guarded.publish("status", {"execution_state": "busy"}, second) == []
        assert guarded.publish("stream", text, Message.of("execute_request", {})) == []
        assert guarded.publish("stream", text, None) == []
        guarded.end(first)
        assert guarded.publish("stream", text, first), "a thread of it"
        assert guarded.publish("stream", text, second)
        assert guarded.publish("stream", text, first) == []

    @pytest.mark.attack(62)
    def test_requests_that_are_no_cells_show_nothing(self, guarded):
        request = guarded.ask("complete_request", {"code": ""})
        busy = [("status", {"execution_state": "busy"})]
        assert guarded.publish("status", {"execution_state": "busy"}, request) == busy
        assert guarded.publish("display_data", {"data": {"text/plain": "x"}}, request) == []

    def test_subshells_have_turns_of_their_own(self, guarded):
        guarded.begin()
        other = guarded.ask(subshell_id="s")
        assert guarded.publish("stream", {"name": "stdout", "text": "x"}, other)

    def test_one_that_was_left_out_does_not_hold_up_the_next(self, guarded):
        guarded.ask()
        request = guarded.begin()
        assert guarded.publish("stream", {"name": "stdout", "text": "x"}, request)

    @pytest.mark.attack(61)
    def test_displays_are_those_of_one_cell(self, guarded):
        def shown(kind, request, **transient):
            content = {"data": {"text/plain": "x"}, "transient": transient}
            return guarded.publish(kind, content, request)

        first = guarded.begin()
        ((_, made),) = shown("display_data", first, display_id="d", x=1)
        ((_, updated),) = shown("update_display_data", first, display_id="d")
        assert made["transient"] == updated["transient"]
        assert set(made["transient"]) == {"display_id"}
        assert made["transient"]["display_id"] != "d"
        assert shown("update_display_data", first, display_id="other") == []
        assert shown("update_display_data", first, display_id=["d"]) == []
        guarded.end(first)
        second = guarded.begin()
        assert shown("update_display_data", second, display_id="d") == []
        assert shown("update_display_data", second, **made["transient"]) == []
        ((_, again),) = shown("display_data", second, display_id="d")
        assert again["transient"] != made["transient"]

    def test_ten_thousand_are_not_kept(self, guarded):
        for _ in range(3000):
            guarded.end(guarded.begin())
        assert len(guarded.guard._turns._cells) < 2002

    @pytest.mark.attack(62)
    def test_headers_and_addresses_are_those_of_the_request(self, guarded):
        request = guarded.begin()
        lie = {**request.header, "session": "other", "date": "1970", "x": {"y": 1}}
        other = [zmq.Frame(b"another client")]
        said = Message.of("execute_reply", {"status": "ok"}, parent=lie, identities=other)
        said = said.but(header={**said.header, "x": 1}, metadata={"x": 1}, buffers=other)
        (passed,) = guarded.say("shell", said)
        assert passed.parent == request.header
        assert passed.identities == request.identities


class TestReplies:
    @pytest.mark.attack(62)
    def test_payloads_are_dropped(self, guarded):
        expressions = {"a": "1", "b": "2"}
        request = guarded.begin(user_expressions=expressions)
        payload = [
            {"source": "set_next_input", "text": "import os", "replace": True},
            {"source": "page", "data": {"text/html": "<script>"}},
            {"source": "ask_exit"},
        ]
        said = {"status": "ok", "data": {"text/plain": HOSTILE, "text/html": "<i onclick=x>y"}}
        told = guarded.reply(
            "execute_reply",
            {
                "status": "ok",
                "execution_count": 4,
                "payload": payload,
                "user_expressions": {"a": said, "b": 7, "c": said},
                "engine_info": {},
            },
            request,
        )
        failed = {"status": "error", "ename": "", "evalue": "", "traceback": []}
        shown = {"text/plain": SHOWN, "text/html": "<i>y</i>"}
        assert told == {
            "status": "ok",
            "execution_count": 4,
            "payload": [],
            "user_expressions": {"a": {"status": "ok", "data": shown, "metadata": {}}, "b": failed},
        }

    def test_errors_are_cleaned(self, guarded):
        request = guarded.begin()
        said = {"status": "error", "ename": HOSTILE, "evalue": HOSTILE, "traceback": HOSTILE}
        told = guarded.reply("execute_reply", {**said, "payload": [{}]}, request)
        assert told == {
            "status": "error",
            "ename": "red",
            "evalue": "red",
            "traceback": [],
            "execution_count": 0,
            "payload": [],
            "user_expressions": {},
        }

    @pytest.mark.attack(62)
    def test_a_second_one_or_one_of_another_kind_or_channel_is_none(self, guarded):
        request = guarded.ask("inspect_request", {})
        assert guarded.reply("execute_reply", {"status": "ok"}, request) is None
        assert guarded.reply("inspect_reply", {"status": "ok"}, request, "control") is None
        assert guarded.reply("inspect_reply", {"status": "ok"}, request) is not None
        assert guarded.reply("inspect_reply", {"status": "ok"}, request) is None

    @pytest.mark.parametrize(
        ("kind", "content", "told"),
        [
            (
                "inspect",
                {
                    "found": True,
                    "data": {"text/html": "<a href=javascript:x>y"},
                    "metadata": {"a": 1},
                },
                {"found": True, "data": {"text/html": '<a rel="noopener noreferrer">y</a>'}}
                | {"metadata": {}},
            ),
            (
                "complete",
                {
                    "matches": [HOSTILE, 7],
                    "cursor_start": 1,
                    "cursor_end": "x",
                    "metadata": {"a": 1},
                },
                {"matches": ["red", ""], "cursor_start": 1, "cursor_end": 0, "metadata": {}},
            ),
            (
                "history",
                {"history": [[1, 2, HOSTILE], [1, 3, [HOSTILE, None]], 7, [1]]},
                {"history": [[1, 2, "red"], [1, 3, ["red", None]]]},
            ),
            ("comm_info", {"comms": {"c": {"target_name": "t"}}}, {"comms": {}}),
            ("shutdown", {"restart": True, "x": 1}, {"restart": True}),
            ("interrupt", {"x": 1}, {}),
            ("create_subshell", {"subshell_id": "<script>"}, {"subshell_id": ""}),
            ("list_subshell", {"subshell_id": ["a-1", "<b>", 7]}, {"subshell_id": ["a-1"]}),
            ("delete_subshell", {"x": 1}, {}),
        ],
    )
    @pytest.mark.attack(62, 63)
    def test_others_are_made_anew(self, guarded, kind, content, told):
        request = guarded.ask(f"{kind}_request", {})
        said = guarded.reply(f"{kind}_reply", {"status": "ok", **content}, request)
        assert said == {"status": "ok", **told}

    def test_types_of_matches_are_plain(self, guarded):
        request = guarded.ask("complete_request", {})
        types = [{"text": "a", "type": "<img src=x>", "start": 1, "end": 2, "x": 1}, 7]
        metadata = {"_jupyter_types_experimental": types}
        told = guarded.reply("complete_reply", {"status": "ok", "metadata": metadata}, request)
        assert told["metadata"]["_jupyter_types_experimental"] == [
            {"start": 1, "end": 2, "text": "a", "type": "", "signature": ""}
        ]

    def test_is_complete(self, guarded):
        for said, told in (
            ({"status": "incomplete", "indent": "  "}, {"status": "incomplete", "indent": "  "}),
            ({"status": "incomplete", "indent": "x"}, {"status": "incomplete", "indent": ""}),
            ({"status": "ok"}, {"status": "unknown"}),
        ):
            request = guarded.ask("is_complete_request", {})
            assert guarded.reply("is_complete_reply", said, request) == told

    @pytest.mark.attack(62)
    def test_an_introduction_names_nothing_that_is_imported(self, guarded):
        request = guarded.ask("kernel_info_request", {})
        language = {
            "name": "evil.module",
            "version": HOSTILE,
            "mimetype": "text/html<",
            "file_extension": "../../x",
            "pygments_lexer": "evil.Lexer",
            "codemirror_mode": {"name": "evil/../x", "version": 3},
            "nbconvert_exporter": "os.system",
            "more": "x",
        }
        links = [
            {"text": HOSTILE, "url": "https://docs.example/"},
            {"text": "x", "url": "javascript:alert(1)"},
            {"text": "x", "url": ["https://docs.example/"]},
            7,
        ]
        said = {"status": "ok", "language_info": language, "banner": HOSTILE, "debugger": True}
        more = {"help_links": links, "supported_features": ["debugger", "kernel subshells"]}
        assert guarded.reply("kernel_info_reply", {**said, **more}, request) == {
            "status": "ok",
            "protocol_version": "5.3",
            "implementation": "",
            "implementation_version": "",
            "language_info": {
                "name": "unknown",
                "version": "",
                "mimetype": "text/plain",
                "file_extension": ".txt",
            },
            "banner": "red",
            "help_links": [{"text": "red", "url": "https://docs.example/"}],
            "supported_features": ["kernel subshells"],
            "debugger": False,
        }


class TestQuestions:
    def question(self, guarded, request, **content):
        said = Message.of("input_request", content, parent=request.header)
        return [each.content for each in guarded.say("stdin", said)]

    def test_a_cell_that_may_ask_does_and_is_answered_once(self, guarded):
        request = guarded.begin()
        assert guarded.ask("input_reply", {"value": "x"}, "stdin") is None
        shown = self.question(guarded, request, prompt=HOSTILE, password=7)
        assert shown == [{"prompt": "red", "password": False}]
        assert guarded.ask("input_reply", {"value": "x"}, "stdin") is not None
        assert guarded.ask("input_reply", {"value": "x"}, "stdin") is None

    @pytest.mark.attack(62)
    def test_nobody_else_asks(self, guarded):
        shy = guarded.begin(allow_stdin=False)
        assert self.question(guarded, shy) == []
        guarded.end(shy)
        assert self.question(guarded, Message.of("execute_request", {})) == []
        assert self.question(guarded, guarded.ask("inspect_request", {})) == []
        done = guarded.begin()
        self.question(guarded, done)
        guarded.end(done)
        assert self.question(guarded, done) == []
        assert guarded.ask("input_reply", {"value": "x"}, "stdin") is None


class TestInward:
    def test_the_debugger_is_not_there_and_nobody_waits(self, guarded):
        assert guarded.ask("debug_request", {"seq": 3, "command": "attach"}, "control") is None
        (_, busy), (channel, reply), (_, idle) = guarded.answered
        assert (channel, reply.kind) == ("control", "debug_reply")
        assert (reply.content["success"], reply.content["request_seq"]) == (False, 3)
        assert (busy.kind, idle.content["execution_state"]) == ("status", "idle")
        assert guarded.ledger.open_requests() == ()

    @pytest.mark.parametrize(
        ("kind", "channel"), [("usage_request", "control"), ("execute_request", "control")]
    )
    def test_what_would_not_be_answered_is_refused(self, guarded, kind, channel):
        assert guarded.ask(kind, {}, channel) is None
        assert guarded.answered[1][1].content["status"] == "error"
        assert guarded.ledger.open_requests() == ()

    @pytest.mark.attack(61)
    def test_comms_are_closed_at_once(self, guarded):
        assert guarded.ask("comm_open", {"comm_id": "c"}) is None
        assert [each.kind for _, each in guarded.answered] == ["status", "comm_close", "status"]
        assert guarded.ledger.open_comms() == ()
        assert guarded.ask("comm_msg", {"comm_id": "c"}) is None

    @pytest.mark.parametrize("kind", sorted(REQUESTS))
    def test_all_else_passes(self, guarded, kind):
        assert guarded.ask(kind, {}) is not None


# What a kernel can say, with the words that are looked at among the rest.
_WORDS = (
    "data text/html text/plain application/json image/svg+xml transient display_id name text "
    "stdout status ok execution_state idle busy ename evalue traceback metadata matches "
    "language_info help_links url user_expressions a found history execution_count"
).split()
_HTML = [
    "<script>alert(1)</script>",
    "<img src=//e onerror=x>",
    "<img src=https://e>",
    "<a href='javascript:x'>",
    "<svg>",
]
_HTML += ["<b id=a data-commandlinker-command=x>", "<p style='color:url(//e)'>", HOSTILE, "'", ">"]
_TEXT = st.lists(st.sampled_from(_HTML) | st.text(max_size=5), max_size=5).map("".join)
_LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | _TEXT | st.sampled_from(_WORDS)
_ANYTHING = st.recursive(
    _LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(_WORDS) | _TEXT, inner, max_size=6)
    ),
    max_leaves=20,
)
_CONTENT = st.dictionaries(st.sampled_from(_WORDS) | _TEXT, _ANYTHING, max_size=8)
_BUNDLE = st.dictionaries(
    st.sampled_from(["text/html", "text/plain", "image/svg+xml", "application/json"]), _ANYTHING
)
_REPLIES = sorted(kind.replace("_request", "_reply") for kind in REQUESTS)


def assert_harmless(passed):
    for message in passed:
        for data in (message.content.get("data"), *message.content.get("user_expressions", {})):
            if isinstance(data, dict):
                assert not acts(data.get("text/html", ""))
                assert set(data) <= {"text/html", "text/plain", "application/json"}
        for said in strings({**message.content, "data": None}):
            assert clean(said) == said


@given(st.sampled_from([*OUTPUTS, "status", "comm_open"]), _CONTENT, _BUNDLE, st.booleans())
@pytest.mark.attack(58, 59, 60, 63)
def test_whatever_is_published_shows_and_cannot_act(kind, content, bundle, has_bundle):
    guarded = Guarded()
    request = guarded.begin()
    if has_bundle:
        content = {**content, "data": bundle}
    said = Message.of(kind, content, parent=request.header, metadata=content)
    assert_harmless(guarded.say("iopub", said))


@given(st.sampled_from(_REPLIES), _CONTENT, st.booleans())
@pytest.mark.attack(58, 62, 63)
def test_whatever_is_replied_is_answered_and_cannot_act(kind, content, is_ok):
    guarded = Guarded()
    asked = {"code": "", "user_expressions": {"a": "1"}}
    request = guarded.ask(kind.replace("_reply", "_request"), asked)
    content = {**content, "status": "ok"} if is_ok else content
    passed = guarded.say("shell", Message.of(kind, content, parent=request.header))
    assert len(passed) == 1
    assert_harmless(passed)


@given(
    st.lists(st.binary(max_size=40), min_size=4, max_size=4), st.sampled_from(["iopub", "shell"])
)
def test_no_bytes_raise(parts, channel):
    guarded = Guarded()
    guarded.begin()
    assert guarded.say(channel, Message([], [zmq.Frame(part) for part in parts])) == []


_DEEP = b"[" * 10_000_000
_WORST = {
    "deep": b'{"data": ' + _DEEP,
    "lists": b'{"data": [' + b"[]," * 10_000_000 + b"[]]}",
    "lists below the bound": b'{"data": [' + b"[]," * 690_000 + b"[]]}",
    "huge": b'{"data": {"text/plain": "' + b"x" * (80 << 20) + b'"}}',
    "HTML": json.dumps({"data": {"text/html": "<b><i>" * 8_000_000}}).encode(),
    "nested HTML": json.dumps({"data": {"text/html": "<div>" * 1_600_000}}).encode(),
    "entities": json.dumps({"data": {"text/html": "&" * 8_000_000}}).encode(),
    "JSON": json.dumps({"data": {"application/json": [[1] * 100] * 20_000}}).encode(),
    "sequences": json.dumps({"data": {"text/plain": "\x1b[1m" * 8_000_000}}).encode(),
    "types": json.dumps({"data": {f"a/{n}": "x" for n in range(400_000)}}).encode(),
}


@pytest.mark.parametrize("content", _WORST.values(), ids=_WORST)
@pytest.mark.attack(58)
def test_no_output_takes_long(guarded, content):
    request = guarded.begin()
    said = Message.of("display_data", {}, parent=request.header)
    said = Message([], [*said._parts[:3], zmq.Frame(content)])
    started = time.monotonic()
    guarded.say("iopub", said)
    assert time.monotonic() - started < 8, "a second where nothing else runs"
    assert guarded.publish("stream", {"name": "stdout", "text": "x"}, request)


def test_fifty_megabytes_of_text_pass_with_what_is_in_them(guarded):
    request = guarded.begin()
    text = str(list(range(6_000_000)))
    ((_, shown),) = guarded.publish("stream", {"name": "stdout", "text": text}, request)
    assert shown["text"] == text
