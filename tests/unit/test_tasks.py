"""Maps, predictions, contributions, JSON, terminal and page of planted networks of every task."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from rich.console import Console
from torch import Tensor, nn
from torchvision.transforms.functional import to_tensor

import conceptlens as cl
from conceptlens.cams.cell_evidence import cell_evidence
from conceptlens.concept_regions.channel_masking import masking_contributions
from conceptlens.explainer.answer_words import other_answer
from conceptlens.explainer.explain_json import contrast_json, explain_json
from conceptlens.explainer.html_report import report
from conceptlens.explainer.page_content import page_content
from conceptlens.explainer.photo_result import PhotoResult
from conceptlens.explainer.photo_run import ExplainOptions, explain_photos
from conceptlens.explainer.terminal import print_result
from conceptlens.io.errors import Failure
from conceptlens.model.answer import Task
from conceptlens.model.predictions import predictions
from tasks import CLASSES, HEADS, expected_margin, expected_probabilities, network, scenes, task_model

WORDS = ["red", "green"]


def raw_of(observation: cl.Observation) -> list[list[float]]:
    return observation.output.detach().double().tolist()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("scenes")
    paths = [folder / f"scene {i}.png" for i in range(3)]
    for scene, path in zip(scenes(), paths, strict=True):
        scene.save(path)  # pyright: ignore[reportAttributeAccessIssue]
    return paths


def results(task: Task, files: Sequence[Path], **options: Any) -> list[PhotoResult]:
    settings = {"concepts": cl_words(), "for_page": True, **options}
    found = list(explain_photos(task_model(task), files, ExplainOptions(**settings)))
    assert all(isinstance(one, PhotoResult) for one in found)
    return found  # pyright: ignore[reportReturnType]


def cl_words() -> Any:
    from conceptlens.concepts.vocabulary import parse_concepts

    return parse_concepts(WORDS)


def printed(result: PhotoResult) -> str:
    out = io.StringIO()
    print_result(result, Console(file=out, width=200))
    return " ".join(out.getvalue().split())


@pytest.mark.parametrize("task", CLASSES)
def test_probabilities_follow_the_task(task: Task) -> None:
    observation = task_model(task).observe(scenes())
    for image, raw in enumerate(raw_of(observation)):
        expected = expected_probabilities(task, raw)
        found = {one.index: one.probability for one in predictions(observation, image)}
        assert [found[k] for k in range(len(expected))] == pytest.approx(expected, abs=1e-6)
        best = max(range(len(expected)), key=expected.__getitem__)
        assert predictions(observation, image)[0].index == best
        asked = cl.cam(observation, [cl.Probability(k) for k in range(len(expected))])
        assert asked.scores[image].tolist() == pytest.approx(expected, abs=1e-6)


def test_a_quantity_has_no_probability() -> None:
    observation = task_model("regression").observe(scenes())
    (age,) = predictions(observation, 0)
    assert (age.name, age.probability) == ("age", None)
    assert age.logit == pytest.approx(raw_of(observation)[0][0], rel=1e-6)
    with pytest.raises(cl.InputError, match=r"gives a quantity \(task='regression'\), which has no probability"):
        cl.cam(observation, cl.Probability("age"))


@pytest.mark.parametrize("task", HEADS)
def test_the_evidence_of_cells_adds_up_to_the_margin(task: Task) -> None:
    observation = task_model(task).observe(scenes(), layers=["features", "pool"])
    for layer in ("features", "pool"):
        for index in range(observation.logits.shape[1]):
            evidence = cell_evidence(observation, index, layer=layer)
            assert evidence is not None
            expected = [expected_margin(task, raw, index) for raw in raw_of(observation)]
            assert evidence.margins.tolist() == pytest.approx(expected, rel=1e-4, abs=1e-4)
            total = evidence.cells.sum((1, 2)) + evidence.unplaced + evidence.residuals
            assert total.tolist() == pytest.approx(expected, rel=1e-4, abs=1e-4)
            assert float(evidence.residuals.abs().max()) <= 0.011 * max(1.0, *map(abs, expected))


@pytest.mark.parametrize("task", ["binary", "single_label"])
def test_against_the_only_other_class_is_against_all_others(task: Task) -> None:
    model = task_model("binary") if task == "binary" else cl.Backbone(
        network([[30, 0], [0, 20]], [0.5, 0]), "two", ("features",), to_tensor, ["not ill", "ill"]
    )  # fmt: skip
    observation = model.observe(scenes())
    alone, compared = cell_evidence(observation, "ill"), cell_evidence(observation, "ill", "not ill")
    assert alone is not None
    assert compared is not None
    torch.testing.assert_close(alone.cells, compared.cells)
    torch.testing.assert_close(alone.margins, compared.margins)


@pytest.mark.parametrize("task", HEADS)
def test_contributions_add_up_and_say_what_they_count(task: Task) -> None:
    observation = task_model(task).observe(scenes())
    found = cl.explain(observation, WORDS, target=0)
    expected = [expected_margin(task, raw, 0) for raw in raw_of(observation)]
    assert found.contributions is not None
    assert found.unnamed is not None
    assert found.residuals is not None
    total = found.contributions.sum(1) + found.unnamed + found.residuals
    assert total.tolist() == pytest.approx(expected, rel=1e-4, abs=1e-4)
    units = {"single_label": "logits", "regression": "units of the output"}
    assert found.unit == units.get(task, "log-odds")
    over = {"multi_label": "", "regression": "", "binary": "ill"}
    assert found.rivals == (over.get(task, "all other classes"),) * 3
    assert found.of(1).rivals == found.rivals[:1]


def test_a_map_of_one_of_two_classes_shows_what_speaks_for_it() -> None:
    observation = task_model("binary").observe(scenes())
    ill, healthy = (cl.cam(observation, cl.Logit(name), signed=True).maps for name in ("ill", "not ill"))
    torch.testing.assert_close(ill, -healthy)
    red, green = observation.feature()[:, 0], observation.feature()[:, 1]
    torch.testing.assert_close(ill[:, 0], (30 * red - 20 * green) / red[0].numel())
    likely = cl.cam(observation, cl.Probability("ill"), signed=True)
    z = observation.output.detach()[:, 0]
    slope = z.sigmoid() * (1 - z.sigmoid())
    torch.testing.assert_close(likely.maps[:, 0], slope[:, None, None] * ill[:, 0])
    assert observation.readout(observation.logits) is not None  # in closed form, a row for each class
    assert bool((cl.cam(observation, None).scores >= 0).all())  # the predicted class is the likelier of the two


def test_two_classes_from_one_logit_are_found_by_their_names() -> None:
    rows, biases, _ = HEADS["binary"]
    model = cl.Backbone(network(rows, biases), "two", ("features",), to_tensor, ["healthy", "ill"])
    observation = model.observe(scenes())
    assert observation.answer.task == "binary"
    best = [predictions(observation, i)[0].name for i in range(3)]
    assert best == ["ill" if raw[0] > 0 else "healthy" for raw in raw_of(observation)]


def test_one_of_several_quantities_must_be_named() -> None:
    net = network([[300, -80], [1, 2]], [41, 0])
    model = cl.Backbone(net, "two sizes", ("features",), to_tensor, ["age", "weight"], task="regression")
    observation = model.observe(scenes())
    with pytest.raises(cl.InputError, match="two sizes gives 2 quantities, of which none is the predicted one"):
        cl.cam(observation)
    assert cl.cam(observation, "weight").labels[0] == ("weight",)
    assert [one.name for one in predictions(observation, 0)] == ["age", "weight"]
    with pytest.raises(cl.InputError, match="which has no probability"):
        cl.cam(observation, cl.Contrast("age", against=["weight"], of="probabilities"))
    evidence = cell_evidence(observation, "age", "weight")
    assert evidence is not None
    expected = [raw[0] - raw[1] for raw in raw_of(observation)]
    assert evidence.margins.tolist() == pytest.approx(expected, rel=1e-4)


def test_quantities_have_no_look_alikes() -> None:
    observation = task_model("regression").observe(scenes())
    with pytest.raises(cl.InputError, match="gives a quantity, which has no look-alikes"):
        cl.cam(observation, cl.Contrast())


@pytest.mark.parametrize("task", ["multi_label", "ordinal"])
def test_the_official_objective_is_of_one_class_of_many(task: Task) -> None:
    observation = task_model(task).observe(scenes())
    with pytest.raises(cl.InputError, match="objective='official' takes the softmax of many classes"):
        cl.cam(observation, cl.Contrast(nearest=2, objective="official"))


@pytest.mark.parametrize("task", CLASSES)
def test_a_contrast_of_probabilities_follows_the_task(task: Task) -> None:
    observation = task_model(task).observe(scenes())
    found = cl.cam(observation, cl.Contrast(0, against=[1], gamma=0.5, of="probabilities"))
    for image, raw in enumerate(raw_of(observation)):
        likely = expected_probabilities(task, raw)
        assert float(found.scores[image, 0]) == pytest.approx(likely[0] - 0.5 * likely[1], abs=1e-6)


@pytest.mark.parametrize("task", CLASSES)
def test_masking_measures_the_probability_of_the_task(task: Task) -> None:
    observation = task_model(task).observe(scenes()[0])
    weights = 1 + torch.rand(1, 2, 7, generator=torch.Generator().manual_seed(0))
    found = masking_contributions(observation, weights, torch.tensor([0]))
    head = observation.model.classifier_module
    assert head is not None
    feature = observation.feature()[0].double()
    means, everywhere = feature.mean((1, 2)), float(feature.mean())
    before = expected_probabilities(task, raw_of(observation)[0])[0]
    least = 0.5 if task == "multi_label" else 1 / observation.logits.shape[1]
    for q in range(2):
        masked, drops = means.clone(), []
        for channel in (weights[0, q].double() * means).argsort(descending=True).tolist():
            masked[channel] = everywhere
            after = expected_probabilities(task, (head.weight.double() @ masked + head.bias.double()).tolist())[0]
            drops.append((before - after) / max(before, least))
        assert float(found[0, q]) == pytest.approx(sum(drops) / len(drops), abs=1e-4)


def test_masking_a_quantity_is_refused() -> None:
    with pytest.raises(cl.InputError, match="which has no probability"):
        cl.explain(task_model("regression").observe(scenes()), WORDS, contribution="masking")


LINES: dict[Task, tuple[str, str]] = {
    "single_label": (r"(logit ", " over all other classes: "),
    "multi_label": (r"(logit ", ": "),
    "binary": (r"(logit ", " over "),
    "regression": ("age: ", ": "),
    "ordinal": ("(log probability ", " over all other classes: "),
    "conditional_ordinal": ("(log probability ", " over all other classes: "),
}


@pytest.mark.parametrize("task", HEADS)
def test_terminal_json_and_page_follow_the_task(task: Task, files: list[Path]) -> None:
    found = results(task, files)
    document = json.loads(json.dumps(explain_json(found, []), allow_nan=False))
    content = json.loads(json.dumps(page_content(found), allow_nan=False))
    for result, image, shown in zip(found, document["images"], content["images"], strict=True):
        assert result.target is not None
        raw = raw_of(task_model(task).observe(result.image_info.name))[0]
        said, margin = printed(result), image["margin"]
        opening, over = LINES[task]
        assert opening in said
        assert f"{result.target.short_name}{over}" in said
        assert f"{margin['value']:+.2f} = named " in said
        assert f"({margin['unit']})" in said
        assert (image["task"], shown["task"]) == (task, task)
        assert margin["value"] == pytest.approx(expected_margin(task, raw, result.target.index), rel=1e-4, abs=1e-4)
        parts = margin["named"] + margin["discovered"] + margin["unnamed"] + margin["residual"]
        assert parts == pytest.approx(margin["value"], rel=1e-4, abs=1e-4)
        assert shown["margin"] == margin
        if task == "regression":
            assert (image["answered"], image["target"]["probability"]) == (None, None)
            assert "%)" not in said
            assert f"age: {raw[0]:.4g}" in said
        else:
            likely = expected_probabilities(task, raw)
            shares = {one["index"]: one["probability"] for one in shown["predictions"]}
            assert [shares[k] for k in range(len(likely))] == pytest.approx(likely, abs=1e-6)
        assert (shown["contrast"] is None) == (task in ("multi_label", "regression"))


def test_two_classes_are_compared_by_name(files: list[Path]) -> None:
    for result in results("binary", files):
        assert result.target is not None
        other = {"ill": "not ill", "not ill": "ill"}[result.target.name]
        assert f"{result.target.name} over {other}: +" in printed(result)


def test_labels_that_are_likely_are_the_answer(files: list[Path]) -> None:
    first, _, third = results("multi_label", files, target="mass")
    assert [one.name for one in first.predictions if (one.probability or 0) >= 0.5] == ["mass", "node", "air"]
    assert (first.answered, other_answer(first)) == (True, "")
    assert third.answered is False
    assert other_answer(third).startswith("The model's labels are node (")
    assert other_answer(third).endswith(", not mass")
    few = results("multi_label", files, target="node")[1]
    assert few.answered is False
    assert "The model's labels are mass (" in printed(few)


def test_the_target_is_answered_where_another_label_is_likelier(files: list[Path]) -> None:
    (first, *_) = results("multi_label", files, target="node")
    assert first.predicted is not None
    assert first.predicted.name == "mass"
    assert first.answered is True


def test_the_margin_bar_says_its_unit() -> None:
    import matplotlib.pyplot as plt

    for task, title, unit in (
        ("regression", "age: margin ", "units of the output"),
        ("binary", "not ill over ill: margin ", "log-odds"),
        ("single_label", "mass over all other classes: margin ", "logits"),
    ):
        axes = cl.explain(task_model(task).observe(scenes()), WORDS, target=0).plot_margin()
        assert axes.get_title(loc="left").startswith(title)
        assert axes.get_xlabel() == unit
        plt.close(axes.figure)


def test_a_report_of_a_quantity(tmp_path: Path) -> None:
    observation = task_model("regression").observe(scenes())
    page = report(tmp_path / "age.html", observation, cl.explain(observation, WORDS)).read_text("utf-8")
    assert '"task": "regression"' in page.replace('":"', '": "')
    assert '"probability": null' in page.replace('":null', '": null')


class Pair(nn.Module):
    """Features and scores, in an order of one's own."""

    def __init__(self, make: Any) -> None:
        super().__init__()
        self.net, self.make = network([[30, 0], [0, 20], [5, 5]], [0, 0, 0]), make
        self.net.head.register_forward_pre_hook(self._keep)  # pyright: ignore

    def _keep(self, _module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self.vector = inputs[0]

    def forward(self, images: Tensor) -> Any:
        scores = self.net(images)
        return self.make(self.vector, scores)


def seen(make: Any, **more: Any) -> cl.Observation:
    model = cl.Backbone(Pair(make).eval(), "pair", ("net.features",), to_tensor, **more)
    return model.observe(scenes())


NAMES = ["mass", "node", "air"]


@pytest.mark.parametrize(
    ("make", "names", "words"),
    [
        (lambda v, s: (v, s), NAMES, r"found\[0\] \(3, 7\), found\[1\] \(3, 3\), .* pick one: .*found: found\[1\]\)"),
        (lambda v, s: (s, v), NAMES, r"pick one: Backbone\(..., output=lambda found: found\[0\]\)"),
        (lambda v, s: (v, s), None, r"several may be the scores; pick one: .*found: found\[1\]\)"),
        (lambda v, s: [v, [s, s * 2]], NAMES, r"found\[1\]\[0\] \(3, 3\), found\[1\]\[1\] \(3, 3\)"),
        (lambda v, s: (v, {"scores": s}), NAMES, r"found: found\[1\]\['scores'\]\)"),
    ],
)
def test_several_tensors_that_may_be_the_scores_are_listed(make: Any, names: Any, words: str) -> None:
    with pytest.raises(cl.InputError, match=words):
        seen(make, class_names=names)


@pytest.mark.parametrize("make", [lambda v, s: {"features": v, "scores": s}, lambda v, s: {"scores": s}])
def test_a_dictionary_of_unknown_words_is_listed(make: Any) -> None:
    model = cl.Backbone(Pair(make).eval(), "pair", transform=to_tensor, class_names=NAMES)
    with pytest.raises(cl.InputError, match=r"output=lambda found: found\['scores'\]: .*found\['scores'\] \(\d, 3\)"):
        model.observe(scenes())


@pytest.mark.parametrize(
    "make",
    [
        lambda v, s: (s,),
        lambda v, s: (s, v[:, :, None, None]),
        lambda v, s: {"features": v, "logits": s},
        lambda v, s: (s, s.argmax(1)),
        lambda v, s: (s, torch.tensor(0.5)),
    ],
)
def test_the_only_scores_are_taken(make: Any) -> None:
    assert seen(make, class_names=NAMES).logits.shape == (3, 3)


class Answers(nn.Module):
    """A network whose answer is made from its scores and its map."""

    def __init__(self, make: Any, classes: int = 3) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head, self.make = nn.Conv2d(3, 16, 8, 8), nn.Linear(16, classes), make

    def forward(self, images: Tensor) -> Any:
        maps = self.body(images).relu()
        return self.make(self.head(maps.mean((2, 3))), maps)


def asked(make: Any, images: int = 3, classes: int = 3, **more: Any) -> cl.Explanation:
    model = cl.Backbone(Answers(make, classes).eval(), "net", input_size=(64, 64), **more)
    given = torch.rand(images, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    return cl.cam(model.observe(given), [cl.Logit(0), cl.Probability(0)])


WHOLE = r"net gives scores of type int64; expected floating scores, as they are before an argmax or a threshold: give"
ODD: dict[str, tuple[Any, str]] = {
    "complex": (lambda z, y: z + 0j, r"net gives complex scores \(of type complex64\), .*expected floating scores"),
    "complex places": (lambda z, y: y + 0j, "net gives complex scores"),
    "an argmax": (lambda z, y: z.argmax(1), WHOLE),
    "an argmax of one column": (lambda z, y: z.argmax(1, keepdim=True), WHOLE),
    "rounded": (lambda z, y: z.long(), WHOLE),
    "a threshold": (lambda z, y: z > 0, "net gives scores of type bool; expected floating scores"),
    "classes of places": (lambda z, y: y.argmax(1), WHOLE),
    "classes of places, one channel": (lambda z, y: y.argmax(1, keepdim=True), WHOLE),
    "topk": (lambda z, y: z.topk(2), r"net gives what torch\.topk returns, scores out of the order of the classes"),
    "max": (lambda z, y: z.max(1), r"net gives what torch\.max returns, scores out of the order of the classes"),
    "zero classes": (lambda z, y: z[:, :0], r"net gives scores of shape \(1, 0\), which are of zero classes; give"),
    "numpy": (lambda z, y: z.detach().numpy(), "net put out ndarray, which holds no tensor; expected scores"),
    "none": (lambda z, y: None, "net put out NoneType, which holds no tensor; expected scores"),
}  # fmt: skip


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("task", [None, "single_label"])
def test_scores_that_are_no_real_numbers_are_told_in_one_sentence(kind: str, task: Task | None) -> None:
    make, sentence = ODD[kind]
    with pytest.raises(cl.InputError, match=sentence) as caught:
        asked(make, task=task)
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_a_head_of_zero_classes_is_refused() -> None:
    with pytest.raises(cl.InputError, match=r"of zero classes; give its head one output for each class"):
        asked(lambda z, y: z, classes=0)


@pytest.mark.parametrize(
    ("make", "joined"),
    [
        (lambda z, y: list(z), "torch.stack"),
        (lambda z, y: tuple(z), "torch.stack"),
        (lambda z, y: [row[None] for row in z], "torch.cat"),
        (lambda z, y: [{"s": row} for row in z], "lambda found: torch.stack([one['s'] for one in found])"),
    ],
)
@pytest.mark.parametrize("images", [2, 3])
def test_an_answer_for_each_image_is_joined_as_the_sentence_says(make: Any, joined: str, images: int) -> None:
    with pytest.raises(cl.InputError) as caught:
        asked(make, images)
    assert str(caught.value).endswith(
        f"one answer for each image; join them to one tensor: Backbone(..., output={joined})"
    )
    read = eval(joined, {"torch": torch})  # noqa: S307  what the sentence advises
    plain = asked(lambda z, y: z, images)
    assert torch.allclose(asked(make, images, output=read).scores, plain.scores)


def test_two_lists_of_numbers_are_two_heads_however_many_images_there_are() -> None:
    with pytest.raises(cl.InputError, match=r"pick one: .*found\[1\]\)$"):
        asked(lambda z, y: [z[:, 0], z[:, 1]], 2)


def test_what_output_returns_must_hold_scores() -> None:
    sentence = r"output= of net returned list; expected a tensor, .* as torch\.stack does"
    with pytest.raises(cl.InputError, match=sentence):
        asked(lambda z, y: z, 2, output=list)
    with pytest.raises(cl.InputError, match="output= of net returned NoneType; expected a tensor"):
        asked(lambda z, y: z, output=lambda found: None)


def test_one_number_without_an_axis_of_its_own_is_one_logit() -> None:
    plain = task_model("binary").observe(scenes())
    net = network(*HEADS["binary"][:2])

    class Squeezed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, images: Tensor) -> Tensor:
            return self.net(images).squeeze(1)

    model = cl.Backbone(Squeezed().eval(), "squeezed", ("net.features",), to_tensor, ["ill"], task="binary")
    observation = model.observe(scenes())
    torch.testing.assert_close(observation.logits, plain.logits)
    assert model.classifier_name == "net.head"
    assert observation.readout(observation.logits) is not None


def test_scores_that_lost_the_axis_of_images_are_refused() -> None:
    class Squeezed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = network(*HEADS["single_label"][:2])

        def forward(self, images: Tensor) -> Tensor:
            return self.net(images).squeeze()

    model = cl.Backbone(Squeezed().eval(), "squeezed", ("net.features",), to_tensor, NAMES)
    assert model.observe(scenes()).logits.shape == (3, 3)
    with pytest.raises(cl.InputError, match=r"squeezed gives numbers of shape \(3, 1\) for 1 image; .*squeeze\(\)"):
        model.observe(scenes()[0])


@pytest.mark.parametrize(
    ("end", "step", "undone"),
    [
        (nn.Sigmoid(), "sigmoid", torch.logit),
        (nn.Softmax(1), "softmax", torch.log),
        (nn.Sequential(nn.Softmax(1), nn.Flatten(), nn.Identity()), "softmax", torch.log),
    ],
)
def test_probabilities_are_not_taken_for_logits(end: nn.Module, step: str, undone: Any) -> None:
    names = NAMES
    net = nn.Sequential(network([[3, 0], [0, 2], [-1, 1]], [-0.5, 0.2, 0]), end).eval()
    model = cl.Backbone(net, "ended", ("0.features",), to_tensor, names)
    with pytest.raises(cl.InputError, match=rf"its last step is a {step}\), .* output=torch.{undone.__name__}\)"):
        model.observe(scenes())
    task: Task = "multi_label" if step == "sigmoid" else "single_label"
    read = cl.Backbone(net, "ended", ("0.features",), to_tensor, names, output=undone, task=task).observe(scenes())
    for image, raw in enumerate(net[0](read.images).tolist()):
        found = {one.index: one.probability for one in predictions(read, image)}
        assert [found[k] for k in range(3)] == pytest.approx(expected_probabilities(task, raw), abs=1e-4)
    level = cl.Backbone(net, "ended", ("0.features",), to_tensor, names, task="regression").observe(scenes())
    assert predictions(level, 0)[0].probability is None


def broken(value: float, images: Sequence[int] = (0, 1, 2)) -> cl.Backbone:
    """Return a model whose score of one class is `value` in some photos: those with red where that is asked."""

    class Broken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = network(*HEADS["single_label"][:2])

        def forward(self, pictures: Tensor) -> Tensor:
            scores = self.net(pictures)
            wrong = scores[:, 0] > 0.6 if len(images) == 2 else torch.ones(len(scores), dtype=torch.bool)
            return scores.masked_fill(wrong[:, None] & torch.tensor([False, True, False]), value)

    from planted_words import Colours

    module = Broken().eval()
    return cl.Backbone(module, "broken", ("net.features",), to_tensor, NAMES, classifier="net.head", text=Colours())


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_scores_that_are_not_finite_are_told_in_one_sentence(value: float) -> None:
    observation = broken(value).observe(scenes())
    asked: list[Any] = [cl.Contrast(nearest=1), None, cl.Logit("mass"), cl.Probability("mass")]
    for target in asked:
        with pytest.raises(cl.InputError, match=r"class scores of broken are not finite for photo\[0\]: that of node"):
            cl.cam(observation, target)
    with pytest.raises(cl.InputError, match="are not finite"):
        predictions(observation, 0)
    with pytest.raises(cl.InputError, match="are not finite"):
        cl.explain(observation, WORDS)
    assert cl.cam(observation, cl.Concept("red")).maps.shape[1] == 1  # an embedding needs no class scores


def test_a_photo_whose_scores_are_not_finite_fails_alone(files: list[Path]) -> None:
    model, options = broken(float("inf"), (0, 1)), ExplainOptions(concepts=cl_words())
    first, second, third = explain_photos(model, files, options)
    assert isinstance(first, Failure)
    assert isinstance(second, Failure)
    assert "scene 1.png: that of node is inf" in second.reason
    assert isinstance(third, PhotoResult)
    assert json.dumps(explain_json([third], [first, second]), allow_nan=False)


def test_a_contrast_of_two_classes_from_one_logit(files: list[Path]) -> None:
    options = ExplainOptions(contrast=cl.Contrast(nearest=1, gamma=1.0), with_concepts=False)
    found = [one for one in explain_photos(task_model("binary"), files, options) if isinstance(one, PhotoResult)]
    for image in contrast_json(found, [])["images"]:
        assert image["margin"] == pytest.approx(2 * image["target"]["logit"], rel=1e-5)
        assert len(image["references"]) == 1


def test_photos_are_read_for_a_model_with_one_name(files: list[Path]) -> None:
    model = task_model("binary")
    assert model.class_name(0) == "not ill"
    assert cl.cam(model.observe(Image.open(files[0])), "ill").labels[0] == ("ill",)


@pytest.mark.parametrize("task", ["multi_label", "regression"])
def test_class_knowledge_is_of_classes_that_exclude_one_another(task: Task) -> None:
    model = task_model(task)
    assert model.class_concepts is None
    with pytest.raises(cl.InputError, match="nothing is known of the classes"):
        cl.cam(model.observe(scenes()), cl.Concept("red", by="classes"))


def test_a_quantity_has_no_stand_in_text_encoder() -> None:
    model = cl.Backbone(network([[300, -80]], [41]), "age", ("features",), to_tensor, ["age"], task="regression")
    with pytest.raises(cl.InputError, match="age has no text encoder"):
        cl.explain(model.observe(scenes()), WORDS)
