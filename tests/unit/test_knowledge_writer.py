"""Class knowledge from a language model: asked class by class, checked, resumed, read back and used."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from typer.testing import CliRunner, Result

import conceptlens as cl
from conceptlens.cli import app
from conceptlens.concepts.class_knowledge import RATES
from conceptlens.concepts.knowledge_writer import KNOWLEDGE_PROMPT, write_knowledge
from conceptlens.concepts.vocabulary import CONCEPT_TYPES, ConceptName


def concept(name: str, type: str, seen: str) -> dict[str, str]:
    return {"name": name, "type": type, "seen": seen}


def said(kinds: Any, *concepts: Any) -> str:
    return json.dumps({"kinds": kinds, "concepts": list(concepts)})


DUCK = said(
    ["toy duck", "toy"], concept("Beak", "object", "always"), concept("rusty hinge", "part", "often"),
    concept("red", "colour", "often"), concept("toy", "object", "always"),
)  # fmt: skip
CAR = said(["toy car", "toy"], concept("wheel", "part", "always"), concept("rusty hinge", "texture", "sometimes"))


@dataclass
class Model:
    """A language model that answers each class as told, and keeps the requests."""

    url: str = ""
    answers: dict[str, str] = field(default_factory=dict)
    finish: str = "stop"
    status: int = 200
    asked: list[dict[str, Any]] = field(default_factory=list)

    def answer(self, body: dict[str, Any]) -> bytes:
        self.asked.append(body)
        text = next(text for name, text in self.answers.items() if f'"{name}"' in body["messages"][0]["content"])
        return json.dumps({"choices": [{"message": {"content": text}, "finish_reason": self.finish}]}).encode()


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Iterator[Model]:
    state = Model()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            content = state.answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(state.status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        state.url = f"http://127.0.0.1:{listening.server_port}"
        thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield state
        finally:
            listening.shutdown()
            thread.join()


def write(model: Model, out: Path, *classes: str) -> Any:
    return write_knowledge(classes, model.url, "toy", out, key_from=None)


def test_answers_become_a_table_that_a_model_uses(model: Model, tmp_path: Path) -> None:
    model.answers = {"tin duck": f"<think>A toy.</think>\n```json\n{DUCK}\n```", "tin car": CAR}
    table = tmp_path / "deep" / "toys.tsv"
    found = write(model, table, "tin duck", "tin car", "tin duck")
    assert (found.kept, found.written, found.failed) == ((), ("tin duck", "tin car"), {})
    assert model.asked[0] == {
        "model": "toy", "temperature": 0.3, "max_tokens": 2048,
        "messages": [{"role": "user", "content": KNOWLEDGE_PROMPT.replace("{}", "tin duck")}],
    }  # fmt: skip
    assert all(word in KNOWLEDGE_PROMPT for word in (*CONCEPT_TYPES, *RATES))
    assert table.read_text("utf-8").splitlines() == [
        "class\tkinds\talways\toften\tsometimes",
        "# As toy answered:",
        "tin duck\ttoy duck > toy\tbeak\trusty hinge:part; red\t",
        "tin car\ttoy car > toy\twheel\t\trusty hinge:part",
    ]
    known = cl.read_knowledge(table)
    assert known.classes[0].rates[ConceptName("beak", "part")] == RATES["always"]  # the vocabulary's type
    assert known.classes[1].rates[ConceptName("rusty hinge", "part")] == RATES["sometimes"]  # that of the first class
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 6, 8, 8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 2)).eval()
    toys = cl.Backbone(net, "toys", class_names=("tin duck", "tin car"), input_size=(32, 32), knowledge=known)
    observation = toys.observe(torch.rand(1, 3, 32, 32))
    score = cl.cam(observation, cl.Concept("wheel", by="classes"), signed=True).scores[0, 0]
    duck, car = observation.logits.detach()[0].softmax(0).tolist()
    shown = 0.005 * duck + RATES["always"] * car
    assert float(score.sigmoid()) == pytest.approx(shown, abs=1e-5)


GOOD = concept("wheel", "part", "always")


BAD = [
    ("Sure! It has wheels.", "the answer is 'Sure! It has wheels.'; expected a JSON object with"),
    ("", "the answer is ''; expected a JSON object"),
    (f"Here it is: {CAR}", "expected a JSON object"),
    ('{"concepts": []}', "expected a JSON object with kinds and concepts"),
    (said([], GOOD), r"kinds are []; expected a list that is not empty"),
    (said("toy", GOOD), "kinds are 'toy'; expected a list"),
    (said(["toy"]), r"concepts are []; expected a list that is not empty"),
    (said(["toy"], concept("toy", "object", "always")), "no concept is named but its kinds"),
    (said(["toy", 3], GOOD), "a kind is called 3; expected a word or a few"),
    (said(["toy > thing"], GOOD), "a kind is called 'toy > thing'; a name holds no colon, semicolon, # or >"),
    (said(["toy"], "wheel"), "a concept is 'wheel'; expected name, type and seen"),
    (said(["toy"], {**GOOD, "why": ""}), "expected name, type and seen"),
    (said(["toy"], concept("?!", "part", "always")), r"a concept is called '?!'"),
    (said(["toy"], concept("long " * 20, "part", "always")), "a concept is called 'long long"),
    (said(["toy"], concept("red:colour", "colour", "often")), "a concept is called 'red:colour'; a name holds no"),
    (said(["toy"], concept("hinge\nx;y", "part", "often")), "a concept is called 'hinge x;y'"),
    (said(["toy"], concept("fun", "mood", "always")), "'fun' has the type 'mood'; expected one of object, part"),
    (said(["toy"], concept("fun", ["part"], "always")), "'fun' has the type"),  # pyright: ignore[reportArgumentType]
    (said(["toy"], concept("rust", "texture", "usually")), "'rust' is seen 'usually'; expected one of always"),
    (said(["toy"], GOOD, concept("toy", "object", "often")), "'toy' is one of its kinds, and only often seen"),
    (said(["toy"], GOOD, concept("Wheel", "part", "often")), "'Wheel' is named twice"),
]


def test_an_answer_that_is_not_as_asked_is_refused_and_recorded(model: Model, tmp_path: Path) -> None:
    model.answers = {"tin duck": DUCK, **{f"car {i}": answer for i, (answer, _) in enumerate(BAD)}}
    table = tmp_path / "toys.tsv"
    found = write(model, table, *reversed(model.answers))
    assert found.written == ("tin duck",)
    lines = table.read_text("utf-8").splitlines()
    for i, (_, reason) in enumerate(BAD):
        assert reason in found.failed[f"car {i}"]
        assert f'# failed: "car {i}": {found.failed[f"car {i}"]}' in lines
    assert [one.name for one in cl.read_knowledge(table).classes] == ["tin duck"]


def test_a_cut_answer_is_refused(model: Model, tmp_path: Path) -> None:
    model.answers, model.finish = {"tin car": CAR}, "length"
    assert (
        "was cut before its end; allow more tokens" in write(model, tmp_path / "toys.tsv", "tin car").failed["tin car"]
    )


def test_a_run_goes_on_where_it_stopped(model: Model, tmp_path: Path) -> None:
    table = tmp_path / "toys.tsv"
    model.answers, model.status = {"tin duck": DUCK, "tin car": "no", "ball": CAR}, 200
    write(model, table, "tin car", "tin duck")
    model.status = 400
    before = table.read_bytes()
    with pytest.raises(cl.InputError, match="refuses the request"):
        write(model, table, "tin car", "tin duck")
    assert table.read_bytes() == before
    model.asked, model.status = [], 200
    model.answers["tin car"] = CAR
    found = write(model, table, "tin duck", "tin car", "ball")
    assert (found.kept, found.written, len(model.asked)) == (("tin duck",), ("tin car", "ball"), 2)
    assert "# failed" not in table.read_text("utf-8")
    assert write_knowledge(["ball"], "nowhere", "toy", table, "NO_KEY").kept == ("ball",)  # nothing is asked


def test_lines_of_other_hands_stay_as_they_are(model: Model, tmp_path: Path) -> None:
    table = tmp_path / "toys.tsv"
    mine = "# Mine.\nid\tclass\talways\toften\tsometimes\tkinds\n7\ttin duck\trusty hinge:material\t\t\ttoy\n"
    table.write_text(mine)
    model.answers = {"tin car": CAR}
    write(model, table, "tin duck", "tin car")
    said_now = "# As toy answered:\n\ttin car\twheel\t\trusty hinge:material\ttoy car > toy\n"
    assert table.read_text("utf-8") == mine + said_now


def call(*words: object) -> Result:
    return CliRunner().invoke(app, ["knowledge", *(str(word) for word in words)])


def test_the_command_says_what_it_wrote_and_what_it_refused(model: Model, tmp_path: Path) -> None:
    names, table = tmp_path / "toys.txt", tmp_path / "toys.tsv"
    names.write_text("tin duck\n\ntin car\n")
    model.answers = {"tin duck": DUCK, "tin car": "no"}
    words = (names, "--ask", "toy", "--url", model.url, "--key-from", "none", "--out", table)
    first = call(*words, "--request", '{"seed": 3}')
    assert first.exit_code == 1
    assert "tin car: the answer is 'no'; expected a JSON object" in first.stderr
    assert first.stdout == f"1 class written, 0 kept, 1 refused (run it again to ask them again): {table}\n"
    assert model.asked[0]["seed"] == 3
    printed = json.loads(call(*words, "--json").stdout)
    assert printed["schema"] == "conceptlens.knowledge/1"
    assert (printed["kept"], printed["written"]) == (["tin duck"], [])
    assert [one["class"] for one in printed["failures"]] == ["tin car"]
    model.answers["tin car"] = CAR
    assert call(*words).exit_code == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--out", "toys.csv"), "--out toys.csv ends in '.csv'; expected .tsv"),
        (("--key-from", "NO_SUCH_KEY"), "the environment variable NO_SUCH_KEY holds no key; set it"),
        (("--key-from", "none", "--url", "nowhere"), "'nowhere' is no address of a language model"),
        (("--request", "hot"), "--request hot is given; expected a JSON object"),
        (("--ask", ""), "the model's name is empty"),
        (("--out", "lame.tsv"), "lame.tsv has no column kinds; add it, or choose another --out"),
        (("--out", "wrong.tsv"), "names 'x' twice"),
    ],
)
def test_what_cannot_be_is_said_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("names.txt").write_text("tin duck\n")
    Path("lame.tsv").write_text("class\talways\toften\tsometimes\n")
    Path("wrong.tsv").write_text("class\tkinds\talways\toften\tsometimes\nx\t\ty\t\t\nx\t\ty\t\t\n")
    answer = call("names.txt", "--ask", "toy", "--out", "new.tsv", *words)
    assert answer.exit_code == 2
    assert message in answer.output
    assert not Path("new.tsv").exists()


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("", "give a list of names"),
        ("# tin\n", "'# tin', which a line of a table cannot hold"),
        ("a\tb\n", "rename it"),
    ],
)
def test_names_that_no_table_can_hold_are_refused(tmp_path: Path, names: str, message: str) -> None:
    (tmp_path / "names.txt").write_text(names)
    answer = call(tmp_path / "names.txt", "--ask", "toy", "--key-from", "none", "--out", tmp_path / "new.tsv")
    assert answer.exit_code == 2
    assert message in answer.output
    assert "cannot read" in call(tmp_path / "no.txt", "--ask", "toy", "--out", tmp_path / "new.tsv").output
