"""Asking a language model, against a real server that speaks the protocol, and fails in every way it may."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from conceptlens.bottleneck.concept_writing import concept_writer
from conceptlens.bottleneck.concept_writing.concept_writer import WRITER_PROMPTS, parse_answer, write_concepts
from conceptlens.concepts.concept_set import ConceptSet
from conceptlens.io.errors import InputError

pytestmark = pytest.mark.wide

KEY = "sk-secret-0123"
ONE = {"important": "What shows a {}?"}


@dataclass
class Reply:
    """What the server does with one request: by default it answers `text`."""

    text: str | None = "-a red crown\n-long tail"
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None
    finish: str | None = "stop"
    then: str = "answer"  # or "close", "cut", "wait"

    def content(self) -> bytes:
        message = {"message": {"role": "assistant", "content": self.text}, "finish_reason": self.finish, "index": 0}
        return json.dumps({"model": "toy-1", "choices": [message]}).encode() if self.body is None else self.body


@dataclass
class Server:
    """Replies one after the other, the last one again and again; keeps what it was asked."""

    url: str = ""
    replies: list[Reply] = field(default_factory=lambda: [Reply()])
    asked: list[dict[str, Any]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)

    def next(self) -> Reply:
        return self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def do_POST(self) -> None:
            state.asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            state.paths.append(self.path)
            state.keys.append(self.headers.get("Authorization"))
            state.headers.append(dict(self.headers))
            reply = state.next()
            self.close_connection = True
            if reply.then == "close":
                return
            if reply.then == "wait":
                time.sleep(1)
            content = reply.content()
            with suppress(ConnectionError):  # who waited no longer is gone
                self.send_response(reply.status)
                for name, value in {"Content-Length": str(len(content)), **reply.headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content[: len(content) // 2] if reply.then == "cut" else content)

    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        state.url = f"http://127.0.0.1:{listening.server_port}"
        thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield state
        finally:
            listening.shutdown()
            thread.join()


@pytest.fixture(autouse=True)
def one_short_question(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "published" not in request.node.name:
        asking(monkeypatch, WRITER_PROMPTS=ONE, SAMPLES=1, TIMEOUT=5.0, MAX_RETRIES=2)
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.01)  # seconds; 0.5 otherwise


def asking(monkeypatch: pytest.MonkeyPatch, **settings: Any) -> None:
    for name, value in settings.items():
        monkeypatch.setattr(concept_writer, name, value)


def write(server: Server, record: Path, **options: Any) -> ConceptSet:
    given = {"classes": ["cardinal"], "model": "toy", "url": server.url, **options}
    return write_concepts(record=record, **given)


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(InputError) as caught:
        call()
    assert "\n" not in str(caught.value)
    assert KEY not in str(caught.value)
    return str(caught.value)


def lines(record: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in record.read_text(encoding="utf-8").splitlines()]


def test_every_class_is_asked_every_prompt_twice_as_published(server: Server, tmp_path: Path) -> None:
    record = tmp_path / "deep" / "answers.jsonl"
    found = write_concepts(["cardinal", "tree {frog}", "cardinal"], server.url, "toy", record)
    assert len(server.asked) == 12
    first = server.asked[0]
    assert {name: value for name, value in first.items() if name != "messages"} == {
        "model": "toy", "temperature": 0.7, "max_tokens": 256,
    }  # fmt: skip
    asked = [body["messages"][0]["content"] for body in server.asked]
    assert asked[:2] == [WRITER_PROMPTS["important"].replace("{}", "cardinal")] * 2
    assert asked[-1].endswith('List the things most commonly seen around a "tree {frog}":')
    assert set(server.paths) == {"/v1/chat/completions"}
    assert set(server.keys) == {f"Bearer {KEY}"}
    assert found.labels == ("red crown", "long tail")
    assert found.source == "language model toy"
    assert found.dropped == ()
    assert [(line["class"], line["prompt"], line["sample"]) for line in lines(record)[:3]] == [
        ("cardinal", "important", 0), ("cardinal", "important", 1), ("cardinal", "superclass", 0),
    ]  # fmt: skip


def test_prompts_are_as_published() -> None:
    assert list(WRITER_PROMPTS) == ["important", "superclass", "around"]
    assert WRITER_PROMPTS["superclass"] == (
        'Give superclasses for the word "tench":\n\n-fish\n-vertebrate\n-animal\n\nGive superclasses for the word '
        '"beer glass":\n\n-glass\n-container\n-object\n\nGive superclasses for the word "{}":'
    )
    assert WRITER_PROMPTS["important"].count('for recognizing something as a "') == 3
    assert WRITER_PROMPTS["around"].count("List the things most commonly seen around a ") == 3


def test_what_was_answered_is_not_asked_again(server: Server, tmp_path: Path) -> None:
    record = tmp_path / "a.jsonl"
    server.replies = [Reply("-one"), Reply("-two"), Reply(status=400, body=b'{"error": {"message": "no"}}')]
    said = refusal(lambda: write(server, record, classes=["a", "b", "c"]))
    assert "400 no" in said
    assert [line["answer"] for line in lines(record)] == ["-one", "-two"]
    server.asked.clear()
    server.replies = [Reply("-three")]
    found = write(server, record, classes=["a", "b", "c"])
    assert [body["messages"][0]["content"] for body in server.asked] == ["What shows a c?"]
    assert found.labels == ("one", "two", "three")
    again = write(server, record, classes=["a", "b", "c"], url="http://127.0.0.1:9", key_from="NO_SUCH_KEY")
    assert again.labels == found.labels
    assert KEY not in record.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "other",
    [{"model": "toy-2"}, {"request": {"temperature": 0.0}}],
)
def test_another_question_is_another_answer(server: Server, tmp_path: Path, other: dict[str, Any]) -> None:
    write(server, tmp_path / "a.jsonl")
    write(server, tmp_path / "a.jsonl", **other)
    assert len(server.asked) == 2
    assert len({line["key"] for line in lines(tmp_path / "a.jsonl")}) == 2


def test_samples_are_asked_one_by_one(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server.replies = [Reply("-one"), Reply("-two"), Reply("-three")]
    asking(monkeypatch, SAMPLES=2)
    write(server, tmp_path / "a.jsonl")
    asking(monkeypatch, SAMPLES=3)
    assert write(server, tmp_path / "a.jsonl").labels == ("one", "two", "three")
    assert len(server.asked) == 3


def test_a_line_cut_by_a_crash_is_asked_again(server: Server, tmp_path: Path) -> None:
    record = tmp_path / "a.jsonl"
    server.replies = [Reply("-one"), Reply("-two")]
    write(server, record, classes=["a", "b"])
    whole = record.read_bytes()
    for cut in (1, 40, len(whole.split(b"\n")[1])):
        record.write_bytes(whole[: -1 - cut])
        server.asked.clear()
        server.replies = [Reply("-two")]
        assert write(server, record, classes=["a", "b"]).labels == ("one", "two")
        assert len(server.asked) == 1
        assert record.read_bytes() == whole


def test_a_last_line_without_its_end_counts(server: Server, tmp_path: Path) -> None:
    record = tmp_path / "a.jsonl"
    write(server, record, classes=["a"])
    record.write_bytes(record.read_bytes().rstrip())
    write(server, record, classes=["a", "b"])
    assert len(server.asked) == len(lines(record)) == 2


def test_a_killed_run_goes_on_where_it_stopped(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = tmp_path / "a.jsonl"
    asking(monkeypatch, WRITER_PROMPTS={"p": "a {}"})
    code = (
        "from conceptlens.bottleneck.concept_writing import concept_writer as w; import sys; "
        "w.WRITER_PROMPTS, w.SAMPLES = {'p': 'a {}'}, 1\n"
        "w.write_concepts(list('abcdefgh'), sys.argv[1], 'toy', sys.argv[2])"
    )
    server.replies = [Reply(f"-{n}") for n in range(3)] + [Reply(then="wait")]
    run = subprocess.Popen([sys.executable, "-c", code, server.url, str(record)])
    while len(server.asked) < 4:
        assert run.poll() is None
        time.sleep(0.02)
    run.kill()
    run.wait()
    assert [line["answer"] for line in lines(record)] == ["-0", "-1", "-2"]
    server.asked.clear()
    server.replies = [Reply("-more")]
    found = write(server, record, classes=list("abcdefgh"))
    assert len(server.asked) == 5
    assert found.labels == ("0", "1", "2", "more")


def test_replay_asks_nobody(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = tmp_path / "a.jsonl"
    found = write(server, record, classes=["a", "b"])
    with record.open("ab") as file:
        file.write(b'{"key": "to')
    kept = record.read_bytes()
    server.asked.clear()
    monkeypatch.delenv("OPENAI_API_KEY")
    again = write(server, record, classes=["b"], url="", replay=True)
    assert again.labels == found.labels
    said = refusal(lambda: write(server, record, classes=["b", "frog"], replay=True))
    assert "holds no answer for class 'frog', prompt 'important', sample 1" in said
    assert "class 'b'" in refusal(lambda: write(server, tmp_path / "none.jsonl", classes=["b"], replay=True))
    assert server.asked == []
    assert record.read_bytes() == kept
    assert not (tmp_path / "none.jsonl").exists()


def test_a_record_that_is_none_is_named(server: Server, tmp_path: Path) -> None:
    record = tmp_path / "a.jsonl"
    record.write_text('{"key": "x", "answer": "-y"}\nmy shopping list\n')
    assert "a.jsonl, line 2 is no answer of a record" in refusal(lambda: write(server, record))
    assert "cannot read" in refusal(lambda: write(server, tmp_path))
    assert server.asked == []


def test_a_record_that_cannot_be_written_is_said_before_it_costs(server: Server, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").symlink_to(tmp_path / "nowhere" / "a.jsonl")
    assert "cannot write" in refusal(lambda: write(server, tmp_path / "a.jsonl"))
    assert server.asked == []


@pytest.mark.parametrize(
    ("ending", "path"),
    [
        ("", "/v1"),
        ("/", "/v1"),
        ("/v1", "/v1"),
        ("/v1/", "/v1"),
        ("/api/v3", "/api/v3"),
        ("/v1/chat/completions", "/v1"),
    ],
)
def test_a_base_or_the_whole_address_will_do(server: Server, tmp_path: Path, ending: str, path: str) -> None:
    write(server, tmp_path / "a.jsonl", url=server.url + ending)
    assert server.paths == [f"{path}/chat/completions"]


def test_request_replaces_the_fields_that_are_sent(server: Server, tmp_path: Path) -> None:
    write(server, tmp_path / "a.jsonl", request={"max_completion_tokens": 7, "seed": 1})
    message = {"role": "user", "content": "What shows a cardinal?"}
    assert server.asked == [{"model": "toy", "messages": [message], "max_completion_tokens": 7, "seed": 1}]


def test_a_key_is_needed_unless_none_is_wanted(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for key in ("", " ", "two\nlines", "ключ"):
        monkeypatch.setenv("MY_KEY", key)
        said = refusal(lambda: write(server, tmp_path / "a.jsonl", key_from="MY_KEY"))
        assert "the environment variable MY_KEY holds no key" in said
    monkeypatch.delenv("MY_KEY")
    assert "MY_KEY holds no key" in refusal(lambda: write(server, tmp_path / "a.jsonl", key_from="MY_KEY"))
    assert server.asked == []
    write(server, tmp_path / "a.jsonl", key_from=None)
    assert server.keys == [None]


@pytest.mark.parametrize("status", [429, 500, 503, 529])
def test_it_asks_again_where_that_may_help(server: Server, tmp_path: Path, status: int) -> None:
    server.replies = [Reply(status=status, body=b"later"), Reply(status=status, body=b"{}"), Reply("-one")]
    assert write(server, tmp_path / "a.jsonl").labels == ("one",)
    assert len(server.asked) == 3
    assert len(lines(tmp_path / "a.jsonl")) == 1


@pytest.mark.parametrize("then", ["close", "cut", "wait"])
def test_it_asks_again_after_a_broken_answer(
    server: Server, tmp_path: Path, then: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asking(monkeypatch, TIMEOUT=0.3, MAX_RETRIES=1)
    server.replies = [Reply(then=then), Reply("-one")]
    assert write(server, tmp_path / "a.jsonl").labels == ("one",)
    assert len(server.asked) == 2


def test_it_gives_up_after_its_retries(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server.replies = [Reply(status=429, body=json.dumps({"error": {"message": f"slow down, {KEY}"}}).encode())]
    said = refusal(lambda: write(server, tmp_path / "a.jsonl"))
    assert "gave no answer, asked 3 times (429 slow down, ***); run it again later" in said
    assert len(server.asked) == 3
    server.replies = [Reply(then="wait")]
    asking(monkeypatch, TIMEOUT=0.2, MAX_RETRIES=0)
    said = refusal(lambda: write(server, tmp_path / "a.jsonl"))
    assert "gave no answer, asked 1 times (no answer within 0.2 seconds)" in said


def test_a_redirect_takes_no_key_elsewhere(server: Server, tmp_path: Path) -> None:
    port = server.url.rpartition(":")[2]
    server.replies = [Reply(status=307, headers={"Location": f"http://localhost:{port}/v1/chat/completions"})]
    assert "sends on to" in refusal(lambda: write(server, tmp_path / "a.jsonl"))
    assert len(server.asked) == 1


def test_only_the_key_that_was_named_is_sent(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_ORG_ID", "org-secret")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "project-secret")
    write(server, tmp_path / "a.jsonl", key_from=None)
    assert not [
        name for name in server.headers[0] if "secret" in server.headers[0][name] or KEY in server.headers[0][name]
    ]


def test_without_the_package_the_extra_is_named(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    said = refusal(lambda: write(server, tmp_path / "a.jsonl"))
    assert "needs the package openai; pip install 'conceptlens[chat]'" in said


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (Reply(status=401, body=b'{"error": {"message": "wrong key sk-secret-0123"}}'),
         "refuses the key in OPENAI_API_KEY (401 wrong key ***)"),
        (Reply(status=403, body=b""), "refuses the key in OPENAI_API_KEY (403)"),
        (Reply(status=404, body=b'{"error": "model toy not found"}'), "refuses the request (404 model toy not found)"),
        (Reply(status=422, body=b'{"detail": "no field"}'), "refuses the request (422 no field)"),
        (Reply(status=400, body=b'["what"]'), 'refuses the request (400 ["what"])'),
        (Reply(status=302, headers={"Location": "http://127.0.0.1:1/login"}), "sends on to 'http://127.0.0.1:1/login'"),
        (Reply(status=307, headers={"Location": "/v2"}), "sends on to '/v2' (307)"),
        (Reply(body=b"<html>\n<p>Welcome</p>"), "answers '<html> <p>Welcome</p>', not JSON; check the address"),
        (Reply(body=b"[1, 2]"), "answers '[1, 2]'; expected a JSON object"),
        (Reply(body=b'{"choices": []}'), "for class 'cardinal', prompt 'important', sample 1; expected choices"),
        (Reply(body=b'{"choices": [{"text": "-old"}]}'), "expected choices with a message"),
        (Reply(body=b'{"choices": [{"message": "x"}]}'), "expected choices with a message"),
        (Reply(text=None, finish="length"), "prompt 'important', sample 1 (length); allow more tokens"),
        (Reply(text=""), "none of 1 answers of toy names a concept"),
    ],
)  # fmt: skip
def test_what_does_not_help_is_not_asked_again(server: Server, tmp_path: Path, reply: Reply, said: str) -> None:
    server.replies = [reply]
    assert said in refusal(lambda: write(server, tmp_path / "a.jsonl"))
    assert len(server.asked) == 1


def test_one_class_without_an_answer_does_not_stop_the_others(server: Server, tmp_path: Path) -> None:
    server.replies = [Reply(text=None, finish="content_filter"), Reply("-one")]
    found = write(server, tmp_path / "a.jsonl", classes=["a", "b"])
    assert found.labels == ("one",)
    assert lines(tmp_path / "a.jsonl")[0]["finish"] == "content_filter"


def test_nobody_there_is_said_at_once(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asking(monkeypatch, MAX_RETRIES=0)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    start = time.monotonic()
    said = refusal(lambda: write(server, tmp_path / "a.jsonl", url=f"http://127.0.0.1:{port}"))
    assert f"http://127.0.0.1:{port}/v1/chat/completions cannot be reached" in said
    assert "cannot be reached" in refusal(
        lambda: write(server, tmp_path / "a.jsonl", url="http://no-such-host.invalid")
    )
    assert time.monotonic() - start < 5


@pytest.mark.parametrize(
    "url",
    ["", "localhost:8000", "file:///etc/passwd", "http://", "http://[::1", "http://me:pw@host", "http://host:port"],
)
def test_what_is_no_address_is_refused(server: Server, tmp_path: Path, url: str) -> None:
    assert "is no address" in refusal(lambda: write(server, tmp_path / "a.jsonl", url=url))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"classes": []}, "classes are []; give a list of names"),
        ({"classes": "cardinal"}, "give a list of names"),
        ({"classes": ["a", " "]}, "none of them blank"),
        ({"model": ""}, "the model's name is empty"),
        ({"request": {"seed": {1}}}, "give what JSON can hold"),
        ({"request": {"top_p": float("nan")}}, "give what JSON can hold"),
    ],
)
def test_wrong_settings_are_refused(server: Server, tmp_path: Path, wrong: dict[str, Any], said: str) -> None:
    assert said in refusal(lambda: write(server, tmp_path / "a.jsonl", **wrong))
    assert server.asked == []


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("\n\n-bright color\n- a small, round body\n-fins", ["bright color", "small, round body", "fins"]),
        ("Here is a list:\n\n* A beak\n• the Tail.\n– an eye\n\nI hope this helps!", ["beak", "Tail", "eye"]),
        ("1. red crest\n2) the mask\n(3) wings\n10.  1.5 m span", ["red crest", "mask", "wings", "1.5 m span"]),
        ("**Shape:**\n- **Long beak** for probing\n- `tail`\n-\n- —", ["Long beak for probing", "tail"]),
        ("feathers\na beak\nThe beak", ["feathers", "beak"]),
        ("<think>\n- a thought\n</think>\n-an insect", ["insect"]),
        ("<think>\n- a thought that never ends", []),
        ("- another\n- theropod\n- a\n- “a crown”\n- robin's", ["another", "theropod", "a", "crown", "robin's"]),
        ("", []),
    ],
)  # fmt: skip
def test_lists_are_read_as_models_write_them(text: str, labels: list[str]) -> None:
    assert list(parse_answer(text)) == labels


def test_an_answer_that_was_cut_loses_its_last_line(server: Server, tmp_path: Path) -> None:
    server.replies = [Reply("-red crown\n-long tail\n-short, strong be", finish="length")]
    assert write(server, tmp_path / "a.jsonl").labels == ("red crown", "long tail")
    assert write(server, tmp_path / "a.jsonl", replay=True).labels == ("red crown", "long tail")


def test_nothing_loads_the_writer_unasked() -> None:
    code = (
        "import sys, conceptlens, conceptlens.model.encoders, conceptlens.bottleneck.concept_writing.concept_filter; "
        "sys.exit('conceptlens.bottleneck.concept_writing.concept_writer' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
