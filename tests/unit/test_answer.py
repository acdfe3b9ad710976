"""What a model's numbers mean: probabilities of every task against plain formulas, and what is asked for."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import conceptlens as cl
from conceptlens.model.answer import ANSWERS, Task, find_answer
from conceptlens.model.found_task import ends_in_linear, found_task


def chance(z: float) -> float:
    return 1 / (1 + math.exp(-z))


class Net(nn.Module):
    """A stem, and a linear head of a few numbers."""

    def __init__(self, numbers: int) -> None:
        super().__init__()
        self.stem, self.fc = nn.Conv2d(3, 8, 8, stride=8), nn.Linear(8, numbers)
        torch.manual_seed(0)
        nn.init.normal_(self.fc.weight), nn.init.normal_(self.fc.bias)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.stem(images).relu().mean((2, 3)))


def model(numbers: int, task: Task | None = None, names: Any = None) -> cl.Backbone:
    return cl.Backbone(Net(numbers).eval(), "net", class_names=names, task=task, input_size=(32, 32))


def photos() -> Tensor:
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def probabilities(task: Task, numbers: list[list[float]]) -> list[list[float]]:
    answer = ANSWERS[task]
    assert answer.read is not None
    assert answer.probability is not None
    return answer.probability(answer.read(torch.tensor(numbers, dtype=torch.float64))).tolist()


def test_one_class_of_many_has_a_softmax() -> None:
    total = math.exp(1) + math.exp(2) + math.exp(-1)
    expected = [math.exp(z) / total for z in (1, 2, -1)]
    assert probabilities("single_label", [[1, 2, -1]]) == [pytest.approx(expected)]


def test_every_label_has_its_own_sigmoid() -> None:
    assert probabilities("multi_label", [[3, -1, 0.5]]) == [pytest.approx([chance(3), chance(-1), chance(0.5)])]


def test_one_logit_is_two_classes() -> None:
    assert probabilities("binary", [[-3], [2]]) == [
        pytest.approx([chance(3), chance(-3)]),
        pytest.approx([chance(-2), chance(2)]),
    ]


def test_cumulative_logits_are_probabilities_of_ordered_classes() -> None:
    above = [1.0, chance(2), chance(0.5), chance(-1), 0.0]
    expected = [above[k] - above[k + 1] for k in range(4)]
    assert probabilities("ordinal", [[2, 0.5, -1]]) == [pytest.approx(expected)]


def test_conditional_logits_are_probabilities_of_ordered_classes() -> None:
    steps = [chance(2), chance(0.5), chance(1)]
    above = [1.0, steps[0], steps[0] * steps[1], steps[0] * steps[1] * steps[2], 0.0]
    expected = [above[k] - above[k + 1] for k in range(4)]
    assert probabilities("conditional_ordinal", [[2, 0.5, 1]]) == [pytest.approx(expected)]


def test_cumulative_logits_that_rise_are_refused() -> None:
    with pytest.raises(cl.InputError, match=r"negative probability; .*task='conditional_ordinal'"):
        probabilities("ordinal", [[2, 0.5, 1]])


def test_ordered_classes_stay_finite_where_the_model_is_sure() -> None:
    for task in ("ordinal", "conditional_ordinal"):
        read = ANSWERS[task].read
        assert read is not None
        assert bool(read(torch.tensor([[200.0, 120.0, -150.0]])).isfinite().all())


@pytest.mark.parametrize(
    ("task", "numbers", "names", "expected"),
    [
        (None, 5, None, "single_label"),
        (None, 5, 5, "single_label"),
        (None, 1, 2, "binary"),
        ("binary", 1, None, "binary"),
        ("multi_label", 1, 1, "multi_label"),
        ("multi_label", 3, 3, "multi_label"),
        ("regression", 1, None, "regression"),
        ("regression", 2, 2, "regression"),
        ("ordinal", 3, 4, "ordinal"),
        ("conditional_ordinal", 1, 2, "conditional_ordinal"),
    ],
)
def test_the_answer_follows_from_task_and_numbers(
    task: Task | None, numbers: int, names: int | None, expected: str
) -> None:
    assert find_answer(task, numbers, names, "net").task == expected


@pytest.mark.parametrize(
    ("task", "numbers", "names", "words"),
    [
        (None, 1, None, "net gives one number for each image, .* task='binary'.* or 'regression'"),
        (None, 1, 1, "may be the logit of one of two classes or a quantity"),
        ("single_label", 1, 1, "a softmax over one number is always 1; say task='binary'"),
        ("binary", 2, 2, "net gives 2 numbers .* task='single_label'"),
        (None, 4, 5, "gives 4 class scores .* has 5 class names; .*task='ordinal'"),
        (None, 4, 3, r"gives 4 class scores .* has 3 class names; give one name for each score.*class_names=\.\.\.\)$"),
        ("ordinal", 4, 4, "has 4 class names; give one name for each of the 5 classes"),
        ("regression", 1, 2, "has 2 class names"),
        ("binary", 1, 3, "give one name for each of the 2 classes"),
    ],
)
def test_what_cannot_be_told_is_asked_for(task: Task | None, numbers: int, names: int | None, words: str) -> None:
    with pytest.raises(cl.InputError, match=words):
        find_answer(task, numbers, names, "net")


def test_a_word_that_is_no_task_is_refused() -> None:
    with pytest.raises(cl.InputError, match="no task 'multilabel'; near names: multi_label"):
        model(3, "multilabel")  # pyright: ignore[reportArgumentType]


def test_one_name_of_one_logit_stands_for_two_classes() -> None:
    ill = model(1, "binary", ["ill"])
    assert ill.class_names == ("not ill", "ill")
    observation = ill.observe(photos())
    raw = observation.output.detach()
    torch.testing.assert_close(observation.logits.detach(), torch.cat([-raw, raw], 1))
    assert observation.answer is ANSWERS["binary"]


@pytest.mark.parametrize("task", ["single_label", "multi_label", "regression", "binary"])
def test_class_scores_linear_in_the_mean_cell_are_read_from_the_classifier(task: Task) -> None:
    observation = model(1 if task == "binary" else 4, task).observe(photos(), "stem")
    assert observation.readout(observation.logits) is None  # a ReLU lies between
    rows = observation.class_rows
    assert rows is not None
    torch.testing.assert_close(observation.embedding @ rows[0].T + rows[1], observation.logits)


def test_ordered_classes_have_no_row_of_the_classifier() -> None:
    assert model(3, "conditional_ordinal").observe(photos()).class_rows is None


def test_class_names_by_index_are_put_in_order() -> None:
    assert model(3, names={2: "fox", 0: "cat", 1: "dog"}).class_names == ("cat", "dog", "fox")


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ({1: "cat", 2: "dog"}, "no name for class 0 and one for class 2"),
        ({0: "cat", 5: "dog"}, "no name for class 1 and one for class 5"),
        ({"cat": 0, "dog": 1}, "a dict whose keys are no indices"),
        ({0: "cat", 1: None}, "class_names hold None"),
    ],
)
def test_class_names_by_index_leave_no_index_out(names: dict[Any, Any], words: str) -> None:
    with pytest.raises(cl.InputError, match=words):
        model(len(names), names=names)


def config(**settings: Any) -> SimpleNamespace:
    return SimpleNamespace(model_type="vit", num_labels=3, problem_type=None, **settings)


class ViTForImageClassification(nn.Module):
    """A module with the name and the configuration of one of transformers."""

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self.config = SimpleNamespace(**(vars(config()) | settings))


class ViTModel(ViTForImageClassification):
    """A trunk without a head, as transformers names it."""


class Lightning(nn.Module):
    """A module that holds its loss."""

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.net, self.loss = Net(3), loss


class Pair(nn.Module):
    """What open_clip's models have."""

    def encode_image(self, images: Tensor) -> Tensor:
        return images

    def encode_text(self, texts: Tensor) -> Tensor:
        return texts

    def forward(self, images: Tensor) -> Tensor:
        return images


class SmoothedCrossEntropy(nn.CrossEntropyLoss):
    """A loss of one's own that is one of torch's."""


class FocalLoss(nn.BCEWithLogitsLoss):
    """The same of labels."""


class Headless(nn.Module):
    """What timm leaves with num_classes=0."""

    num_classes = 0


def without_head(*end: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 8, stride=8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), *end)


@pytest.mark.parametrize(
    ("module", "names", "expected"),
    [
        (ViTForImageClassification(), None, "single_label"),
        (ViTForImageClassification(problem_type="multi_label_classification"), 3, "multi_label"),
        (ViTForImageClassification(problem_type="single_label_classification"), 3, "single_label"),
        (ViTForImageClassification(problem_type="regression"), 3, "regression"),
        (ViTForImageClassification(num_labels=1), None, "regression"),
        (ViTForImageClassification(num_labels=1), 1, "regression"),
        (ViTForImageClassification(num_labels=1), 2, None),  # two names for one number say more
        (ViTModel(), None, "embedding"),
        (Lightning(nn.CrossEntropyLoss()), None, "single_label"),
        (Lightning(nn.BCEWithLogitsLoss()), None, "multi_label"),
        (Lightning(nn.MSELoss()), None, "regression"),
        (Lightning(SmoothedCrossEntropy()), None, "single_label"),
        (Lightning(FocalLoss()), 4, "multi_label"),
        (Lightning(nn.BCELoss()), None, "multi_label"),
        (Lightning(FocalLoss()), 1, "binary"),
        (Lightning(nn.BCELoss()), 1, "binary"),
        (ViTForImageClassification(problem_type="multi_label_classification"), 1, "multi_label"),
        (Lightning(nn.ModuleList([FocalLoss(), nn.BCELoss()])), None, "multi_label"),
        (Lightning(nn.ModuleList([FocalLoss(), SmoothedCrossEntropy()])), None, None),
        (Lightning(nn.ModuleList([nn.MSELoss(), nn.CrossEntropyLoss()])), None, None),
        (Pair(), None, "embedding"),
        (Headless(), None, "embedding"),
        (without_head(nn.Identity()), None, "embedding"),
        (without_head(nn.Dropout(), nn.Identity()), None, "embedding"),
        (without_head(nn.Identity()), 8, None),  # eight names say that these are class scores
        (without_head(nn.Linear(8, 3), nn.Identity()), None, None),
        (without_head(nn.Linear(8, 3)), None, None),
        (Net(3), None, None),
    ],
)
def test_a_module_says_what_it_was_trained_for(module: nn.Module, names: int | None, expected: Task | None) -> None:
    assert found_task(module, names) == expected


@pytest.mark.parametrize("loss", [nn.BCEWithLogitsLoss(), FocalLoss()])
@pytest.mark.parametrize("names", [None, ["ill"], ["well", "ill"]])
def test_one_logit_of_a_module_with_its_loss_is_one_of_two_classes(loss: nn.Module, names: list[str] | None) -> None:
    class Trained(Net):
        def __init__(self) -> None:
            super().__init__(1)
            self.loss = loss

    made = cl.Backbone(Trained().eval(), class_names=names, input_size=(32, 32))
    for one in (made, made.to("cpu")):
        observation = one.observe(photos())
        assert observation.answer.task == "binary"
        assert one.class_names == (("not ill", "ill") if names == ["ill"] else names and tuple(names))
        logits = observation.output[:, 0].tolist()
        assert cl.cam(observation, cl.Probability(1)).scores[:, 0].tolist() == pytest.approx(
            [chance(z) for z in logits]
        )


def test_a_network_without_head_has_no_classes() -> None:
    from torchvision.models import resnet18

    module = resnet18().eval()
    module.fc = nn.Identity()  # pyright: ignore[reportAttributeAccessIssue]
    observation = cl.Backbone(module, "trunk", input_size=(64, 64)).observe(torch.randn(1, 3, 64, 64))
    assert observation.embedding.shape == (1, 512)
    with pytest.raises(cl.InputError, match="trunk gives no class scores"):
        observation.logits  # noqa: B018
    with pytest.raises(cl.InputError, match="trunk gives no class scores"):
        observation.answer  # noqa: B018


def without_classifier(names: list[str] | None = None, **more: Any) -> cl.Backbone:
    net = nn.Sequential(nn.Conv2d(3, 8, 8, stride=8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return cl.Backbone(net.eval(), "pooled", class_names=names, input_size=(32, 32), **more)


def test_numbers_that_no_classifier_makes_are_asked_for() -> None:
    with pytest.raises(cl.InputError, match=r"pooled gives 8 numbers .* may be class scores or an embedding"):
        without_classifier().observe(photos())
    assert without_classifier(task="embedding").observe(photos()).embedding.shape == (3, 8)
    assert without_classifier(task="single_label").observe(photos()).logits.shape == (3, 8)
    assert without_classifier(output=lambda found: found).observe(photos()).logits.shape == (3, 8)
    named = without_classifier([f"bird {i}" for i in range(8)]).observe(photos())
    assert named.answer.task == "single_label"
    counted = without_classifier()
    counted.module.num_classes = 8  # pyright: ignore[reportArgumentType]
    assert counted.observe(photos()).answer.task == "single_label"


def test_a_quantised_classifier_is_one() -> None:
    class QuantizedLinear(nn.Module):
        """No `nn.Linear`, like those of torch's quantised modules and of bitsandbytes."""

    assert ends_in_linear(nn.Sequential(nn.Conv2d(3, 8, 8), QuantizedLinear()))
    assert ends_in_linear(nn.Sequential(Net(3), nn.Dropout(), nn.Identity()))
    assert not ends_in_linear(without_classifier().module)


def test_class_names_of_an_embedding_are_refused() -> None:
    with pytest.raises(cl.InputError, match=r"net gives an embedding and .* class_names= names nothing"):
        model(3, "embedding", ["a", "b", "c"])
    with pytest.raises(cl.InputError, match="class_names= names nothing"):
        cl.Backbone(Pair(), class_names=["a", "b"])


@pytest.mark.parametrize(
    ("task", "numbers", "names", "words"),
    [
        ("multi_label", 3, ["mass", "fluid", "air"], "output: any number of labels at once: mass, fluid, air"),
        ("regression", 1, ["age"], "output: a quantity: age"),
        ("regression", 1, None, "output: a quantity"),
        ("binary", 1, ["ill"], "output: one of two classes: not ill, ill"),
        ("ordinal", 2, ["low", "mid", "high"], "output: 3 classes (low, mid, high)"),
    ],
)
def test_a_backbone_shows_its_task(task: Task, numbers: int, names: list[str] | None, words: str) -> None:
    assert f"  {words}" in repr(model(numbers, task, names)).splitlines()
