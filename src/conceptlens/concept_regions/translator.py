"""A trained branch with its teacher's text encoder: a vision-language pair that reads a classifier's own layers."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from conceptlens.concept_regions.branch import Branch, pooled
from conceptlens.concepts.vocabulary import vocabulary
from conceptlens.io.cache import cached
from conceptlens.io.errors import InputError
from conceptlens.io.fingerprint import settings_fingerprint, texts_fingerprint, weights_fingerprint
from conceptlens.io.saved_folder import CONFIG, FolderFormat
from conceptlens.model.encoders import ClassifierText, knows
from conceptlens.model.observation import Observation
from conceptlens.model.own_weights import check_own_weights

if TYPE_CHECKING:
    from jaxtyping import Float

    from conceptlens.model.backbone import Backbone
    from conceptlens.model.model_output import ModelOutput

FOLDER_FORMAT = FolderFormat(
    "branch",
    "branch.safetensors",
    "conceptlens fit ce-fam",
    1,
    {
        "branch.layers": "a list of texts",
        "branch.widths": "a list of whole numbers",
        "branch.hidden": "a list of whole numbers",
        "branch.dimension": "a whole number",
        **{f"teacher.{name}": "a text" for name in ("name", "identity", "texts")},
        **{f"teacher.{name}": "a number" for name in ("scale", "bias")},
        "teacher.normalised": "true or false",
        "model.name": "a text",
        "model.identity": "a text",
        "training": "an object",
    },
)


@dataclass(frozen=True)
class Teacher:
    """The vision-language model that a branch imitates; it scores `scale <image, text> + bias`.

    Args:
        name: Name by which it is loaded.
        identity: Fingerprint of its image tower and its text encoder.
        texts: Its name in the text cache; empty where it has none.
        scale: Factor of the product.
        bias: Summand of every score; 0 except for SigLIP.
        normalised: Whether it compares unit vectors.
    """

    name: str
    identity: str
    texts: str
    scale: float
    bias: float
    normalised: bool

    @classmethod
    def of(cls, vlm: Backbone) -> Teacher:
        """Describe a backbone with a text encoder.

        Args:
            vlm: A backbone whose vision-language pair is the teacher.

        Returns:
            Its names, fingerprint, scale and bias.
        """
        language = vlm.language
        bias = getattr(language, "bias", 0.0)  # only SigLIP has one
        return cls(vlm.name, _identity(vlm), _texts(vlm), language.scale, float(bias), language.normalised)


@dataclass(frozen=True, eq=False)
class Translator:
    """A vision-language pair of a classifier with its branch as image encoder, and the teacher's text encoder.

    The concept score is `S = scale <h(z), t>` of unit vectors (CLIP) or plain ones (CE-FAM, ICCV 2025, section 3.2).
    It reads observations of `layers` alone: `model.observe(photo, layers=translator.layers)`.

    Args:
        branch: The trained branch, which is frozen.
        teacher: Description of the teacher.
        model: Name of the classifier.
        model_identity: Fingerprint of the classifier's weights.
        training: Settings and outcome of the training.
        vlm: The teacher itself; without it, it is loaded by its name when a text is not in the text cache.
    """

    branch: Branch
    teacher: Teacher
    model: str
    model_identity: str
    training: Mapping[str, Any] = field(default_factory=dict)
    vlm: Backbone | None = field(default=None, repr=False)
    _known: weakref.WeakSet[Backbone] = field(default_factory=weakref.WeakSet, repr=False)

    def __post_init__(self) -> None:
        """Freeze the branch."""
        self.branch.eval().requires_grad_(False)

    @property
    def name(self) -> str:
        """What the pair is called in records."""
        return f"CE-FAM branch of {self.model} after {self.teacher.name}"

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers that the branch reads, in the order of execution."""
        return self.branch.layers

    @property
    def scale(self) -> float:
        """The teacher's factor before the product."""
        return self.teacher.scale

    @property
    def bias(self) -> float:
        """What the teacher adds to every score, the same for all texts."""
        return self.teacher.bias

    @property
    def normalised(self) -> bool:
        """Whether the teacher compares unit vectors."""
        return self.teacher.normalised

    def encode_image(self, output: ModelOutput) -> Float[Tensor, "image dimension"]:
        """Return `h(z)`, not normalised, in the graph of an observation of `layers`.

        Args:
            output: An observation of `layers` of the classifier.

        Returns:
            Vectors `(image, dimension)`, float32.

        Raises:
            InputError: For an output without observed layers, or of another model.
        """
        if not isinstance(output, Observation):
            raise InputError(
                f"the branch reads {', '.join(self.layers)} inside {self.model}, and this output holds none of them; "
                "use model.observe(..., layers=translator.layers) and a rule with gradients"
            )
        self.check(output.model)
        vector = pooled(output, self.layers).float()
        return self.branch.to(vector.device)(vector)

    def encode_text(self, texts: Sequence[str]) -> Float[Tensor, "text dimension"]:
        """Return the teacher's vector of each text; the teacher is not needed for those in the text cache.

        Args:
            texts: At least one text.

        Returns:
            Vectors `(text, dimension)`, float32.

        Raises:
            InputError: A text is not in the cache and the teacher cannot be loaded, or no text was given.
        """
        if not self.teacher.texts:
            return self._teacher().language.encode_text(texts)
        return cached(self.teacher.texts, texts, lambda missing: self._teacher().language.encode_text(missing))

    def knows(self, labels: Sequence[str]) -> tuple[bool, ...]:
        """Return whether the teacher knows each text; it is not loaded for words of the vocabulary, nor for CLIP.

        Args:
            labels: Texts without a prompt.
        """
        words = {concept.label for concept in vocabulary()}
        if self.normalised or words.issuperset(labels):
            return (True,) * len(labels)
        try:
            return knows(self._teacher().language, labels)
        except InputError:  # the teacher is not at hand, which texts in the cache do not need
            return (True,) * len(labels)

    def check(self, model: Backbone) -> None:
        """Refuse a model that the branch was not trained for.

        Args:
            model: A backbone, compared by the fingerprint of its weights.

        Raises:
            InputError: For a model with other weights, of whatever name.
        """
        remedy = (
            "load that model in the precision it was trained in, or "
            "fit a branch for this one with conceptlens fit ce-fam"
        )
        check_own_weights(model, self.model_identity, self._known, f"this branch was trained for {self.model}", remedy)

    def save(self, folder: str | Path) -> Path:
        """Write `branch.safetensors` and `config.json`, each atomically, and return the folder.

        Args:
            folder: The folder to write; it is made where there is none.

        Returns:
            The folder.
        """
        path = Path(folder)
        config = {
            "kind": "conceptlens ce-fam branch",
            "branch": {name: getattr(self.branch, name) for name in ("layers", "widths", "hidden", "dimension")},
            "teacher": asdict(self.teacher),
            "model": {"name": self.model, "identity": self.model_identity},
            "training": dict(self.training),
        }
        FOLDER_FORMAT.write(path, {name: value.float() for name, value in self.branch.state_dict().items()}, config)
        return path

    @classmethod
    def load(cls, folder: str | Path, vlm: Backbone | None = None) -> Translator:
        """Read a branch that `save` or `conceptlens fit ce-fam` wrote.

        Args:
            folder: Folder of the branch.
            vlm: The teacher, where it cannot be loaded by its name.

        Returns:
            The translator, on the CPU.

        Raises:
            InputError: Where the folder holds no whole branch, or `vlm` is another teacher.
        """
        path = Path(folder)
        config = FOLDER_FORMAT.read_config(path)
        teacher = {name: config["teacher"][name] for name in Teacher.__dataclass_fields__}
        model = config["model"]
        branch = _read_branch(path, config["branch"])
        made = cls(branch, Teacher(**teacher), model["name"], model["identity"], config["training"], vlm)
        if vlm is not None:
            made._check_teacher(vlm)
        return made

    def _teacher(self) -> Backbone:
        """Return the teacher: the one given, else the one of that name, loaded now and kept."""
        if self.vlm is not None:
            return self.vlm
        from conceptlens.model.zoo import load_model

        try:
            loaded = load_model(self.teacher.name)
        except InputError as error:
            raise InputError(
                f"texts that are not in the cache need the teacher {self.teacher.name}, which cannot be loaded "
                f"({error}); give it: Translator.load(folder, vlm=...)"
            ) from None
        self._check_teacher(loaded)
        object.__setattr__(self, "vlm", loaded)
        return loaded

    def _check_teacher(self, vlm: Backbone) -> None:
        found = _identity(vlm)
        if found != self.teacher.identity:
            raise InputError(
                f"the teacher of this branch was {self.teacher.name} ({self.teacher.identity}), and {vlm.name} "
                f"({found}) was given; load it with the same weights"
            )


def _read_branch(folder: Path, config: Mapping[str, Any]) -> Branch:
    """Build the network that a config describes, with its weights."""
    weights = FOLDER_FORMAT.read_weights(folder)
    try:
        branch = Branch(config["layers"], config["widths"], config["dimension"], config["hidden"])
        branch.load_state_dict(weights)
    except InputError as error:
        raise FOLDER_FORMAT.damaged_error(folder, f"in {CONFIG}, branch does not fit together: {error}") from None
    except RuntimeError:  # torch's own, where names or shapes differ
        raise FOLDER_FORMAT.damaged_error(
            folder, f"{FOLDER_FORMAT.weights_file} holds other sizes than {CONFIG}"
        ) from None
    return branch


def _identity(vlm: Backbone) -> str:
    """Return a fingerprint of everything a teacher computes with: its image tower's weights and its text half."""
    return texts_fingerprint([f"{weights_fingerprint(vlm.module)} {_texts(vlm)}"])


def _texts(vlm: Backbone) -> str:
    """Return the name under which the teacher's text vectors are cached; nothing where its kind is not known."""
    language = vlm.language
    weights = getattr(language, "model", None)
    if isinstance(weights, nn.Module):  # as OpenClip and Transformers call it themselves
        return f"{language.name}-{weights_fingerprint(weights)}"
    if isinstance(language, ClassifierText):
        settings = ("usual", language.class_names, language.temperature, language.prompt)
        digest = settings_fingerprint(settings)
        return f"{language.name}-{weights_fingerprint(vlm.module)}-{digest}"
    return ""
