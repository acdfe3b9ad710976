from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from tiny_models import photo

import conceptlens as cl


@pytest.mark.parametrize("form", ["safetensors", "plain", "wrapped", "parallel"])
def test_weights_from_a_file(tmp_path: Path, form: str) -> None:
    torch.manual_seed(0)
    first = cl.load_model("timm:test_resnet", pretrained=False, class_names=["cat", "dog", "bee"])
    state = first.module.state_dict()
    file = tmp_path / ("own.safetensors" if form == "safetensors" else "own.pth")
    if form == "safetensors":
        save_file(state, file)
    elif form == "parallel":
        torch.save({"epoch": 3, "state_dict": {f"module.{name}": value for name, value in state.items()}}, file)
    else:
        torch.save({"model": state} if form == "wrapped" else state, file)
    again = cl.load_model("timm:test_resnet", weights=file, class_names=["cat", "dog", "bee"])
    assert torch.equal(again.observe(photo()).logits, first.observe(photo()).logits)
    assert again.class_names == ("cat", "dog", "bee")


class Danger:
    """A pickle that would write a file when it is opened."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.file,))


def test_weights_that_cannot_be_used(tmp_path: Path) -> None:
    file, trap = tmp_path / "own.pth", tmp_path / "sprung"

    def refused(reason: str, **options: object) -> None:
        with pytest.raises(cl.InputError, match=reason) as caught:
            cl.load_model("timm:test_resnet", weights=file, **options)  # pyright: ignore[reportArgumentType]
        assert "\n" not in str(caught.value)

    refused("no weights file")
    torch.save(Danger(trap), file)
    refused("no checkpoint of tensors alone")
    assert not trap.exists()
    file.write_bytes(b"not a checkpoint")
    refused("no checkpoint of tensors alone")
    torch.save([torch.zeros(3)], file)
    refused("holds no named tensors")
    state = timm.create_model("test_resnet").state_dict()
    torch.save(state, file)
    refused(r"fc\.weight is \(1000, 96\) there and \(3, 96\) here", class_names=["cat", "dog", "bee"])
    torch.save({name: value for name, value in state.items() if name != "fc.bias"}, file)
    refused(r"it lacks fc\.bias; ")
    torch.save({**state, "more": torch.zeros(1), "most": torch.zeros(1)}, file)
    refused("it also holds more and 1 more; ")
    file = tmp_path / "own.safetensors"
    file.write_bytes(b"not a checkpoint")
    refused("no readable safetensors file")
