"""Detectors of every family: what is read, what is detected, and targets about one detection."""

from __future__ import annotations

import copy
import sys
from typing import Any

import pytest
import torch
import torchvision
import transformers
from PIL import Image
from torch import Tensor, nn

import conceptlens as cl
from conceptlens.cams.detection_targets import AskedBoxes, boxes_at
from conceptlens.model.box_operators import compiled_operators, plain_suppression
from conceptlens.model.observation import Observation
from conceptlens.model.transformers_places import read_queries
from tiny_detectors import DETECTORS

NAMES = ("sky", "cat", "dog", "bus")
SIZE = (96, 160)
_seen: dict[str, Observation[cl.Backbone]] = {}


def images(count: int = 2) -> Tensor:
    return torch.rand(count, 3, *SIZE, generator=torch.Generator().manual_seed(7))


def seen(name: str) -> Observation[cl.Backbone]:
    """One observation of each detector, of two images, in double precision."""
    if name not in _seen:
        size: Any = {"input_size": SIZE} if name.startswith("hf") else {}
        model = cl.Backbone(DETECTORS[name]().double(), name, class_names=NAMES, **size)
        _seen[name] = model.observe(images().double())
    return _seen[name]


# Dear to build, and read as others are.
DEAR = ("torchvision mask rcnn", "torchvision retinanet", "torchvision fcos", "torchvision ssdlite")
MOST = [pytest.param(name, marks=pytest.mark.slow if name in DEAR else ()) for name in DETECTORS]


@pytest.mark.parametrize("name", MOST)
def test_a_map_explains_the_logit_of_one_detection(name: str) -> None:
    observation = seen(name)
    found = [observation.detections.detected(i) for i in range(2)]
    explained = cl.cam(observation, [cl.Detection(0), cl.Detection(1), cl.Detection(0, label="dog")], signed=True)
    own = observation.detections.logits
    for image, detected in enumerate(found):
        for question, (one, index) in enumerate(((detected[0], None), (detected[1], None), (detected[0], 2))):
            wanted = own[image, one.candidate, one.class_index if index is None else index]
            assert float(explained.scores[image, question]) == pytest.approx(float(wanted.detach()))
    assert bool((explained.maps.abs().amax((2, 3)) > 0).all())
    assert explained.target_kinds == ("detection",) * 3


@pytest.mark.parametrize("name", MOST)
def test_the_gradient_is_that_of_the_logit(name: str) -> None:
    observation = seen(name)
    one = observation.detections.detected(1)[0]
    raw = observation.layer_output()
    score = observation.detections.logits[1, one.candidate, one.class_index]
    (gradient,) = torch.autograd.grad(score, raw.raw, retain_graph=True)
    cells = raw.grid.read(gradient)
    assert torch.allclose(
        cl.cam(observation, cl.Detection(0), signed=True).maps[1, 0], (cells * observation.feature()).sum(1)[1]
    ), "weights belong to cells where a question is about one place"
    mean = (cells.mean((2, 3), keepdim=True) * observation.feature()).sum(1)[1]
    assert torch.allclose(cl.cam(observation, cl.Detection(0), "grad_cam", signed=True).maps[1, 0], mean)


@pytest.mark.parametrize("name", MOST)
def test_boxes_lie_in_the_input_and_the_best_comes_first(name: str) -> None:
    observation = seen(name)
    for image in range(2):
        found = observation.detections.detected(image)
        assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)
        for one in found:
            left, top, right, bottom = one.box
            assert 0 <= left < right <= SIZE[1]
            assert 0 <= top < bottom <= SIZE[0]
            assert one.class_index != observation.detections.background


@pytest.mark.parametrize("name", MOST)
def test_a_batch_equals_its_images(name: str) -> None:
    observation = seen(name)
    alone = observation.model.observe(observation.images[1:])
    target = cl.Detection(0)
    assert torch.allclose(cl.cam(observation, target).maps[1:], cl.cam(alone, target).maps, atol=1e-9)
    ours, theirs = observation.detections.detected(1), alone.detections.detected(0)
    assert [one.class_index for one in ours] == [one.class_index for one in theirs]
    assert torch.allclose(torch.tensor([one.box for one in ours]), torch.tensor([one.box for one in theirs]), atol=1e-4)


@pytest.mark.parametrize("rule", cl.RULES)
@pytest.mark.parametrize("name", ["torchvision ssd", "hf d-fine", "hf detr"])
def test_every_rule_explains_a_detection(name: str, rule: str) -> None:
    model = seen(name).model
    observation = model.observe(seen(name).images[:1])
    for target in (cl.Detection(0), cl.Box(0, "width")):
        explained = cl.cam(observation, target, rule, signed=True)
        assert bool(explained.maps.isfinite().all())
        assert float(explained.maps.abs().max()) > 0


@pytest.mark.parametrize("name", [one for one in MOST if str(one.values[0]).startswith("torchvision")])
def test_what_torchvision_answers_is_what_is_detected(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    detector: Any = DETECTORS[name]()
    detector.topk_candidates = 10**6  # torchvision drops what is below this place before it suppresses, here nothing
    if not compiled_operators():  # torchvision then has neither of the two
        from conceptlens.model.box_operators import plain_pooling

        def pooled(cells: Tensor, rois: Tensor, output_size: Any, spatial_scale: float, sampling_ratio: int) -> Tensor:
            own = [
                plain_pooling(cells[int(r[0])], r[None, 1:], output_size, spatial_scale, sampling_ratio) for r in rois
            ]
            return torch.cat(own) if own else cells.new_zeros(0, cells.shape[1], *output_size)

        monkeypatch.setattr(torchvision.ops.boxes, "nms", plain_suppression)
        monkeypatch.setattr(sys.modules["torchvision.ops.poolers"], "roi_align", pooled)
    if hasattr(detector, "detections_per_img"):
        detector.detections_per_img = 500
    shown = images()
    with torch.no_grad():
        answered = detector(list(shown))
    found = cl.Backbone(detector).observe(shown).detections
    for image, theirs in enumerate(answered):
        ours = found.detected(image)
        sides = theirs["boxes"][:, 2:] - theirs["boxes"][:, :2]
        theirs = {key: value[sides.amin(1) >= 0.01] for key, value in theirs.items()}  # an empty box is no detection
        ours = ours[: len(theirs["scores"])]
        assert len(ours) == len(theirs["scores"]) > 2
        assert torch.allclose(torch.tensor([one.score for one in ours]), theirs["scores"], atol=1e-5)
        own, label = torch.tensor([one.box for one in ours]), torch.tensor([one.class_index for one in ours])
        apart = (own[:, None] - theirs["boxes"]).abs().amax(2)
        same = (apart < 1e-2) & (label[:, None] == theirs["labels"])
        assert float(same.any(1).float().mean()) >= 0.97, "scores that are equal but for rounding change places"


@pytest.mark.parametrize(
    ("name", "processor"), [("hf detr", "DetrImageProcessor"), ("hf yolos", "YolosImageProcessor")]
)
def test_what_transformers_answers_is_what_is_detected(name: str, processor: str) -> None:
    observation = seen(name)
    read = getattr(transformers, processor)().post_process_object_detection
    answered = read(observation.output, 0.05, torch.tensor([SIZE] * 2))
    for image, theirs in enumerate(answered):
        ours = observation.detections.detected(image)
        order = theirs["scores"].argsort(descending=True, stable=True)
        assert torch.allclose(torch.tensor([one.score for one in ours]).double(), theirs["scores"][order].detach())
        assert [one.class_index for one in ours] == theirs["labels"][order].tolist()
        boxes = theirs["boxes"][order].detach().clamp_min(0).minimum(torch.tensor([160.0, 96, 160, 96]))
        assert torch.allclose(torch.tensor([one.box for one in ours]).double(), boxes, atol=1e-4)


def test_a_box_means_the_detection_that_overlaps_it_most() -> None:
    observation = seen("torchvision ssd")
    inside = (1, 1, SIZE[1] - 1, SIZE[0] - 1)
    one = next(
        one
        for one in observation.detections.detected(0)[3:]
        if one.box[0] > inside[0] and one.box[1] > inside[1] and one.box[2] < inside[2] and one.box[3] < inside[3]
    )
    alone = observation.model.observe(observation.images[:1])
    left, top, right, bottom = one.box
    grown = (left, top, right + 0.1 * (right - left), bottom)
    for label in (None, one.class_index, NAMES[one.class_index]):
        asked = cl.Detection(box=grown if label is not None else one.box, label=label).ask(alone)
        if label is not None:
            assert int(asked.owners[0]) == one.class_index
        assert torch.allclose(asked.boxes[0], torch.tensor(one.box).double(), atol=2.0)


@pytest.mark.parametrize(
    ("target", "words"),
    [
        (lambda: cl.Detection(999), ["no detection 999 in tensor[0]", "found 0: ", "and "]),
        (lambda: cl.Detection(-1), ["no detection -1"]),
        (lambda: cl.Detection(0, min_score=0.9999), ["nothing was detected with a score of 0.9999 or more"]),
        (lambda: cl.Detection(box=(0, 0, 1, 1)), ["overlaps (0, 0, 1, 1) by half or more", "found 0: "]),
        (lambda: cl.Detection(box=(0, 0, 1, 1), label="bus"), ["no detection of bus"]),
        (lambda: cl.Detection(0, label="bird"), ["bird"]),
        (lambda: cl.Detection(), ["neither of index and box"]),
        (lambda: cl.Detection(0, box=(0, 0, 1, 1)), ["both of index and box"]),
        (lambda: cl.Detection("cat"), ["expected its index"]),
        (lambda: cl.Detection(True), ["expected its index"]),
        (lambda: cl.Detection(box=(0, 0, 1)), ["left, top, right and bottom"]),
        (lambda: cl.Detection(box="0,0,1,1"), ["left, top, right and bottom"]),
        (lambda: cl.Detection(box=(5, 0, 1, 1)), ["left before right"]),
        (lambda: cl.Box(0, "middle"), ["no coordinate of a box", "width"]),
        (lambda: cl.Contrast(cl.Detection(0), of="probabilities"), ["one of logits"]),
    ],
)
def test_a_detection_that_is_not_there_is_refused_with_those_that_are(target: Any, words: list[str]) -> None:
    with pytest.raises(cl.InputError) as refused:
        cl.cam(seen("hf detr"), target())
    assert all(word in str(refused.value) for word in words), str(refused.value)


@pytest.mark.parametrize("target", [cl.Detection(0), cl.MaxScore(1), cl.Box(0)])
def test_a_classifier_has_no_detections(target: Any) -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    observation = cl.Backbone(net, layers=("0",)).observe(torch.rand(1, 3, 32, 32))
    with pytest.raises(cl.InputError, match="gives no detections"):
        cl.cam(observation, target)


def test_the_class_maximum_is_the_highest_logit_of_any_candidate() -> None:
    observation = seen("hf detr")
    expected = observation.detections.logits.amax(1)[:, 2]
    assert torch.allclose(cl.cam(observation, cl.MaxScore("dog")).scores[:, 0], expected.detach())
    background = seen("torchvision ssd")
    assert int(background.logits.argmax(1).min()) > 0, "no object is no class"


def test_a_contrast_compares_classes_at_the_box() -> None:
    observation = seen("hf d-fine")
    at = [(one := observation.detections.detected(i)[0]).candidate for i in range(2)]
    own = torch.stack([observation.detections.logits[i, at[i]] for i in range(2)]).detach()
    asked = cl.Detection(0, label="cat")
    explained = cl.cam(observation, cl.Contrast(asked, against=["dog", "bus"], gamma=0.5), signed=True)
    assert torch.allclose(explained.scores[:, 0], own[:, 1] - 0.5 * own[:, 2:].mean(1))
    parts = cl.cam(observation, [cl.Detection(0, label=k) for k in ("cat", "dog", "bus")], signed=True).maps
    assert torch.allclose(explained.maps[:, 0], parts[:, 0] - 0.25 * (parts[:, 1] + parts[:, 2]))
    assert one.class_index != 1 or "cat at" in explained.labels[1][0]
    assert explained.labels[0][0].endswith("/ dog, bus")
    nearest = cl.cam(observation, cl.Contrast(asked, nearest=1, gamma=1.0)).scores[:, 0]
    others = (own[:, 1:2] - own[:, [0, 2, 3]]).abs().argmin(1)
    assert torch.allclose(nearest, own[:, 1] - own[:, [0, 2, 3]].gather(1, others[:, None])[:, 0])
    with pytest.raises(cl.InputError, match="cannot stand against itself"):
        cl.cam(observation, cl.Contrast(asked, against="cat"))


@pytest.mark.parametrize("name", ["hf conditional detr", "torchvision faster rcnn"])
def test_the_coordinates_of_a_box_are_what_is_shown(name: str) -> None:
    observation = seen(name)
    left, top, right, bottom = (cl.Box(0, side) for side in ("left", "top", "right", "bottom"))
    found = cl.cam(observation, [left, top, right, bottom, cl.Box(0, "width"), cl.Box(cl.Detection(0), "height")])
    for image in range(2):
        one = observation.detections.detected(image)[0]
        whole = observation.detections.class_boxes()[image, one.candidate, one.class_index].detach()
        assert torch.allclose(found.scores[image, :4], whole)
        assert float(found.scores[image, 4]) == pytest.approx(float(whole[2] - whole[0]))
        assert float(found.scores[image, 5]) == pytest.approx(float(whole[3] - whole[1]))


def test_boxes_of_a_photo_are_in_its_pixels() -> None:
    module = DETECTORS["hf conditional detr"]()
    model = cl.Backbone(module, "detr", transform=cl.Preprocess(SIZE, crop_mode="squash"), class_names=NAMES)
    pixels = (images(1)[0].permute(1, 2, 0).numpy() * 255).astype("uint8")
    observation = model.observe(Image.fromarray(pixels).resize((480, 192)))
    one = observation.detections.detected(0)[0]
    edge = torch.tensor([160.0, 96, 160, 96])
    on_photo = tuple(value * factor for value, factor in zip(one.box, (3, 2, 3, 2), strict=True))
    asked = cl.Detection(box=on_photo).ask(observation)
    assert torch.allclose(asked.boxes[0].clamp_min(0).minimum(edge), torch.tensor(one.box), atol=1e-4)
    assert f"at ({on_photo[0]:.0f}, {on_photo[1]:.0f}, {on_photo[2]:.0f}, {on_photo[3]:.0f})" in asked.labels[0]
    width = cl.cam(observation, cl.Box(0, "width")).scores[0, 0]
    whole = observation.detections.boxes[0, one.candidate].detach()
    assert float(width) == pytest.approx(3 * float(whole[2] - whole[0]), rel=1e-5)


def test_a_crop_shifts_the_boxes_of_a_photo() -> None:
    model = cl.Backbone(
        DETECTORS["hf conditional detr"](), "detr", transform=cl.Preprocess((96, 96), resize=96), class_names=NAMES
    )
    observation = model.observe(Image.new("RGB", (192, 96), (90, 30, 10)))
    one = observation.detections.detected(0)[0]
    shifted = (one.box[0] + 48, one.box[1], one.box[2] + 48, one.box[3])
    found = cl.Detection(box=shifted).ask(observation).boxes[0]
    assert torch.allclose(found.clamp_min(0).clamp_max(96), torch.tensor(one.box), atol=1e-4)


def test_a_detection_is_followed_by_its_box_where_candidates_change() -> None:
    boxes = torch.tensor(
        [[[0.0, 0, 10, 10], [20, 20, 30, 30]], [[21, 20, 31, 30], [0, 0, 9, 10]], [[50, 50, 60, 60]] * 2]
    )
    logits = torch.arange(12.0).reshape(3, 2, 2)
    moving = cl.Detections(boxes, logits, fixed=False, overlap=0.5, min_score=0.0).in_pixels(100, 100)

    class Answer:
        detections = moving

    zero = torch.zeros(2, dtype=torch.long)
    asked = AskedBoxes(zero, ("a", "b"), torch.tensor([1, 0]), zero, boxes[0, [1, 0]])
    own = asked.read(Answer()).unflatten(1, (2, 2))  # pyright: ignore
    assert own[0].tolist() == [logits[0, 1].tolist(), logits[0, 0].tolist()]
    assert own[1].tolist() == [logits[1, 0].tolist(), logits[1, 1].tolist()]
    assert own[2].tolist() == [logits[2].amin(0).tolist()] * 2, "no candidate meets the box"
    assert boxes_at(Answer(), asked).unflatten(1, (2, 4))[1].tolist() == boxes[1, [0, 1]].tolist()  # pyright: ignore


def read_centres(found: Tensor) -> cl.Detections:
    """Read a head of one's own: cells that say how sure they are and how large the object is."""
    rows, columns = found.shape[2:]
    y, x = torch.meshgrid(torch.arange(rows) + 0.5, torch.arange(columns) + 0.5, indexing="ij")
    centre = torch.stack([x, y], -1).reshape(1, -1, 2).to(found) * 8
    flat = found.flatten(2).transpose(1, 2)
    extent = flat[..., 3:5].exp() * 8
    return cl.Detections(torch.cat([centre - extent, centre + extent], 2), flat[..., :3], overlap=0.5)


def test_any_module_is_a_detector_by_output() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 8, 8), nn.ReLU(), nn.Conv2d(8, 5, 3, padding=1))
    model = cl.Backbone(net, "mine", output=read_centres, class_names=("cat", "dog", "bus"), layers=("1",))
    observation = model.observe(images())
    explained = cl.cam(observation, [cl.Detection(0), cl.Detection(1)], "hires_cam")
    assert observation.detections.boxes.shape == (2, 240, 4)
    one = observation.detections.detected(0)[0]
    cell = explained.maps[0, 0].flatten().argmax()
    row, column = int(cell) // 20, int(cell) % 20
    assert abs(row - one.candidate // 20) <= 1
    assert abs(column - one.candidate % 20) <= 1, "only cells around the detection's own can have evidence"


@pytest.mark.parametrize(
    ("boxes", "logits", "scores"),
    [
        (torch.zeros(2, 5, 4), torch.zeros(2, 5), None),
        (torch.zeros(2, 4, 4), torch.zeros(2, 5, 3), None),
        (torch.zeros(2, 5, 2, 4), torch.zeros(2, 5, 3), None),
        (torch.zeros(2, 5, 4), torch.zeros(2, 5, 3), torch.zeros(2, 5)),
        (torch.zeros(2, 0, 4), torch.zeros(2, 0, 3), None),
        ([[1]], torch.zeros(2, 5, 3), None),
    ],
)
def test_detections_that_do_not_fit_are_refused(boxes: Any, logits: Tensor, scores: Tensor | None) -> None:
    with pytest.raises(cl.InputError, match="Detections"):
        cl.Detections(boxes, logits, scores)


def test_detections_of_another_number_of_images_are_refused() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 8, 8), nn.ReLU())

    def read(found: Tensor) -> cl.Detections:
        logits = found.flatten(2).transpose(1, 2).repeat(2, 1, 1)[:3]
        return cl.Detections(torch.zeros(3, logits.shape[1], 4), logits)

    model = cl.Backbone(net, output=read, layers=("0",))
    with pytest.raises(cl.InputError, match="3 images for 2"):
        model.observe(images())


def test_the_users_detector_is_left_as_it_was() -> None:
    detector: Any = DETECTORS["torchvision faster rcnn"]()
    detector.train()
    before = copy.deepcopy({name: value.clone() for name, value in detector.state_dict().items()})
    names = sorted(vars(detector.roi_heads.box_roi_pool))
    scales = detector.roi_heads.box_roi_pool.scales
    cl.cam(cl.Backbone(detector, class_names=NAMES).observe(images(1)), cl.Detection(0))
    assert all(part.training for part in detector.modules())
    assert all(parameter.requires_grad for parameter in detector.parameters())
    assert all(torch.equal(value, before[name]) for name, value in detector.state_dict().items())
    assert sorted(vars(detector.roi_heads.box_roi_pool)) == names
    assert detector.roi_heads.box_roi_pool.scales is scales


def test_a_detector_without_classes_of_boxes_is_refused_in_a_sentence() -> None:
    with pytest.raises(cl.InputError, match="gives BaseModelOutput without logits and pred_boxes"):
        read_queries(transformers.modeling_outputs.BaseModelOutput(), 3, fixed=False)
