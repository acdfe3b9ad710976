"""Several threads ask at once: answers are those of one thread, and modules are left as they were found."""

from __future__ import annotations

import asyncio
import os
import threading
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tiny_models import photo, save_transformers
from torch import Tensor, nn

import conceptlens as cl
from conceptlens.io.atomic import replacing
from conceptlens.io.cache import cached
from conceptlens.io.quiet_warnings import quiet_warnings
from conceptlens.model.encoders import ClassifierText
from conceptlens.model.forward import forward, trunk_kept
from conceptlens.model.forward_mode import channel_derivatives
from conceptlens.model.model_input import ModelInput
from conceptlens.model.module_lock import MODULE_LOCK, cached_property, seeded

NAMES = ("cat", "dog", "bird", "leaf", "stone")
Question = Callable[[cl.Backbone, Image.Image], dict[str, Any]]


def trunk() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 12, 3, 2, 1), nn.BatchNorm2d(12), nn.ReLU(), nn.Dropout(0.5), nn.Conv2d(12, 24, 3, 2, 1), nn.ReLU()
    )


def network(below: nn.Sequential | None = None, classes: int = 5) -> nn.Sequential:
    """A network in training mode, half of whose weights do not learn."""
    torch.manual_seed(classes)
    below = trunk() if below is None else below
    below[0].requires_grad_(False)
    found = nn.Sequential(below, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, classes)).train()
    below[1].eval()
    return found


def backbone(module: nn.Module, classes: int = 5, **more: Any) -> cl.Backbone:
    return cl.Backbone(module, transform=cl.Preprocess((64, 64)), class_names=NAMES[:classes], **more)


def state_of(module: nn.Module) -> list[object]:
    parts = list(module.modules())
    hooks = [(len(part._forward_hooks), len(part._forward_pre_hooks), "forward" in vars(part)) for part in parts]
    modes = [part.training for part in parts]
    return [modes, [p.requires_grad for p in module.parameters()], hooks]


def numbers(record: cl.Explanation) -> dict[str, Tensor | None]:
    return {"maps": record.maps, "scores": record.scores, "weights": record.weights}


def shifts(seen: cl.Observation) -> dict[str, Any]:
    """Forward-mode products, which have state of the whole process."""
    found = channel_derivatives(seen, "0.4", ["0.5"], lambda cells: cells["0.5"].square().mean((2, 3)))
    return {"derivatives": found}


QUESTIONS: dict[str, Question] = {
    "observe": lambda model, image: {"logits": model.observe(image).logits.detach()},
    "grad_cam": lambda model, image: numbers(cl.cam(model.observe(image), cl.Logit("dog"))),
    "layer_cam": lambda model, image: numbers(cl.cam(model.observe(image), cl.Logit("cat"), rule="layer_cam")),
    "score_cam": lambda model, image: numbers(cl.cam(model.observe(image), cl.Logit("cat"), rule="score_cam")),
    "contrast": lambda model, image: numbers(cl.cam(model.observe(image), cl.Contrast("cat", "bird"))),
    "shifts": lambda model, image: shifts(model.observe(image, layers=["0.4", "0.5"])),
    "explain": lambda model, image: numbers(cl.explain(model.observe(image), concepts=["fur", "beak", "leaf"])),
}


def at_once(count: int, tasks: Sequence[Callable[[], Any]]) -> list[Any]:
    """Run tasks in threads that all begin at the same moment."""
    gate = threading.Barrier(count)
    with ThreadPoolExecutor(count, initializer=gate.wait) as pool:
        return [found.result(timeout=300) for found in [pool.submit(task) for task in tasks]]


def assert_same(found: dict[str, Any], wanted: dict[str, Any], tolerance: float = 1e-5) -> None:
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        if value is not None:
            torch.testing.assert_close(found[name], value, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("threads", [2, 3, 8])
def test_mixed_questions_on_one_module_are_answered_as_by_one_thread(threads: int) -> None:
    module = network()
    found_so = state_of(module)
    images = [photo(64 + 7 * index, 80, seed=index) for index in range(4)]
    calls = [(question, image) for question in QUESTIONS for image in images]
    alone = backbone(network())
    wanted = [QUESTIONS[question](alone, image) for question, image in calls]
    model = backbone(module)  # whose anatomy is not known yet
    random = torch.get_rng_state()
    found = at_once(threads, [lambda q=question, i=image: QUESTIONS[q](model, i) for question, image in calls])
    for one, expected in zip(found, wanted, strict=True):
        assert_same(one, expected)
    assert state_of(module) == found_so
    assert module.training
    assert torch.equal(torch.get_rng_state(), random)


def test_two_backbones_that_share_a_trunk() -> None:
    below = trunk()
    modules = [network(below, classes) for classes in (5, 3)]
    models = [backbone(module, classes) for module, classes in zip(modules, (5, 3), strict=True)]
    found_so = [state_of(module) for module in modules]
    image = photo()
    calls = [(question, model) for question in QUESTIONS for model in models] * 2
    wanted = [QUESTIONS[question](model, image) for question, model in calls]
    found = at_once(4, [lambda q=question, m=model: QUESTIONS[q](m, image) for question, model in calls])
    for one, expected in zip(found, wanted, strict=True):
        assert_same(one, expected)
    assert [state_of(module) for module in modules] == found_so


def test_one_observation_is_asked_by_many() -> None:
    seen = backbone(network()).observe([photo(), photo(90, 70)])
    targets = [cl.Logit(name) for name in NAMES] * 3
    alone = backbone(network()).observe([photo(), photo(90, 70)])
    wanted = [numbers(cl.cam(alone, target, rule="layer_cam")) for target in targets]
    found = at_once(4, [lambda t=target: numbers(cl.cam(seen, t, rule="layer_cam")) for target in targets])
    for one, expected in zip(found, wanted, strict=True):
        assert_same(one, expected)


def test_tasks_of_an_event_loop() -> None:
    module = network()
    model, image = backbone(module), photo()
    wanted = QUESTIONS["contrast"](backbone(network()), image)

    async def ask() -> list[dict[str, Any]]:
        return await asyncio.gather(*(asyncio.to_thread(QUESTIONS["contrast"], model, image) for _ in range(6)))

    for found in asyncio.run(ask()):
        assert_same(found, wanted)
    assert module.training


class Slow(nn.Module):
    """Waits in the middle of its forward until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.entered, self.go = threading.Event(), threading.Event()

    def forward(self, values: Tensor) -> Tensor:
        if not torch.is_grad_enabled():  # the user's own call does not wait
            return values
        self.entered.set()
        assert self.go.wait(60)
        return values


def test_a_call_of_ones_own_in_another_thread_is_not_watched() -> None:
    slow = Slow()
    module = nn.Sequential(nn.Conv2d(3, 4, 3), slow, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)).eval()
    seen: list[Tensor] = []
    images, others = torch.rand(1, 3, 8, 8), torch.rand(2, 3, 8, 8)
    running = threading.Thread(target=lambda: forward(module, ModelInput(images), {"0": seen.append, "3": seen.append}))
    running.start()
    assert slow.entered.wait(60)
    with torch.no_grad():
        module(others)
    slow.go.set()
    running.join(60)
    assert [value.shape[0] for value in seen] == [1, 1]


def test_a_call_of_ones_own_runs_the_whole_module_while_its_trunk_is_kept() -> None:
    module = network().eval()
    images, others = torch.rand(1, 3, 16, 16), torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        wanted = module(others)
        kept = module(images)
    found: list[Tensor] = []

    def call() -> None:
        with torch.no_grad():
            found.append(module(others))

    with trunk_kept(module, ModelInput(images), "0.4"), torch.no_grad():
        thread = threading.Thread(target=call)
        thread.start()
        thread.join(60)
        assert torch.equal(module(others[:1]), kept)  # this thread gets back what the trunk gave
    assert torch.equal(found[0], wanted)


class Asking(nn.Module):
    """A module that asks another backbone a question in its own forward."""

    def __init__(self, inner: cl.Backbone) -> None:
        super().__init__()
        self.asked = [inner]  # no submodule
        self.part = nn.Sequential(nn.Conv2d(3, 24, 3, 4), nn.ReLU())
        self.head = nn.Linear(24, 5)

    def forward(self, images: Tensor) -> Tensor:
        inner = self.asked[0].observe(images.detach()).logits.detach()
        return self.head(self.part(images).mean((2, 3))) + inner


def test_modules_within_modules_do_not_wait_for_each_other() -> None:
    inner = backbone(network())
    outer = backbone(Asking(inner))
    image = torch.rand(1, 3, 64, 64)
    tasks = [lambda m=model: m.observe(image).logits.detach() for model in (inner, outer, inner, outer)]
    found = at_once(4, tasks)
    assert torch.equal(found[0], found[2])
    assert torch.equal(found[1], found[3])


def test_a_failing_forward_lets_the_others_go_on() -> None:
    module = network()
    model = backbone(module)
    wrong = torch.rand(1, 5, 64, 64)

    def fail() -> str:
        with pytest.raises((cl.InputError, RuntimeError)) as caught:
            model.observe(wrong)
        return str(caught.value)

    good = lambda: model.observe(torch.ones(1, 3, 64, 64)).logits.detach()  # noqa: E731
    found = at_once(4, [fail, good] * 4)
    assert all(torch.equal(one, found[1]) for one in found[3::2])
    assert module.training
    assert MODULE_LOCK.acquire(blocking=False)
    MODULE_LOCK.release()


def test_a_property_is_computed_once_under_the_lock() -> None:
    class Counting:
        def __init__(self) -> None:
            self.times = 0

        @cached_property
        def value(self) -> int:
            """Return something."""
            self.times += 1
            threading.Event().wait(0.05)
            return self.times

    one = Counting()
    assert at_once(8, [lambda: one.value] * 8) == [1] * 8
    assert vars(Counting)["value"].__doc__ == "Return something."


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_child_process_finds_the_lock_free_and_the_module_as_it_was() -> None:
    module = network()
    model = backbone(module)
    ends = threading.Event()

    def ask() -> None:
        while not ends.is_set():
            model.observe(photo())

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        for _ in range(5):
            child = os.fork()
            if child == 0:  # pragma: no cover
                free = MODULE_LOCK.acquire(timeout=20)
                os._exit(0 if free and module.training and not module.get_submodule("0.0")._forward_hooks else 1)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    finally:
        ends.set()
        asking.join(60)


def test_random_numbers_of_a_seed_are_the_same_beside_observations() -> None:
    model = backbone(network())
    before = torch.get_rng_state()

    def draw() -> Tensor:
        with seeded(7):
            return torch.cat([torch.rand(1) for _ in range(200)])

    found = at_once(4, [draw, lambda: model.observe(photo()).logits.detach()] * 6)
    assert all(torch.equal(one, found[0]) for one in found[::2])
    assert torch.equal(torch.get_rng_state(), before)


def test_filters_of_warnings_are_given_back_whatever_the_order() -> None:
    before = list(warnings.filters)
    first, second = quiet_warnings("one"), quiet_warnings("two", UserWarning)
    first.__enter__()
    second.__enter__()
    warnings.warn("two, but silent", UserWarning, stacklevel=1)
    first.__exit__(None, None, None)
    second.__exit__(None, None, None)
    assert list(warnings.filters) == before


def test_texts_are_encoded_by_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    language = cl.load_model(f"hf:{save_transformers('clip', tmp_path / 'clip')}").language
    texts = ["cat", "a dog", "some birds", "leaf", "a very long text", "stone"]
    monkeypatch.setenv("CONCEPTLENS_CACHE", str(tmp_path / "alone"))
    wanted = [language.encode_text([text]) for text in texts]
    monkeypatch.setenv("CONCEPTLENS_CACHE", str(tmp_path / "many"))
    found = at_once(6, [lambda t=text: language.encode_text([t]) for text in texts * 4])
    for one, expected in zip(found, wanted * 4, strict=True):
        torch.testing.assert_close(one, expected)


def test_a_text_that_is_not_known_is_so_for_all_who_ask_at_once() -> None:
    language = ClassifierText(torch.eye(3), NAMES[:3], "three classes")
    assert at_once(8, [lambda: language.knows(("zqxkv wfgh", "cat"))] * 8) == [(False, True)] * 8


def test_text_vectors_on_disk_with_many_writers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONCEPTLENS_CACHE", str(tmp_path))

    def encode(texts: Sequence[str]) -> Tensor:
        return torch.tensor([[float(len(text)), 1.0] for text in texts])

    texts = ["a" * length for length in range(1, 20)]
    found = at_once(8, [lambda n=n: cached("model", texts[n % 5 :], encode) for n in range(40)])
    for number, vectors in enumerate(found):
        assert torch.equal(vectors, encode(texts[number % 5 :]))
    assert torch.equal(cached("model", texts, lambda _: torch.zeros(0)), encode(texts))


@pytest.mark.skipif(os.name == "nt", reason="no file modes")
def test_files_have_the_mode_of_new_files_with_many_writers(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    mode = (tmp_path / "plain").stat().st_mode

    def write(number: int) -> int:
        with replacing(tmp_path / f"{number}.txt") as temporary:
            temporary.unlink()
            os.close(os.open(temporary, os.O_CREAT, 0o600))  # as some libraries write
        return (tmp_path / f"{number}.txt").stat().st_mode

    assert at_once(8, [lambda n=n: write(n) for n in range(64)]) == [mode] * 64
    (tmp_path / "after").touch()
    assert (tmp_path / "after").stat().st_mode == mode
