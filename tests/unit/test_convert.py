"""Safetensors of checkpoints: what must be unpickled is asked for, opened elsewhere, and runs nothing."""

from __future__ import annotations

import argparse
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_checkpoint_forms import Net, Settings, averaged, lightning, prefixed, same, shards
from torch import nn
from typer.testing import CliRunner, Result

import conceptlens as cl
from conceptlens.cli import app
from conceptlens.model.zoo.checkpoint_file import PickledFileError, read_checkpoint
from conceptlens.model.zoo.converted import convert_checkpoint
from conceptlens.model.zoo.unpickling import StandIn, Unpickler, plain

pytestmark = pytest.mark.process


class Trap:
    """A pickle that runs a program of its own when it is opened."""

    def __init__(self, call: Callable[..., Any], *inputs: Any) -> None:
        self.call, self.inputs = call, inputs

    def __reduce__(self) -> tuple[object, ...]:
        return (self.call, self.inputs)


class TrainerState(dict[str, Any]):
    """A dictionary of a class of its own."""


def run(*arguments: Any, answer: str | None = None) -> Result:
    return CliRunner().invoke(app, ["convert", *map(str, arguments)], input=answer)


def loaded(file: Path) -> Net:
    net = Net(seed=9)
    cl.load_weights(net, file)
    return net


def test_a_checkpoint_of_tensors_is_not_unpickled_and_nobody_is_asked(tmp_path: Path) -> None:
    trained, file, out = Net(seed=1), tmp_path / "last.ckpt", tmp_path / "new" / "net.safetensors"
    torch.save({**lightning(trained.state_dict()), "epoch": 3}, file)
    before = file.read_bytes()
    done = run(file, "--out", out)
    assert done.exit_code == 0, done.output
    assert "14 tensors, nothing unpickled; left out: epoch, global_step" in done.stdout
    assert "optimizer_states (1 tensor)" in done.stdout
    assert same(loaded(out), trained)
    assert file.read_bytes() == before
    assert "model.head.weight" in load_file(out)


def test_several_sets_keep_the_names_of_their_entries_and_one_can_be_taken(tmp_path: Path) -> None:
    last, mean, file, out = Net(seed=1), Net(seed=2), tmp_path / "last.pth", tmp_path / "net.safetensors"
    torch.save({"model": last.state_dict(), "model_ema": averaged(mean.state_dict())}, file)
    assert convert_checkpoint(file, out).tensors == 27
    assert same(loaded(out), mean)
    assert convert_checkpoint(file, out, entry="model").tensors == 13
    assert same(loaded(out), last)
    assert set(load_file(out)) == set(last.state_dict())
    with pytest.raises(cl.InputError, match="holds no tensors under teacher; it holds model, model_ema"):
        convert_checkpoint(file, out, entry="teacher")
    assert same(loaded(out), last)


def test_shared_weights_and_views_are_written_whole(tmp_path: Path) -> None:
    table = torch.arange(12.0).reshape(3, 4)
    torch.save({"a": table, "b": table, "turned": table.T, "row": table[1]}, tmp_path / "w.pth")
    convert_checkpoint(tmp_path / "w.pth", tmp_path / "w.safetensors")
    found = load_file(tmp_path / "w.safetensors")
    assert torch.equal(found["a"], table)
    assert torch.equal(found["b"], table)
    assert torch.equal(found["turned"], table.T)
    assert torch.equal(found["row"], table[1])
    torch.save({"a": table.to_sparse()}, tmp_path / "w.pth")
    with pytest.raises(cl.InputError, match=r"a in .* is sparse"):
        convert_checkpoint(tmp_path / "w.pth", tmp_path / "w.safetensors")


def test_shards_become_one_file(tmp_path: Path) -> None:
    trained = Net(seed=1)
    shards(tmp_path, trained.state_dict())
    assert convert_checkpoint(tmp_path, tmp_path / "one.safetensors").tensors == 13
    assert same(loaded(tmp_path / "one.safetensors"), trained)


def pickled_forms(folder: Path, trained: Net) -> dict[str, Path]:
    state = trained.state_dict()
    contents: dict[str, Any] = {
        "settings": {"state_dict": state, "settings": Settings(), "args": argparse.Namespace(a=1)},
        "whole": trained,
        "whole in an entry": {"epoch": 1, "ema": trained},
        "own dictionary": TrainerState(model=prefixed(state, "module.")),
    }
    for name, content in contents.items():
        torch.save(content, folder / f"{name}.pth")
    torch.save(trained, folder / "old.pth", _use_new_zipfile_serialization=False)
    (folder / "arrays.pth").write_bytes(pickle.dumps({"model": {n: v.numpy() for n, v in state.items()}}))
    torch.jit.trace(trained.eval(), torch.rand(1, 3, 16, 16)).save(folder / "script.pth")  # pyright: ignore
    return {file.stem: file for file in folder.glob("*.pth")}


FORMS = ["settings", "whole", "whole in an entry", "own dictionary", "old", "arrays", "script"]


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize(
    "form", [pytest.param(one, marks=() if one in ("old", "script") else pytest.mark.slow) for one in FORMS]
)
def test_more_than_tensors_is_unpickled_elsewhere(form: str, tmp_path: Path) -> None:
    trained = Net(seed=1)
    file, out = pickled_forms(tmp_path, trained)[form], tmp_path / "net.safetensors"
    with pytest.raises(PickledFileError, match="no checkpoint of tensors alone"):
        convert_checkpoint(file, out)
    assert not out.exists()
    found = convert_checkpoint(file, out, unpickle=True)
    assert found.unpickled
    assert found.tensors == 13
    assert same(loaded(out), trained)


def traps(sprung: Path) -> dict[str, Trap]:
    return {
        "touch": Trap(Path.touch, sprung),
        "system": Trap(os.system, f"touch {sprung}"),
        "process": Trap(subprocess.check_call, ["touch", str(sprung)]),
        "evaluated": Trap(eval, f"open({str(sprung)!r}, 'w').close()"),
        "executed": Trap(exec, f"open({str(sprung)!r}, 'w').close()"),
    }


@pytest.mark.parametrize(
    "kind",
    ["touch", "executed", *(pytest.param(one, marks=pytest.mark.slow) for one in ("system", "process", "evaluated"))],
)
def test_what_a_file_names_is_never_run(kind: str, tmp_path: Path) -> None:
    trained, sprung, out = Net(seed=1), tmp_path / "sprung", tmp_path / "net.safetensors"
    file = tmp_path / "hostile.pth"
    torch.save({"trap": traps(sprung)[kind], "state_dict": trained.state_dict()}, file)
    for attempt in (lambda: loaded(file), lambda: convert_checkpoint(file, out)):
        with pytest.raises(PickledFileError):
            attempt()
    done = run(file, "--out", out, "--yes", "--json")
    assert done.exit_code == 0, done.output
    answer = json.loads(done.stdout)
    assert answer["unpickled"]
    assert answer["replaced"]
    assert same(loaded(out), trained)
    assert not sprung.exists()


_FORBIDDEN = """
import socket, subprocess, sys
from conceptlens.model.zoo import unpickling
unpickling._leave_network()
sys.addaudithook(unpickling._forbid)
import os
def forbidden(call):
    try: call()
    except PermissionError: return True
    return False
print([forbidden(call) for call in (
    lambda: socket.create_connection(("127.0.0.1", 9)), lambda: subprocess.run(["true"]), lambda: os.system("true"),
    lambda: open("x", "w"), lambda: os.open("x", os.O_CREAT | os.O_WRONLY), lambda: os.remove("y"), lambda: os.fork(),
    lambda: os.rename("y", "z"),
)], forbidden(lambda: open("y")))
"""


@pytest.mark.skipif(os.name == "nt", reason="no fork here")
def test_the_process_writes_starts_and_reaches_nothing(tmp_path: Path) -> None:
    (tmp_path / "y").touch()
    done = subprocess.run(
        [sys.executable, "-c", _FORBIDDEN], capture_output=True, text=True, check=False, cwd=tmp_path, timeout=120
    )
    assert done.stdout.strip() == f"{[True] * 8} False", done.stderr
    assert [file.name for file in tmp_path.iterdir()] == ["y"]


def test_the_process_is_given_no_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []
    real = subprocess.run

    def watched(*arguments: Any, **options: Any) -> Any:
        asked.append(options)
        return real(*arguments, **options)

    monkeypatch.setenv("HF_TOKEN", "secret")
    monkeypatch.setattr("conceptlens.model.zoo.converted.subprocess.run", watched)
    torch.save({"state_dict": Net().state_dict(), "settings": Settings()}, tmp_path / "w.pth")
    convert_checkpoint(tmp_path / "w.pth", tmp_path / "w.safetensors", unpickle=True)
    assert "HF_TOKEN" not in asked[0]["env"]
    assert asked[0]["stdin"] == subprocess.DEVNULL
    assert asked[0]["cwd"] != os.getcwd()


def pickled(folder: Path) -> Path:
    torch.save({"state_dict": Net(seed=1).state_dict(), "settings": Settings()}, folder / "w.pth")
    return folder / "w.pth"


def test_it_asks_before_it_unpickles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, out = pickled(tmp_path), tmp_path / "w.safetensors"
    monkeypatch.setattr(sys.modules["conceptlens.cli.convert"], "_somebody_answers", lambda: True)
    for answer in ("n\n", "\n"):
        done = run(file, "--out", out, answer=answer)
        assert done.exit_code == 1
        assert "can run any program of whoever made it" in done.stderr
        assert "Settings" in done.stderr
        assert "nothing was read and nothing written" in done.stderr
        assert not out.exists()
    done = run(file, "--out", out, "--json", answer="y\n")
    assert done.exit_code == 0, done.output
    answer = json.loads(done.stdout)
    assert set(answer) == {"schema", "checkpoint", "tensors", "left_out", "unpickled", "replaced", "out"}
    assert answer["schema"] == "conceptlens.convert/1"
    assert (answer["tensors"], answer["unpickled"]) == (13, True)
    assert any("Settings" in name for name in answer["replaced"])
    assert same(loaded(out), Net(seed=1))


def test_where_nobody_can_answer_it_refuses(tmp_path: Path) -> None:
    file, out = pickled(tmp_path), tmp_path / "w.safetensors"
    done = run(file, "--out", out)
    assert done.exit_code == 2
    assert done.stderr.startswith("conceptlens: ")
    assert "nobody can be asked here: add --yes where you trust its source" in done.stderr
    assert not out.exists()
    done = run(file, "--out", out, "--yes")
    assert done.exit_code == 0, done.output
    assert "13 tensors, unpickled in a process of its own; left out: settings: " in done.stdout


def test_paths_are_checked_first_and_nothing_is_lost(tmp_path: Path) -> None:
    file, out = tmp_path / "w.pth", tmp_path / "w.safetensors"
    torch.save(Net(seed=1).state_dict(), file)

    def refused(part: str, *arguments: Any) -> None:
        done = run(*arguments)
        assert done.exit_code == 2, done.output
        assert part in done.stderr
        assert "Traceback" not in done.output

    refused("expected .safetensors", file, "--out", tmp_path / "w.pth")
    refused("is a folder", file, "--out", tmp_path)
    refused("the path is empty", file, "--out", "")
    refused("no weights file", tmp_path / "no.pth", "--out", out)
    (tmp_path / "junk.pth").write_bytes(b"\x80\x04 junk")
    save_file(Net(seed=2).state_dict(), out)
    refused("cannot be read, even by unpickling it", tmp_path / "junk.pth", "--out", out, "--yes")
    torch.save({"settings": Settings()}, tmp_path / "none.pth")
    refused("holds no named tensors but settings", tmp_path / "none.pth", "--out", out, "--yes")
    refused("is the checkpoint itself", out, "--out", out)
    assert same(loaded(out), Net(seed=2))
    assert [x.name for x in sorted(tmp_path.iterdir())] == ["junk.pth", "none.pth", "w.pth", "w.safetensors"]


def test_a_module_within_itself_ends() -> None:
    found = StandIn()
    found.state = {"_parameters": {"w": torch.ones(1)}, "_buffers": {}, "_modules": {"again": found}}
    assert plain(found) == {"w": torch.ones(1), "again": None}


def test_stand_ins_take_whatever_a_pickle_does_with_them(tmp_path: Path) -> None:
    content = {"part": nn.ReLU(), "list": [Settings()], "kind": Settings, "call": Path.touch, "set": {1, 2}}
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(content))
    with (tmp_path / "x.pkl").open("rb") as file:
        found = Unpickler(file).load()
    assert isinstance(found["part"], StandIn)
    assert issubclass(found["kind"], StandIn)
    assert found["set"] == {1, 2}
    assert isinstance(found["kind"]()(3), StandIn)


def test_reading_a_checkpoint_unpickles_nothing(tmp_path: Path) -> None:
    torch.save(Trap(Path.touch, tmp_path / "sprung"), tmp_path / "w.pth")
    with pytest.raises(PickledFileError, match="make safetensors of it: conceptlens convert"):
        read_checkpoint(tmp_path / "w.pth")
    assert not (tmp_path / "sprung").exists()
