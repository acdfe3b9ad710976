"""Weights as training scripts leave them: what fits is loaded, what does not is told by what was found."""

from __future__ import annotations

import argparse
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import conceptlens as cl

State = dict[str, Tensor]


class Net(nn.Module):
    def __init__(self, classes: int = 4, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.stem = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU())
        self.blocks = nn.ModuleList([nn.Conv2d(5, 5, 3) for _ in range(2)])
        self.head = nn.Linear(5, classes)

    def forward(self, images: Tensor) -> Tensor:
        found = self.stem(images)
        for block in self.blocks:
            found = block(found)
        return self.head(found.mean((2, 3)))


class Settings:
    """A class that only a program of the trainer knows."""

    def __init__(self) -> None:
        self.rate = 0.1


def prefixed(state: State, prefix: str) -> State:
    return {prefix + name: value for name, value in state.items()}


def same(one: nn.Module, two: nn.Module) -> bool:
    return all(torch.equal(value, two.state_dict()[name]) for name, value in one.state_dict().items())


def lightning(state: State) -> dict[str, Any]:
    return {
        "epoch": 3, "global_step": 9, "pytorch-lightning_version": "2.5.0", "loops": {}, "callbacks": {},
        "state_dict": {**prefixed(state, "model."), "criterion.weight": torch.ones(4)},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": []}],
        "hyper_parameters": {"lr": 0.1, "args": argparse.Namespace(depth=2)},
    }  # fmt: skip


def averaged(state: State) -> State:
    model = torch.optim.swa_utils.AveragedModel(Net())
    model.module.load_state_dict(state)
    return dict(model.state_dict())


def timm_trainer(state: State) -> dict[str, Any]:
    args = argparse.Namespace(model="net", lr=np.float64(0.1), output=Path("out"))
    optimizer = {"state": {0: {"step": torch.ones(1)}}}
    return {"epoch": 3, "arch": "net", "state_dict": state, "optimizer": optimizer, "args": args, "metric": 71.5}


def inner_wrapped(state: State) -> State:
    return {name.replace("blocks.", "blocks._orig_mod."): value for name, value in state.items()}


FORMS: dict[str, Callable[[State], Any]] = {
    "plain": lambda state: state,
    "wrapped": lambda state: {"model": state},
    "lightning": lightning,
    "lightning, another name": lambda state: {"state_dict": prefixed(state, "net.")},
    "lightning, two names for one": lambda state: {
        "state_dict": {**prefixed(state, "net."), **prefixed(state, "ema_free.")}
    },
    "deeper prefix": lambda state: {"state_dict": prefixed(state, "task.student.backbone.")},
    "timm's trainer": timm_trainer,
    "parallel": lambda state: {"state_dict": prefixed(state, "module.")},
    "compiled": lambda state: prefixed(state, "_orig_mod."),
    "compiled within": inner_wrapped,
    "compiled and parallel": lambda state: prefixed(state, "module._orig_mod."),
    "lightning, compiled and parallel": lambda state: {"state_dict": prefixed(state, "model._orig_mod.module.")},
    "fsdp": lambda state: prefixed(inner_wrapped(state), "_fsdp_wrapped_module."),
    "swa": averaged,
    "torchvision's trainer": lambda state: {
        "model": prefixed(state, "module."), "model_ema": averaged(state), "args": argparse.Namespace()
    },
    "numbers of numpy": lambda state: {"model": state, "best": np.float32(3), "log": np.arange(3)},
    "old, without counters": lambda state: {n: v for n, v in state.items() if "num_batches" not in n},
    "half": lambda state: {n: v.half() if v.is_floating_point() else v for n, v in state.items()},
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_a_checkpoint_is_loaded_as_it_comes(form: str, tmp_path: Path) -> None:
    trained, net = Net(seed=1), Net(seed=2)
    if form == "half":
        trained = trained.half().float()
    torch.save(FORMS[form](trained.state_dict()), tmp_path / "last.ckpt")
    cl.load_weights(net, tmp_path / "last.ckpt")
    assert same(net, trained)


@pytest.mark.parametrize("form", ["plain", "lightning", "compiled", "swa"])
def test_safetensors_have_the_same_prefixes(form: str, tmp_path: Path) -> None:
    trained, net = Net(seed=1), Net(seed=2)
    content = FORMS[form](trained.state_dict())
    save_file(content.get("state_dict", content), tmp_path / "net.safetensors")
    cl.load_weights(net, tmp_path / "net.safetensors")
    assert same(net, trained)


@pytest.mark.parametrize("names", [("state_dict", "state_dict_ema"), ("model", "model_ema"), ("net", "ema_net")])
def test_averaged_weights_are_taken_where_both_fit(names: tuple[str, str], tmp_path: Path) -> None:
    last, mean, net = Net(seed=1), Net(seed=2), Net(seed=3)
    torch.save({names[0]: last.state_dict(), names[1]: mean.state_dict()}, tmp_path / "last.pth.tar")
    cl.load_weights(net, tmp_path / "last.pth.tar")
    assert same(net, mean)


def test_two_sets_that_fit_are_not_chosen_between(tmp_path: Path) -> None:
    state = {**prefixed(Net(seed=1).state_dict(), "student."), **prefixed(Net(seed=2).state_dict(), "teacher.")}
    file = tmp_path / "my run.pth"
    torch.save({"state_dict": state}, file)
    net = Net(seed=3)
    with pytest.raises(cl.InputError, match=r"2 sets .* under state_dict\.student and state_dict\.teacher") as caught:
        cl.load_weights(net, file)
    assert f"conceptlens convert '{file}' --entry state_dict.teacher --out" in str(caught.value)
    assert same(net, Net(seed=3))


def shards(folder: Path, state: State) -> Path:
    names = list(state)
    parts = {"model-00001-of-00002.safetensors": names[:5], "model-00002-of-00002.safetensors": names[5:]}
    for shard, own in parts.items():
        save_file({name: state[name] for name in own}, folder / shard)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": {n: s for s, own in parts.items() for n in own}}))
    return index


@pytest.mark.parametrize("given", ["index", "folder"])
def test_shards_are_joined(given: str, tmp_path: Path) -> None:
    trained, net = Net(seed=1), Net(seed=2)
    index = shards(tmp_path, trained.state_dict())
    cl.load_weights(net, index if given == "index" else tmp_path)
    assert same(net, trained)


def test_shards_that_are_not_all_there(tmp_path: Path) -> None:
    net = Net()
    index = shards(tmp_path, net.state_dict())
    with pytest.raises(cl.InputError, match="it is one of 2 shards: give their index"):
        cl.load_weights(net, tmp_path / "model-00001-of-00002.safetensors")
    moved = json.loads(index.read_text())
    moved["weight_map"]["head.bias"] = "model-00001-of-00002.safetensors"
    index.write_text(json.dumps(moved))
    with pytest.raises(cl.InputError, match=r"00001-of-00002\.safetensors lacks head\.bias"):
        cl.load_weights(net, index)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    moved["weight_map"]["head.bias"] = "model-00002-of-00002.safetensors"
    index.write_text(json.dumps(moved))
    with pytest.raises(cl.InputError, match=r"names model-00002-of-00002\.safetensors, which is not beside it"):
        cl.load_weights(net, index)
    moved["weight_map"] = {"head.bias": "../model.safetensors"}
    index.write_text(json.dumps(moved))
    with pytest.raises(cl.InputError, match="a shard outside its folder"):
        cl.load_weights(net, index)
    index.write_text("{}")
    with pytest.raises(cl.InputError, match="no index of shards"):
        cl.load_weights(net, index)


def test_folders_of_weights(tmp_path: Path) -> None:
    net = Net()
    with pytest.raises(cl.InputError, match=r"holds 0 files of weights \(none\)"):
        cl.load_weights(net, tmp_path)
    torch.save(Net(seed=1).state_dict(), tmp_path / "epoch=1.ckpt")
    cl.load_weights(net, tmp_path)
    assert same(net, Net(seed=1))
    torch.save(Net(seed=2).state_dict(), tmp_path / "epoch=2.ckpt")
    with pytest.raises(cl.InputError, match=r"2 files of weights \(epoch=1\.ckpt, epoch=2\.ckpt\); name one"):
        cl.load_weights(net, tmp_path)
    (tmp_path / "__0_0.distcp").touch()
    with pytest.raises(cl.InputError, match="dcp_to_torch_save"):
        cl.load_weights(net, tmp_path)
    (tmp_path / "__0_0.distcp").unlink()
    (tmp_path / "zero_to_fp32.py").touch()
    with pytest.raises(cl.InputError, match="DeepSpeed"):
        cl.load_weights(net, tmp_path)


LORA = {
    "peft": {"base_model.model.head.lora_A.weight": (2, 5), "base_model.model.head.lora_B.weight": (4, 2)},
    "peft within": {"head.base_layer.weight": (4, 5), "head.lora_A.default.weight": (2, 5)},
    "loralib": {"head.lora_A": (2, 5), "head.lora_B": (4, 2)},
    "loha": {"head.hada_w1_a": (4, 2)},
}


@pytest.mark.parametrize("form", LORA)
def test_an_adapter_is_to_be_merged(form: str, tmp_path: Path) -> None:
    net, adapter = Net(), {name: torch.ones(shape) for name, shape in LORA[form].items()}
    whole = form in ("peft within", "loralib")
    state = {**(net.state_dict() if whole else {}), **adapter}
    save_file(state, tmp_path / "adapter_model.safetensors")
    with pytest.raises(
        cl.InputError, match=rf"adapter that is not merged \({len(adapter)} entries such as .*merge_and"
    ):
        cl.load_weights(net, tmp_path / "adapter_model.safetensors")


def test_a_merged_adapter_is_as_any_weights(tmp_path: Path) -> None:
    trained, net = Net(seed=1), Net(seed=2)
    with torch.no_grad():
        trained.head.weight += torch.ones(4, 2) @ torch.ones(2, 5)
    torch.save(prefixed(trained.state_dict(), "base_model.model."), tmp_path / "merged.pt")
    cl.load_weights(net, tmp_path / "merged.pt")
    assert same(net, trained)


def test_a_head_of_another_size_asks_for_class_names(tmp_path: Path) -> None:
    file = tmp_path / "mine.ckpt"
    torch.manual_seed(0)
    module = cl.load_model("timm:test_resnet", pretrained=False, class_names=list("abcdefg")).module
    torch.save({"state_dict": prefixed(dict(module.state_dict()), "model.")}, file)
    wanted = r"fc\.weight is \(7, 96\) there and \({}, 96\) here, .* its head has 7 classes; give class_names="
    with pytest.raises(cl.InputError, match=wanted.format(1000)):
        cl.load_model("timm:test_resnet", weights=file)
    with pytest.raises(cl.InputError, match=wanted.format(2)):
        cl.load_model("timm:test_resnet", weights=file, class_names=["cat", "dog"])
    model = cl.load_model("timm:test_resnet", weights=file, class_names=list("abcdefg"))
    assert same(model.module, module)


def test_what_does_not_fit_is_told_by_what_was_found(tmp_path: Path) -> None:
    net, file = Net(), tmp_path / "w.pth"
    state = net.state_dict()

    def refused(content: Any, *parts: str) -> None:
        torch.save(content, file)
        with pytest.raises(cl.InputError) as caught:
            cl.load_weights(net, file)
        assert "\n" not in str(caught.value)
        for part in parts:
            assert part in str(caught.value)

    other = {"encoder.layer.0.weight": torch.ones(3, 3), "encoder.layer.0.bias": torch.ones(3)}
    refused(
        {"epoch": 1, "weights": other, "rng": [1]},
        "0 of the 13 entries", "holds epoch, weights, rng", "encoder.layer.0.weight", "it lacks stem.0.weight",
    )  # fmt: skip
    refused({**prefixed(state, "net."), "net.more.a": torch.ones(1)}, "under net", "it also holds more.a")
    refused({n: v for n, v in state.items() if "head" not in n}, "11 of the 13", "it lacks head.weight and 1 more")
    wide = {**state, "blocks.1.weight": torch.ones(5, 7, 3, 3)}
    refused(wide, "12 of the 13", "blocks.1.weight is (5, 7, 3, 3) there and (5, 5, 3, 3) here")
    whole = {**state, "head.weight": torch.ones(4, 5, dtype=torch.int8)}
    refused(whole, "head.weight holds numbers of type torch.int8 there and torch.float32 here")
    refused({"epoch": 3, "optimizer": {"state": {0: torch.ones(3)}}}, "no named tensors but epoch, optimizer")
    refused({"config": Settings()}, "no checkpoint of tensors alone", "Settings", "conceptlens convert")
    refused(net, "no checkpoint of tensors alone", "Net and", "conceptlens convert")


@pytest.mark.parametrize(
    ("content", "part"),
    [(b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"), (b"\x89HDF\r\n", "Keras"),
     (b"", "empty file"), (b"<!DOCTYPE html><html>", "web page"), (b"nothing at all", "of no kind that torch writes")],
)  # fmt: skip
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_files_that_are_no_weights(content: bytes, part: str, suffix: str, tmp_path: Path) -> None:
    file = tmp_path / f"w{suffix}"
    file.write_bytes(content)
    expected = "no readable safetensors" if suffix == ".safetensors" and "torch" in part else part
    with pytest.raises(cl.InputError, match=expected):
        cl.load_weights(Net(), file)


def test_a_safetensors_file_of_another_suffix_is_read_as_what_it_is(tmp_path: Path) -> None:
    trained, net = Net(seed=1), Net(seed=2)
    save_file(trained.state_dict(), tmp_path / "pytorch_model.bin")
    cl.load_weights(net, tmp_path)
    assert same(net, trained)


def test_what_is_allowed_in_a_checkpoint_is_given_back(tmp_path: Path) -> None:
    file = tmp_path / "w.pth"
    torch.save(timm_trainer(Net().state_dict()), file)
    before = torch.serialization.get_safe_globals()
    failed: list[Exception] = []

    def load() -> None:
        for _ in range(20):
            try:
                cl.load_weights(Net(), file)
            except Exception as error:
                failed.append(error)

    threads = [threading.Thread(target=load) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failed == []
    assert torch.serialization.get_safe_globals() == before


def sparse(value: Tensor) -> Tensor:
    return value.to_sparse() if value.ndim > 1 else value


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (sparse, r"holds weights of layout sparse_coo \((model\.)?stem\.0\.weight\); expected dense ones: save"),
        (lambda value: value.to("meta"), r"holds weights without values \((model\.)?stem\.0\.weight is on the meta"),
    ],
)
@pytest.mark.parametrize("prefix", ["", "model."])
def test_weights_that_are_no_plain_values_are_refused(
    tmp_path: Path, change: Callable[[Tensor], Tensor], sentence: str, prefix: str
) -> None:
    net = Net(seed=1)
    torch.save({prefix + name: change(value) for name, value in Net().state_dict().items()}, tmp_path / "odd.pth")
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(cl.InputError, match=sentence):
        cl.load_weights(net, tmp_path / "odd.pth")
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_other_sparse_tensors_of_a_file_are_left_alone(tmp_path: Path) -> None:
    content = {"state_dict": Net().state_dict(), "counts": {"classes": torch.eye(4).to_sparse()}}
    torch.save(content, tmp_path / "last.pth")
    net = Net(seed=1)
    cl.load_weights(net, tmp_path / "last.pth")
    assert same(net, Net())


@pytest.mark.parametrize("prefix", ["", "model."])
def test_the_sizes_in_files_of_openai_are_left_out(tmp_path: Path, prefix: str) -> None:
    sizes = {name: torch.tensor(7) for name in ("input_resolution", "context_length", "vocab_size")}
    torch.save(prefixed({**Net().state_dict(), **sizes}, prefix), tmp_path / "clip.pt")
    net = Net(seed=1)
    cl.load_weights(net, tmp_path / "clip.pt")
    assert same(net, Net())
    torch.save({**Net().state_dict(), "vocab_size": torch.ones(4)}, tmp_path / "other.pt")  # no number, so a weight
    with pytest.raises(cl.InputError, match="it also holds vocab_size"):
        cl.load_weights(net, tmp_path / "other.pt")


def test_a_number_of_that_name_that_the_module_has_is_loaded(tmp_path: Path) -> None:
    one, two = Net(), Net(seed=1)
    one.register_buffer("vocab_size", torch.tensor(7)), two.register_buffer("vocab_size", torch.tensor(0))
    torch.save(one.state_dict(), tmp_path / "own.pt")
    cl.load_weights(two, tmp_path / "own.pt")
    assert same(two, one)
