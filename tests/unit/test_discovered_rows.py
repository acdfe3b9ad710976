"""Concepts without a name beside those with one: what they take, what is refused, JSON, terminal, command line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from rich.console import Console
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms.functional import to_tensor
from typer.testing import CliRunner

import conceptlens as cl
from conceptlens.cams.cell_evidence import cell_evidence
from conceptlens.cli import app
from conceptlens.concepts.vocabulary import parse_concepts
from conceptlens.data.drawn_scene import DrawnSet, draw_scene
from conceptlens.discovery.concept_count import Candidate
from conceptlens.explainer import name_suggestions
from conceptlens.explainer.class_evidence import named_shares
from conceptlens.explainer.discovered_rows import MAX_ROWS
from conceptlens.explainer.explain_json import explain_json
from conceptlens.explainer.page_content import page_content
from conceptlens.explainer.photo_result import PhotoResult
from conceptlens.explainer.photo_run import ExplainOptions, explain_photos
from conceptlens.explainer.report_page import embed
from conceptlens.explainer.terminal import print_result
from conceptlens.io.fingerprint import weights_fingerprint
from conceptlens.model.observation import Observation
from planted import LABELS, ColourNet
from planted_words import Colours, by_score, calibrated

ASKED = "red:colour, blue:colour"


class Few(Colours):
    """The names of the colours; it does not know one word."""

    def knows(self, labels: Sequence[str]) -> tuple[bool, ...]:
        return tuple(label != "blorfin" for label in labels)


def discovered(module: nn.Module, layer: str, directions: Tensor) -> cl.DiscoveredConcepts:
    """Return concepts of given directions, as `discover` makes them."""
    count = len(directions)
    return cl.DiscoveredConcepts(
        directions=F.normalize(directions, dim=1),
        names=("",) * count,
        suggestions=((),) * count,
        places=((),) * count,
        activity=(0.1,) * count,
        stability=(0.9,) * count,
        shared=(0.9,) * count,
        model="planted",
        model_identity=weights_fingerprint(module),
        layer=layer,
        candidates=(Candidate(count, count, 0.5, 0.9, 0.2),),
        chosen=0,
        diagnostics={},
    )


def mixed(seed: int = 0, count: int = 7) -> Tensor:
    """Directions of several colours each, so that every cell is shared."""
    return torch.rand(count, len(LABELS) + 1, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def model() -> cl.Backbone:
    return cl.Backbone(ColourNet(), "planted", ("features",), to_tensor, class_names=LABELS, text=Few())


@pytest.fixture(scope="module")
def observation(model: cl.Backbone) -> Observation:
    """Two scenes of three shapes."""
    scenes = [one.photo for one in DrawnSet(20) if len(one.concepts) == 6][:2]
    return model.observe(scenes)


@pytest.fixture(scope="module")
def concepts(model: cl.Backbone) -> cl.DiscoveredConcepts:
    return discovered(model.module, "features", mixed())


def slow_counts(observation: Observation, named: Tensor, concepts: cl.DiscoveredConcepts, target: int) -> Tensor:
    """`sum_u (1 - named(u)) share(u) e(u)`, cell by cell."""
    evidence = cell_evidence(observation, target)
    assert evidence is not None
    shares = concepts.cell_shares(observation)
    total = torch.zeros(len(named), len(concepts), dtype=torch.float64)
    for i, k, y, x in torch.cartesian_prod(*map(torch.arange, (len(named), len(concepts), *named.shape[-2:]))).tolist():
        left = 1 - float(named[i, :, y, x].sum())
        total[i, k] += left * float(shares[i, k, y, x]) * float(evidence.cells[i, y, x])
    return total


def test_the_rest_shrinks_by_what_the_discovered_ones_take(
    observation: Observation, concepts: cl.DiscoveredConcepts
) -> None:
    target = LABELS.index("red")
    plain = cl.explain(observation, ASKED, target, regions="official")
    found = cl.explain(observation, ASKED, target, regions="official", concepts_from=concepts)
    assert found.contributions is not None
    assert plain.contributions is not None
    assert found.unnamed is not None
    assert plain.unnamed is not None
    assert found.margins is not None
    assert found.residuals is not None
    torch.testing.assert_close(found.contributions[:, :2], plain.contributions)
    assert found.concept_types == (("colour", "colour", *("discovered",) * MAX_ROWS),) * 2
    counts = slow_counts(observation, named_shares(plain, (14, 14), named=True), concepts, target)
    for i in range(2):
        best = counts[i].abs().topk(MAX_ROWS)
        assert found.labels[i][2:] == tuple(f"concept {k}" for k in best.indices.tolist())
        expected = counts[i, best.indices].float()
        torch.testing.assert_close(found.contributions[i, 2:], expected, atol=1e-5, rtol=1e-4)
        taken = float(plain.unnamed[i] - found.unnamed[i])
        assert taken == pytest.approx(float(found.contributions[i, 2:].sum()), abs=1e-5)
        assert float(found.contributions[i, 2:].abs().max()) > 1e-4 * float(found.margins[i].abs())
    whole = found.contributions.sum(1) + found.unnamed + found.residuals
    torch.testing.assert_close(whole, found.margins, atol=1e-5, rtol=1e-5)


def test_directions_that_account_for_every_cell_leave_nothing_without_a_name(
    observation: Observation, model: cl.Backbone
) -> None:
    own = torch.cat([torch.eye(6), torch.ones(6, 1)], 1)  # the channels of each colour's cells
    every = discovered(model.module, "features", own)
    plain = cl.explain(observation, "blue:colour", "red", against="green", regions="official")
    found = cl.explain(observation, "blue:colour", "red", against="green", regions="official", concepts_from=every)
    assert plain.unnamed is not None
    assert found.unnamed is not None
    assert float(plain.unnamed.abs().max()) > 1
    assert float(found.unnamed.abs().max()) < 0.01


def test_their_maps_are_coefficients_and_what_is_not_defined_is_nan(
    observation: Observation, concepts: cl.DiscoveredConcepts
) -> None:
    found = cl.explain(
        observation, ASKED, "red", regions="competing", concepts_from=concepts, calibration=calibrated()[1]
    )
    cells = concepts.activations(observation)
    large = F.interpolate(cells, size=(28, 28), mode="bilinear", align_corners=False)
    for i in range(2):
        for q, label in enumerate(found.labels[i][2:], 2):
            number = concepts.labels.index(label)
            torch.testing.assert_close(found.maps[i, q], large[i, number])
            assert float(found.scores[i, q]) == pytest.approx(float(cells[i, number].mean()), rel=1e-5)
    for values in (found.presence, found.z_scores, found.base_rates, found.diagnostics["place_contrast"]):
        assert values is not None
        assert values.isnan().tolist() == [[False] * 2 + [True] * MAX_ROWS] * 2
    assert found.weights is None
    assert found.target_kinds == ("concept",) * (2 + MAX_ROWS)


def test_a_word_that_is_not_known_takes_nothing_from_them(
    observation: Observation, concepts: cl.DiscoveredConcepts
) -> None:
    """And its missing presence does not make theirs missing."""
    calibration = calibrated()[1]
    settings: dict[str, Any] = {"regions": "official", "calibration": calibration, "concepts_from": concepts}
    found = cl.explain(observation, f"blorfin, {ASKED}", "red", **settings)
    without = cl.explain(observation, ASKED, "red", **settings)
    assert found.contributions is not None
    assert without.contributions is not None
    assert found.known is not None
    assert found.known.tolist() == [[False, *(True,) * (2 + MAX_ROWS)]] * 2
    assert bool(found.contributions[:, 0].isnan().all())
    torch.testing.assert_close(found.contributions[:, 1:], without.contributions)
    torch.testing.assert_close(found.unnamed, without.unnamed)


def test_ranges_are_of_the_named_ones_alone(observation: Observation, concepts: cl.DiscoveredConcepts) -> None:
    found = cl.explain(observation, ASKED, "red", regions="official", intervals=True, concepts_from=concepts)
    for values in (found.contributions_low, found.contributions_high):
        assert values is not None
        assert values.isnan().tolist() == [[False] * 2 + [True] * MAX_ROWS] * 2


REFUSED = {
    "another layer": ("are of layer 'detect', and the evidence is weighed at 'features'; observe the photos", "layer"),
    "masking": ("concepts_from shares evidence, which contribution='masking' does not measure", "masking"),
    "another model": ("these concepts were discovered in planted with weights", "model"),
    "no classes": ("gives no class scores", "classes"),
}


@pytest.mark.parametrize(("words", "case"), REFUSED.values(), ids=REFUSED)
def test_refused(words: str, case: str, observation: Observation, concepts: cl.DiscoveredConcepts) -> None:
    settings: dict[str, Any] = {"regions": "official", "concepts_from": concepts}
    if case == "layer":
        settings["concepts_from"] = replace(concepts, layer="detect")
    if case == "masking":
        settings["contribution"] = "masking"
    if case == "model":
        settings["concepts_from"] = discovered(ColourNet(shared=0.5), "features", mixed())
    if case == "classes":
        tower = cl.Backbone(observation.model.module, "tower", ("features",), to_tensor, task="embedding", text=Few())
        observation = tower.observe(observation.images)
    with pytest.raises(cl.InputError, match=words) as caught:
        cl.explain(observation, ASKED, **settings)
    assert "\n" not in str(caught.value)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    scene = next(one for one in DrawnSet(20) if len(one.concepts) == 6)
    scene.photo.save(tmp_path / "scene.png")
    return tmp_path / "scene.png"


def of_file(model: cl.Backbone, photo: Path, **options: Any) -> PhotoResult:
    (result,) = explain_photos(model, [photo], ExplainOptions(**options))
    assert isinstance(result, PhotoResult), result
    return result


def test_json_page_and_terminal_have_them_and_no_nan(
    model: cl.Backbone, photo: Path, concepts: cl.DiscoveredConcepts, capsys: pytest.CaptureFixture[str]
) -> None:
    named = concepts.named("0=something round")
    result = of_file(
        model, photo, concepts=parse_concepts(f"blorfin, {ASKED}"), target="red", regions="official", for_page=True,
        calibration=calibrated()[1], concepts_from=named, intervals=True,
    )  # fmt: skip
    (image,) = json.loads(json.dumps(explain_json([result], []), allow_nan=False))["images"]
    rows = [one for one in image["concepts"] if one["type"] == "discovered"]
    assert len(rows) == MAX_ROWS
    assert "something round" in [one["label"] for one in rows]
    for one in rows:
        assert one["known"] is True
        assert [one[name] for name in ("presence", "z_score", "implied", "base_rate", "contribution_range")] == [
            None
        ] * 5
    margin = image["margin"]
    assert margin["discovered"] == pytest.approx(sum(one["contribution"] for one in rows), abs=1e-5)
    parts = margin["named"] + margin["discovered"] + margin["unnamed"] + margin["residual"]
    assert margin["value"] == pytest.approx(parts, abs=1e-5)
    assert embed(page_content([result]))
    print_result(result, Console(width=200))
    shown = " ".join(capsys.readouterr().out.split())
    assert "something round discovered - - " in shown
    assert f", discovered {margin['discovered']:+.2f}, unnamed" in shown


def test_what_only_fills_up_goes_and_discovered_rows_stay(
    model: cl.Backbone, tmp_path: Path, concepts: cl.DiscoveredConcepts
) -> None:
    """Of a batch, the photo of nothing has no likely word; discovered concepts have no presence."""
    next(one for one in DrawnSet(20) if len(one.concepts) == 6).photo.save(tmp_path / "many.png")
    draw_scene([]).image.save(tmp_path / "none.png")
    options = ExplainOptions(calibration=by_score(), regions="official", concepts_from=concepts)
    many, none = explain_photos(model, sorted(tmp_path.glob("*.png")), options)
    assert isinstance(many, PhotoResult)
    assert isinstance(none, PhotoResult)
    kinds = []
    for result in (many, none):
        found = result.concepts
        assert found is not None
        assert found.presence is not None
        assert found.concept_types[0].count("discovered") == MAX_ROWS
        assert bool((found.presence[0] >= 0.5).logical_or(found.presence[0].isnan()).all())
        assert found.contributions is not None
        assert found.unnamed is not None
        kinds.append(len(found.concept_types[0]) - MAX_ROWS)
    assert kinds[0] > kinds[1] == 0


@pytest.mark.wide
def test_the_command_from_discovery_to_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`discover` makes the folder, `explain --concepts-from` reads it, by the names that a person gave."""
    monkeypatch.setattr(name_suggestions, "_presence", lambda *_: None)  # no word says anything of random weights
    save_file(timm.create_model("test_resnet").state_dict(), tmp_path / "own.safetensors")
    tiny = ("--model", "timm:test_resnet", "--weights", str(tmp_path / "own.safetensors"))
    for index, one in enumerate(DrawnSet(12)):
        one.photo.resize((64, 64)).save(tmp_path / f"{index:02}.png")
    made, out = tmp_path / "concepts", tmp_path / "out"
    done = CliRunner().invoke(
        app, ["discover", str(tmp_path), *tiny, "--concepts", "3", "--out-dir", str(made), "--names", "1=first things"]
    )
    assert done.exit_code == 0, done.output
    photo = str(tmp_path / "00.png")
    command = ["explain", photo, "--concepts", "cat, wheel", *tiny, "--concepts-from", str(made)]
    done = CliRunner().invoke(app, [*command, "--out-dir", str(out)])
    assert done.exit_code == 0, done.output
    assert "discovered" in done.stdout
    (image,) = json.loads((out / "explain.json").read_text())["images"]
    rows = [one["label"] for one in image["concepts"] if one["type"] == "discovered"]
    assert "first things" in rows
    assert image["margin"]["discovered"] != 0
    assert "first things" in (out / "report.html").read_text()
    done = CliRunner().invoke(app, [*command, "--contribution", "masking"])
    assert done.exit_code == 2
    assert "concepts_from shares evidence" in " ".join(done.output.split())
    other = ("--model", "timm:test_resnet", "--no-pretrained")  # with other random weights
    done = CliRunner().invoke(app, ["explain", photo, "--concepts", "cat", *other, "--concepts-from", str(made)])
    assert done.exit_code == 2
    assert "these concepts were discovered in" in " ".join(done.output.split())
    done = CliRunner().invoke(app, ["explain", photo, "--concepts", "cat", *tiny, "--concepts-from", str(out)])
    assert done.exit_code == 2
