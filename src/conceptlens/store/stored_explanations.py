"""An explanation as bytes and JSON, and back: equal, and never unpickled."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from conceptlens.io.errors import InputError
from conceptlens.record import Explanation, ImageInfo, Source
from conceptlens.store.settings_json import told, untold


def write(explanation: Explanation) -> tuple[bytes, str]:
    """Return the tensors of an explanation as safetensors, and all else as JSON."""
    tensors, record = _taken_apart(explanation, "")
    return save(tensors), json.dumps(record, sort_keys=True)


def read(tensors: bytes, record: str) -> Explanation:
    """Return the explanation that was written, its tensors in memory; raises `InputError` where it is damaged."""
    try:
        return _put_together(json.loads(record), load(tensors))
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"an explanation in the store is damaged ({error}); make it again") from None


def _taken_apart(explanation: Explanation, prefix: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    tensors: dict[str, Tensor] = {}
    record: dict[str, Any] = {"tensors": {}, "components": []}
    for field in fields(explanation):
        value = getattr(explanation, field.name)
        if isinstance(value, Tensor):
            record["tensors"][field.name] = prefix + field.name
            tensors[prefix + field.name] = value.detach().cpu().contiguous().clone()  # no two share their memory
        elif isinstance(value, Source):
            pictures = [asdict(picture) for picture in value.image_info]
            record["source"] = told({**value.__getstate__(), "image_info": pictures}, "settings of an explanation")
        elif field.name != "components":
            record[field.name] = told(value, f"{field.name} of an explanation")
    for number, part in enumerate(explanation.components):
        inner, about = _taken_apart(part, f"{prefix}{number}.")
        tensors |= inner
        record["components"].append(about)
    return tensors, record


def _put_together(record: dict[str, Any], tensors: Mapping[str, Tensor]) -> Explanation:
    given: dict[str, Any] = {
        name: untold(one) for name, one in record.items() if name not in ("tensors", "components", "source")
    }
    given |= {name: tensors[place] for name, place in record["tensors"].items()}
    source = untold(record["source"])
    pictures = tuple(ImageInfo(**picture) for picture in source.pop("image_info"))
    return Explanation(
        **given,
        source=Source(**source, image_info=pictures),
        components=tuple(_put_together(part, tensors) for part in record["components"]),
    )
