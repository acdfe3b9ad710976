"""`conceptlens concepts`, from the command line to the file: collected, filtered, each dropped one with its reason."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result
from written_classes import class_folders, cub
from written_sets import write_text

from conceptlens.cli import app
from conceptlens.concepts.concept_set import read_concept_set


def call(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    return class_folders(tmp_path / "pets", {"train/cat": 2, "train/dog": 2, "test/dog": 1})


def test_a_file_is_filtered_by_the_classes_of_the_train_photos(pets: Path, tmp_path: Path) -> None:
    words, out = tmp_path / "words.txt", tmp_path / "kept.txt"
    write_text(words, "cat", "long whiskers", "a very long list of things that nobody reads")
    answer = call("concepts", "--data", f"folder:{pets}", "--from", words, "--out", out, "--json")
    assert answer.exit_code == 0, answer.output
    printed = json.loads(answer.stdout)
    assert printed["schema"] == "conceptlens.concepts/1"
    assert printed["concepts"] == ["long whiskers"]
    assert {one["label"]: one["filter"] for one in printed["dropped"]} == {
        "cat": "class name", "a very long list of things that nobody reads": "length",
    }  # fmt: skip
    assert read_concept_set(tmp_path / "kept.txt").labels == ("long whiskers",)
    assert "# dropped: cat" in (tmp_path / "kept.txt").read_text("utf-8")


def test_class_attributes_keep_their_parts(tmp_path: Path) -> None:
    answer = call("concepts", "--data", f"cub:{cub(tmp_path / 'birds')}", "--out", tmp_path / "kept.tsv")
    assert answer.exit_code == 0, answer.output
    kept = {one.label: one.part for one in read_concept_set(tmp_path / "kept.tsv").concepts}
    assert kept == {"yellow wing": "wing", "dagger-shaped bill": "bill", "small (5 - 9 in) size": None}


class Toy(BaseHTTPRequestHandler):
    """A language model that names two things, whatever it is asked."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        message = {"message": {"content": "- long tail\n- whiskers"}, "finish_reason": "stop"}
        content = json.dumps({"choices": [message]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def test_a_language_model_is_asked_once_and_replayed(pets: Path, tmp_path: Path) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Toy)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url, record = f"http://127.0.0.1:{server.server_port}/v1", tmp_path / "answers.jsonl"
    words = ("concepts", "--data", f"folder:{pets}", "--ask", "toy", "--url", url, "--key-from", "none")
    unkept = call(*words, "--out", tmp_path / "no.txt")
    assert unkept.exit_code == 2
    assert "--record" in unkept.output
    written = call(*words, "--record", record, "--request", '{"seed": 3}', "--out", tmp_path / "asked.txt")
    server.shutdown()
    server.server_close()
    assert written.exit_code == 0, written.output
    assert json.loads(record.read_text("utf-8").splitlines()[0])["request"]["seed"] == 3
    replayed = call(
        *words, "--record", record, "--request", '{"seed": 3}', "--replay", "--out", tmp_path / "replayed.txt"
    )
    assert replayed.exit_code == 0, replayed.output
    assert read_concept_set(tmp_path / "replayed.txt").labels == ("long tail", "whiskers")
    assert (tmp_path / "asked.txt").read_bytes() == (tmp_path / "replayed.txt").read_bytes()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "has no class attributes; give --from FILE"),
        (("--limits", "strict"), "--limits strict is given; expected one of published, minilm"),
        (("--vlm", "timm:resnet18"), "--vlm and --presence go together"),
        (("--from", "a.txt", "--ask", "toy"), "--from and --ask are both given"),
        (("--from", "nowhere.txt"), "nowhere.txt"),
        (("--record", "a.jsonl"), "--record has no effect without --ask"),
        (("--url", "http://localhost", "--key-from", "FOO"), "--url and --key-from have no effect without --ask"),
        (("--ask", "toy", "--record", "a.jsonl", "--request", "hot"), "--request hot is given; expected a JSON object"),
    ],
)
def test_what_cannot_be_is_said_in_one_sentence(
    pets: Path, tmp_path: Path, words: tuple[str, ...], message: str
) -> None:
    answer = call("concepts", "--data", f"folder:{pets}", "--out", tmp_path / "kept.txt", *words)
    assert answer.exit_code == 2
    assert message in answer.output
    assert not (tmp_path / "kept.txt").exists()


def test_a_list_is_not_written_over_itself(pets: Path, tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("# mine\nlong tail\ncat\n")
    answer = call(
        "concepts", "--data", f"folder:{pets}", "--from", tmp_path / "words.txt", "--out", tmp_path / "words.txt"
    )
    assert answer.exit_code == 2
    assert "--from and --out are both" in answer.output
    assert (tmp_path / "words.txt").read_text() == "# mine\nlong tail\ncat\n"
