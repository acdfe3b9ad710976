"""The methods that a benchmark of class maps compares: rules, contrasts, and controls that know nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from conceptlens.cams.class_activation import cam, source
from conceptlens.cams.contrast import Contrast
from conceptlens.cams.contrast_choice import TRIED, choose_contrast
from conceptlens.cams.rules import RULES
from conceptlens.cams.targets import Logit
from conceptlens.concepts.vocabulary import ConceptName
from conceptlens.io.errors import InputError, near
from conceptlens.io.fingerprint import weights_fingerprint
from conceptlens.localization.baseline_maps import centre, edges, random_maps
from conceptlens.record import Explanation

if TYPE_CHECKING:
    from conceptlens.cams.bound_target import Target
    from conceptlens.model.backbone import Backbone
    from conceptlens.model.observation import Observation

    # From one photo and the index of a class to a map, with one question.
    Explain = Callable[[Observation, int], Explanation]

TITLES = {
    "grad_cam": "Grad-CAM",
    "grad_cam++": "Grad-CAM++",
    "xgrad_cam": "XGrad-CAM",
    "hires_cam": "HiResCAM",
    "element_wise": "element-wise",
    "layer_cam": "Layer-CAM",
    "score_cam": "Score-CAM",
    "score_cam_fast": "Score-CAM, fast",
    "ablation_cam": "Ablation-CAM",
    "eigen_cam": "Eigen-CAM",
}
CONTROLS = ("random", "centre", "edges")
# The images that this rule runs are chosen for all questions together, so that each must be asked alone.
ASKED_ALONE = ("score_cam_fast",)


@dataclass(frozen=True, eq=False)
class AskedRule:
    """A rule of `cl.RULES` and what it is asked about a class.

    Args:
        rule: The rule.
        layer: The layer that maps are taken from; `None` for the model's last one.
        ask: From the index of a class to the target.
    """

    rule: str
    layer: str | None
    ask: Callable[[int], Target]


@dataclass(frozen=True, eq=False)
class MapMethod:
    """A method of a benchmark.

    Args:
        name: Its name in rows and on the command line.
        title: Its name in tables.
        about: What it does, in one line.
        made_by: A rule and its question, or a function from an observation of one photo and a class index to a map.
        settings: All that it was given, for the protocol.
        control: Whether it knows nothing of the question, so that a method must beat it.
        against: The method that it is compared with; empty for the baseline of the whole table.
    """

    name: str
    title: str
    about: str
    made_by: AskedRule | Explain
    settings: Mapping[str, Any] = field(default_factory=dict)
    control: bool = False
    against: str = ""

    def explain(self, seen: Observation, target: int) -> Explanation:
        """Return the map of one class.

        Args:
            seen: One photo, observed.
            target: The index of the class.
        """
        return explained_by([self], seen, target)[self.name]


def explained_by(methods: Sequence[MapMethod], seen: Observation, target: int) -> dict[str, Explanation]:
    """Return the map of every method; questions of one rule are asked together, so that it runs the model once.

    Args:
        methods: The methods.
        seen: One photo, observed.
        target: The index of the class that is explained.

    Returns:
        One explanation with one question by the name of each method.
    """
    together: dict[tuple[str, ...], list[tuple[str, AskedRule]]] = {}
    found: dict[str, Explanation] = {}
    for one in methods:
        if isinstance(one.made_by, AskedRule):
            alone = one.name if one.made_by.rule in ASKED_ALONE else ""
            key = (one.made_by.rule, one.made_by.layer or "", alone)
            together.setdefault(key, []).append((one.name, one.made_by))
        else:
            found[one.name] = one.made_by(seen, target)
    for several in together.values():
        asked = several[0][1]
        made = cam(seen, [one.ask(target) for _, one in several], asked.rule, asked.layer)
        found |= {name: made.select([place]) for place, (name, _) in enumerate(several)}
    return found


def map_methods(
    names: Iterable[str], layer: str | None, seed: int = 0, randomised: Backbone | None = None
) -> tuple[MapMethod, ...]:
    """Return methods by name: rules of `cl.RULES` and controls.

    Args:
        names: Names of rules, and of controls: "random", "centre", "edges", "random_weights".
        layer: The layer that maps are taken from; by default the model's last one.
        seed: Draws random maps.
        randomised: The same architecture with random weights, for "random_weights".

    Raises:
        InputError: A name is unknown, none is given, or "random_weights" lacks its model.
    """
    chosen = tuple(dict.fromkeys(name.strip() for name in names if name.strip()))
    controls = _controls(layer, seed, randomised)
    known = (*(name for name in RULES if name != "random"), *controls)
    unknown = [name for name in chosen if name not in known]
    if not chosen or unknown:
        given = f"no method '{unknown[0]}'" if unknown else "no method is named"
        raise InputError(f"{given}; {near(unknown[0] if unknown else '', known, 'methods')}")
    return tuple(controls[name] if name in controls else rule_method(name, layer) for name in chosen)


def rule_method(name: str, layer: str | None) -> MapMethod:
    """Return a rule of `cl.RULES` as a method.

    Args:
        name: The rule.
        layer: The layer that maps are taken from; by default the model's last one.
    """
    return MapMethod(name, TITLES.get(name, name), RULES[name].paper, AskedRule(name, layer, Logit), {"rule": name})


def contrast_method(rule: str, layer: str | None, **settings: Any) -> MapMethod:
    """Return Finer-CAM on a rule as a method, compared with the rule alone.

    Args:
        rule: The rule.
        layer: The layer that maps are taken from; by default the model's last one.
        **settings: What `cl.Contrast` takes, such as `gamma=0.6` and `by="weight"`.
    """
    contrast = Contrast(**settings)
    kept = {name: getattr(contrast, name) for name in ("gamma", "by", "nearest", "references", "of", "objective")}
    words = f"gamma {contrast.gamma:g} by {contrast.by}"
    words += ", probabilities" if contrast.of == "probabilities" else ""
    words += f", {contrast.nearest}" if contrast.nearest != Contrast.nearest else ""
    title = f"{TITLES.get(rule, rule)} + Finer, {words}"
    name = f"{rule} finer {words}".replace(",", "").replace(" ", "_")
    about = f"{contrast.nearest} references, chosen by {contrast.by}, of {contrast.of}"
    return MapMethod(
        name, title, f"Finer-CAM, CVPR 2025: {about}", AskedRule(rule, layer, partial(Contrast, **settings)),
        {"rule": rule, **kept}, against=rule,
    )  # fmt: skip


def chosen_method(rule: str, layer: str | None) -> MapMethod:
    """Return a rule with the contrast that `choose_contrast` chooses for each photo, compared with the rule alone.

    Args:
        rule: The rule.
        layer: The layer that maps are taken from; by default the model's last one.
    """
    tried = ", ".join(f"{gamma:g} by {by}" for by, gamma in TRIED)
    return MapMethod(
        f"{rule}_finer_chosen", f"{TITLES.get(rule, rule)} + Finer, chosen by photo",
        "Finer-CAM where a contrast does better on the photo itself, else the rule alone",
        partial(_by_choice, rule=rule, layer=layer), {"rule": rule, "chosen_among": tried}, against=rule,
    )  # fmt: skip


def _by_choice(seen: Observation, target: int, rule: str, layer: str | None) -> Explanation:
    return cam(seen, choose_contrast(seen, target, rule, layer).contrast, rule, layer)


def _at_random(seen: Observation, target: int, seed: int) -> Explanation:
    return random_maps(seen, [ConceptName(f"class {target}")], seed)


def _in_the_middle(seen: Observation, target: int) -> Explanation:
    return centre(seen, [ConceptName(f"class {target}")])


def _by_edges(seen: Observation, target: int) -> Explanation:
    return edges(seen, [ConceptName(f"class {target}")])


def _with_random_weights(seen: Observation, target: int, model: Backbone, layer: str | None) -> Explanation:
    """Return Grad-CAM of a network that learnt nothing, signed, so that it ranks cells where it is nowhere positive."""
    found = cam(model.observe(seen.images, layer), Logit(target), "grad_cam", layer, signed=True)
    return Explanation(
        maps=found.maps,
        weights=None,
        scores=found.scores,
        labels=found.labels,
        source=source(seen, found.source.layer, "random_weights", {}),
        activation=found.activation,
    )


def _controls(layer: str | None, seed: int, randomised: Backbone | None) -> dict[str, MapMethod]:
    """Return the controls by name."""
    found = [
        MapMethod("random", "random", "random numbers on the layer's grid, new for each photo and class",
                  partial(_at_random, seed=seed), {"seed": seed}, True),
        MapMethod("centre", "centre", "a Gaussian in the middle of every photo", _in_the_middle, {}, True),
        MapMethod("edges", "edges", "Sobel's edges of the photo, on the layer's grid", _by_edges, {}, True),
    ]  # fmt: skip
    if randomised is not None:
        explain = partial(_with_random_weights, model=randomised, layer=layer)
        about = "Grad-CAM of the same network with random weights"
        settings = {"rule": "grad_cam", "weights": weights_fingerprint(randomised.module)}
        found.append(MapMethod("random_weights", "random weights", about, explain, settings, True))
    return {one.name: one for one in found}


def compared_with(methods: Sequence[MapMethod], baseline: str | None) -> dict[str, str]:
    """Return the method that each method but the controls is compared with.

    Args:
        methods: The methods.
        baseline: The one that is named; by default each method's own, and else the first that is no control.

    Raises:
        InputError: There is no such method.
    """
    names = [one.name for one in methods]
    if baseline is not None and baseline not in names:
        raise InputError(f"the baseline {baseline} is none of the methods {', '.join(names)}; add it to --methods")
    first = next((one.name for one in methods if not one.control), None)
    found: dict[str, str] = {}
    for one in methods:
        against = baseline or (one.against if one.against in names else first)
        if not one.control and against is not None and against != one.name:
            found[one.name] = against
    return found
