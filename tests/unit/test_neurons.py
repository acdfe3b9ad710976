from __future__ import annotations

import dataclasses

import pytest
import torch

import conceptlens as cl
from conceptlens.concept_regions import neurons
from conceptlens.concept_regions.neurons import NeuronLabels, fit_clip_dissect, fit_www, neuron_region, probe_neurons
from conceptlens.concepts.vocabulary import ConceptName
from conceptlens.data.drawn_scene import DrawnSet
from planted import LABELS
from planted_words import planted_model
from tolerance import assert_agree

COLOURS = [ConceptName(label, "colour") for label in LABELS]
MODEL = planted_model()
SCENES = [one.photo for one in DrawnSet(60, "train")]
PROBED = probe_neurons(MODEL, SCENES)
FITS = {"clip_dissect": fit_clip_dissect, "www": fit_www}


@pytest.mark.parametrize("name", FITS)
def test_every_colour_finds_its_own_neuron(name: str) -> None:
    labels = FITS[name](PROBED, COLOURS)
    best, _ = labels.best(COLOURS)
    assert best[:, 0].tolist() == list(range(len(LABELS)))
    assert labels.matched(COLOURS) == (True,) * len(LABELS)
    assert (labels.method, labels.layer, labels.language) == (name, "features", "colours")


def test_the_region_is_the_neurons_own_map_and_keeps_the_equation() -> None:
    labels = fit_clip_dissect(PROBED, COLOURS)
    observation = MODEL.observe(SCENES[:2])
    explained = neuron_region(observation, labels, COLOURS, count=3)
    assert explained.maps.shape == (2, 6, 14, 14)
    assert_agree(explained.maps[:, 2], observation.feature()[:, 2].relu())
    assert explained.weights is not None
    again = torch.einsum("nqk,nkhw->nqhw", explained.weights[..., 0, 0], observation.feature()).relu()
    assert_agree(explained.maps, again)
    assert len(explained.components) == 3
    assert_agree(explained.components[0].maps, explained.maps)
    assert explained.components[1].source.settings["neurons"] != explained.source.settings["neurons"]
    assert neuron_region(observation, labels, COLOURS).components == ()


def test_photos_stream_and_batches_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neurons, "BATCH_PHOTOS", 7)
    again = probe_neurons(MODEL, (photo for photo in SCENES))
    assert torch.allclose(again.activations, PROBED.activations, rtol=1e-4, atol=1e-6)
    assert torch.allclose(again.vectors, PROBED.vectors, rtol=1e-4, atol=1e-6)


def test_another_backbones_pair_can_judge() -> None:
    judge = dataclasses.replace(planted_model(), name="judge")
    given = probe_neurons(MODEL, SCENES, vlm=judge)
    assert torch.allclose(given.vectors, PROBED.vectors, rtol=1e-4, atol=1e-6)
    assert given.model is MODEL


def test_at_most_a_fifth_of_the_photos_are_a_neurons_own() -> None:
    assert [PROBED.n_examples(limit) for limit in (100, 12, 4)] == [12, 12, 4]


def test_a_neuron_without_a_positive_fit_bears_no_www_label() -> None:
    labels = NeuronLabels(-torch.ones(2, 3), tuple(COLOURS[:2]), "www", "m", "l", "v", keep=0.95)
    assert not labels.assigned().any()
    assert labels.matched(COLOURS[:2]) == (False, False)


REFUSED = {
    "few photos": (lambda: probe_neurons(MODEL, SCENES[:9]), "at least 10"),
    "no examples": (lambda: fit_www(PROBED, COLOURS, examples=0), "at least 1"),
    "unknown concept": (
        lambda: fit_www(PROBED, COLOURS).best([ConceptName("redd", "colour")]),
        "these labels have no concept 'redd'",
    ),
    "many neurons": (lambda: fit_www(PROBED, COLOURS).best(COLOURS, 8), "give 1 to 7"),
    "another layer": (
        lambda: neuron_region(
            MODEL.observe(SCENES[0], "pool"), dataclasses.replace(fit_www(PROBED, COLOURS), layer="pool"), COLOURS
        ),
        "fit them for this model",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals_say_what_to_do(case: str) -> None:
    given, part = REFUSED[case]
    with pytest.raises(cl.InputError, match=part):
        given()
