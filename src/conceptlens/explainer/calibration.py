"""Z-scores: the spread of any concept's score over reference photos, from mean and covariance of image vectors."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence, Set
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from conceptlens.cams.concept_target import similarity
from conceptlens.concept_regions.concept_scores import encode_concepts
from conceptlens.explainer.presence import PresenceWeights, fit_presence, presence_features
from conceptlens.io.atomic import replacing
from conceptlens.io.cache import cache_folder
from conceptlens.io.errors import InputError
from conceptlens.io.fingerprint import weights_fingerprint
from conceptlens.model.class_concepts import known_words, rate_of

if TYPE_CHECKING:
    from jaxtyping import Float

    from conceptlens.concepts.vocabulary import ConceptName
    from conceptlens.model.backbone import Backbone
    from conceptlens.model.encoders import VisionLanguage
    from conceptlens.model.observation import Observation

# Principal directions of the covariance that are kept.
MAX_RANK = 128
MIN_PHOTOS = 30
# Mean and deviation of so few texts are quick, and are not kept in place of the vocabulary's.
FEW_TEXTS = 64


@dataclass(frozen=True, eq=False)
class ScoreCalibration:
    """Mean and covariance of a model's image vectors over reference photos.

    The covariance is kept as `basis basis^T + diag(rest)`, so the mean and the standard deviation of *any* concept's
    score over these photos follow in closed form: `mean_t = <mean, t>`, `std_t^2 = |basis^T t|^2 + sum rest t^2`.

    Attributes:
        mean: The mean vector.
        basis: The principal directions, each scaled by its standard deviation.
        rest: The variance of each dimension that the basis leaves over.
        count: How many photos were used.
        model: The name of the model.
        identity: The fingerprint of the model's weights.
        normalised: Whether the vectors have length 1.
        presence: Weights for the probability that a concept is in a photo, where they were fitted.
    """

    mean: Float[Tensor, "dimension"]
    basis: Float[Tensor, "dimension rank"]
    rest: Float[Tensor, "dimension"]
    count: int
    model: str
    identity: str
    normalised: bool = False
    presence: PresenceWeights | None = None
    _last: list[Tensor] = field(default_factory=list, init=False, repr=False, compare=False)

    def z_scores(
        self, scores: Float[Tensor, "image text"], texts: Float[Tensor, "text dimension"], language: VisionLanguage
    ) -> Float[Tensor, "image text"]:
        """Return `(score - mean_t) / std_t`: how many standard deviations a score lies above its concept's mean.

        Args:
            scores: The similarities of images and texts.
            texts: The text vectors.
            language: The encoders that the scores come from.

        Returns:
            One z-score per image and text; about one reference photo in forty has 2 or more.

        Raises:
            InputError: The calibration was made for another kind of vectors.
        """
        if language.normalised != self.normalised:
            raise InputError(
                f"this calibration of {self.model} was made for {'unit' if self.normalised else 'plain'} vectors, and "
                f"{language.name} compares others; make one with conceptlens calibrate FOLDER"
            )
        centre, spread = self._usual(self._units(texts, language))
        return (scores - language.scale * centre) / (language.scale * spread).clamp_min(1e-12)

    def _usual(self, texts: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and deviation of each text's score; those of the last many are kept, mostly the vocabulary's."""
        if len(texts) <= FEW_TEXTS:
            return texts @ self.mean, self._deviation(texts)
        if not self._last or not torch.equal(self._last[0], texts):
            self._last[:] = [texts, texts @ self.mean, self._deviation(texts)]
        return self._last[1], self._last[2]

    def _units(self, texts: Tensor, language: VisionLanguage) -> Tensor:
        texts = texts.float()
        return torch.nn.functional.normalize(texts, dim=1) if language.normalised else texts

    def _deviation(self, texts: Tensor) -> Tensor:
        return ((texts @ self.basis).square().sum(1) + texts.square() @ self.rest).sqrt()

    def save(self, file: str | Path) -> Path:
        """Write a safetensors file, atomically.

        Args:
            file: The file to write; its folder is made where there is none.

        Returns:
            The file.
        """
        tensors = {name: getattr(self, name).half().contiguous() for name in ("basis", "rest")}
        metadata = {name: str(getattr(self, name)) for name in ("model", "identity", "count", "normalised")}
        if self.presence is not None:
            metadata["presence"] = json.dumps(asdict(self.presence))
        with replacing(file) as temporary:
            save_file({"mean": self.mean.float(), **tensors}, temporary, metadata)
        return Path(file)

    @classmethod
    def load(cls, file: str | Path) -> ScoreCalibration:
        """Read a file written by `save`.

        Args:
            file: A file written by `save` or `conceptlens calibrate`.

        Returns:
            The calibration, in float32.

        Raises:
            InputError: It is no such file, or cannot be read.
        """
        try:
            with safe_open(str(file), framework="pt") as stored:
                about = stored.metadata()
                parts = {name: stored.get_tensor(name).float() for name in ("mean", "basis", "rest")}
                return cls(
                    **parts,
                    count=int(about["count"]),
                    model=about["model"],
                    identity=about["identity"],
                    normalised=about["normalised"] == "True",
                    presence=PresenceWeights(**json.loads(about["presence"])) if "presence" in about else None,
                )
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{file} is no calibration file ({error}); make one with conceptlens calibrate FOLDER"
            ) from None


def fit_calibration(model: Backbone, observations: Iterable[Observation]) -> ScoreCalibration:
    """Return the calibration of a model from observations of usual photos.

    Args:
        model: The model.
        observations: Observations of at least 30 photos; some hundreds are better.

    Returns:
        Mean and covariance of the image vectors of those photos, float32.

    Raises:
        InputError: There are fewer than 30 photos.
    """
    vectors = torch.cat(
        [_vectors(model, observation) for observation in observations] or [torch.empty(0, 0, device="cpu")]
    )
    if len(vectors) < MIN_PHOTOS:
        raise InputError(f"{len(vectors)} photos were given; a calibration needs at least {MIN_PHOTOS}")
    mean = vectors.mean(0)
    centred = (vectors - mean).double()
    _, singular, directions = torch.linalg.svd(centred, full_matrices=False)
    rank = min(MAX_RANK, len(singular))
    basis = (directions[:rank].T * singular[:rank] / (len(vectors) - 1) ** 0.5).float()
    rest = (centred.var(0).float() - basis.square().sum(1)).clamp_min(0)
    return ScoreCalibration(
        mean, basis, rest, len(vectors), model.name, weights_fingerprint(model.module), model.language.normalised
    )


def calibrate_presence(
    model: Backbone,
    calibration: ScoreCalibration,
    labelled: Iterable[tuple[Observation, Sequence[Set[ConceptName]]]],
    concepts: Sequence[ConceptName],
    source: str,
) -> ScoreCalibration:
    """Return a calibration with the weights of presence, fitted on photos whose concepts are known.

    Args:
        model: The model.
        calibration: The mean and covariance of its image vectors.
        labelled: Observations, and for each of their images the concepts that are in it.
        concepts: The concepts that are labelled wherever they are in a photo.
        source: What the photos are, for records.

    Returns:
        The same calibration with `presence`, whose base rates are counted in these photos.

    Raises:
        InputError: There are fewer than 30 photos.
    """
    language, known = model.language, model.class_concepts
    texts, words = encode_concepts(language, concepts), known_words(concepts)
    evidence, implied, present = [], [], []
    for observation, rows in labelled:
        vectors = language.encode_image(observation).detach().float().cpu()
        evidence.append(calibration.z_scores(similarity(vectors, texts, language), texts, language))
        present.append(torch.tensor([[float(concept in row) for concept in concepts] for row in rows], device="cpu"))
        if known is not None and observation.class_scores is not None:
            scores = observation.answer.competing(observation.logits.detach())
            implied.append(rate_of(known.implied(scores.cpu()), known, words))
    count = sum(map(len, present))
    if count < MIN_PHOTOS:
        raise InputError(f"{count} labelled photos were given; presence needs at least {MIN_PHOTOS}")
    labels = torch.cat(present)
    rates = (labels.sum(0) + 0.5) / (count + 1)
    features = presence_features(concepts, torch.cat(implied) if implied else None, torch.cat(evidence), rates, count)
    counted = {concept.label: round(float(rate), 5) for concept, rate in zip(concepts, rates, strict=True)}
    found = fit_presence(features.flatten(0, 1), labels.flatten(), penalty=1e-5)
    return replace(calibration, presence=PresenceWeights.from_vector(found, source, counted))


def find_calibration(model: Backbone) -> ScoreCalibration | None:
    """Return the calibration of this very model, by its weights: from the user's cache, else from the package.

    `None` where there is none, or only one for another kind of text encoder.

    Args:
        model: The model whose concepts are to be scored.

    Returns:
        The calibration, or `None`.

    Raises:
        InputError: The file in the cache is damaged.
    """
    name = f"{weights_fingerprint(model.module)}.safetensors"
    own = cache_folder() / "reference" / name
    if own.is_file():
        found = _loaded(own, own.stat().st_mtime_ns)
    elif (shipped := files("conceptlens.explainer") / "calibration_data" / name).is_file():
        with as_file(shipped) as file:
            found = _loaded(file, file.stat().st_mtime_ns)
    else:
        return None
    return found if found.normalised == model.language.normalised else None


@lru_cache(maxsize=4)
def _loaded(file: Path, _changed: int) -> ScoreCalibration:
    return ScoreCalibration.load(file)


def _vectors(model: Backbone, observation: Observation) -> Tensor:
    vectors = model.language.encode_image(observation).detach().float().cpu()
    return torch.nn.functional.normalize(vectors, dim=1) if model.language.normalised else vectors
