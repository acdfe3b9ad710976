"""`conceptlens edit`: change a bottleneck's concepts or weights, and see what that does to every class first."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from conceptlens.cli import options as shared
from conceptlens.cli.options import answering, load, option_group, output_option
from conceptlens.cli.printing import print_excluded, print_failures, print_json
from conceptlens.io.errors import InputError
from conceptlens.io.output_path import check_folder, check_new_folder

if TYPE_CHECKING:
    from conceptlens.bottleneck.concept_edit import Edit
    from conceptlens.bottleneck.evaluate.activation_table import BottleneckTable
    from conceptlens.bottleneck.intervention import Effect
    from conceptlens.bottleneck.module import Bottleneck

SCHEMA = "conceptlens.edit/1"
MAX_ACCURACY = 0.985  # above it, photos can show what an edit breaks, and hardly what it corrects

edit_option = option_group("Edits")


@answering
def edit(
    folder: Annotated[
        Path,
        typer.Argument(metavar="BOTTLENECK", help="A folder made by `conceptlens fit loc-cbm`.", show_default=False),
    ],
    data: shared.ClassData,
    split: shared.Split = "train",
    set_to: Annotated[
        list[str] | None,
        edit_option("--set", metavar="CONCEPT=NUMBER", help="'CONCEPT=0.2' fixes its activation; repeat for several."),
    ] = None,
    remove: Annotated[
        list[str] | None,
        edit_option(metavar="CONCEPT", help="Keep CONCEPT at its training mean, where it adds nothing."),
    ] = None,
    clamp: Annotated[
        list[str] | None,
        edit_option(
            metavar="CONCEPT=LOW..HIGH",
            help="'CONCEPT=0..1' keeps its activation between; a side may be left out: '0..'.",
        ),
    ] = None,
    restore: Annotated[
        list[str] | None, edit_option(metavar="CONCEPT", help="Take back all earlier edits of CONCEPT.")
    ] = None,
    weight: Annotated[
        list[str] | None,
        edit_option(
            metavar="CLASS,CONCEPT=NUMBER",
            help="'CLASS,CONCEPT=0.5' sets a weight of the last layer; repeat for several.",
        ),
    ] = None,
    target: Annotated[
        str | None,
        edit_option(
            "--for", metavar="CLASS", help="The class that --set, --remove and --clamp apply to; by default all."
        ),
    ] = None,
    note: Annotated[str, edit_option(help="The reason, which is saved with the edit.")] = "",
    model: shared.Model = shared.DEFAULT_MODEL,
    weights: shared.Weights = None,
    pretrained: shared.Pretrained = True,
    out_dir: Annotated[Path | None, shared.out_dir("the edited bottleneck")] = None,
    overwrite: Annotated[bool, output_option("--overwrite", help="Let --out-dir replace a bottleneck.")] = False,
    as_json: shared.Json = False,
    device: shared.Device = "cpu",
    cache: shared.Cache = None,
) -> None:
    """Change concepts or weights of a bottleneck and show the effect on every class; saved only with --out-dir."""
    from conceptlens.bottleneck.evaluate.activation_table import read_table
    from conceptlens.bottleneck.intervention import effect, effect_json
    from conceptlens.bottleneck.module import Bottleneck
    from conceptlens.data.labelled_sets import open_classes

    _check_out(folder, out_dir, overwrite)
    before = Bottleneck.from_pretrained(folder)
    after, edits = _edited(before, set_to or (), remove or (), clamp or (), restore or (), weight or (), target, note)
    opened = open_classes(data, split)
    print_excluded(opened.excluded)
    backbone = load(model, weights, pretrained, device)
    table = read_table(before.to(device), backbone, opened, cache=cache)
    print_failures(failure.reason for failure in table.failures)
    found = effect(before, after.to(device), table.activations.to(device), table.classes.to(device))
    if as_json:
        record = {"bottleneck": str(folder), "data": opened.name, "out": None if out_dir is None else str(out_dir)}
        print_json({"schema": SCHEMA, **record, **effect_json(before, edits, found)})
    else:
        _print_effect(before, after, edits, table, found, opened.name)
    if out_dir is not None:
        after.cpu().save_pretrained(out_dir)
        typer.echo(f"bottleneck: {out_dir}", err=True)
    elif not as_json:
        typer.echo("nothing is saved; add --out-dir DIR to save the edited bottleneck", err=True)


def _edited(
    before: Bottleneck,
    set_to: Any,
    remove: Any,
    clamp: Any,
    restore: Any,
    weight: Any,
    target: str | None,
    note: str,
) -> tuple[Bottleneck, list[Edit]]:
    """Return an edited copy, and the edits of its options."""
    from conceptlens.bottleneck import intervention

    after = before
    for name in restore:
        after = intervention.without_edits(after, name)
    edits = [intervention.set_to(before, *_assigned("--set", one), target, note) for one in set_to]
    edits += [intervention.remove(before, name, target, note) for name in remove]
    edits += [intervention.clamp(before, *_span(one), target, note) for one in clamp]
    twice = [one.concept for one in edits]
    if len(set(twice)) < len(twice):
        name = before.labels[next(one for one in twice if twice.count(one) > 1)]
        raise InputError(f"'{name}' is changed more than once; give one of --set, --remove and --clamp for a concept")
    if target is not None and not edits:
        raise InputError(f"--for {target} is given without --set, --remove or --clamp; say what is changed for it")
    changed: dict[tuple[str | int, str | int], float] = dict(_weight(before, one) for one in weight)
    if not edits and not changed and not restore:
        raise InputError("nothing is to be changed; give --set, --remove, --clamp, --weight or --restore")
    after = intervention.with_edits(after, edits)
    return (intervention.with_weights(after, changed, note) if changed else after), edits


def _assigned(option: str, text: str) -> tuple[str, float]:
    """Return the concept and the number of `CONCEPT=NUMBER`."""
    name, sign, value = text.rpartition("=")
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not sign or not name.strip() or not math.isfinite(number):
        raise InputError(f"{option} {text} is given; expected CONCEPT=NUMBER, such as {option} 'yellow wing=0.2'")
    return name, number


def _span(text: str) -> tuple[str, float, float]:
    """Return the concept and the bounds of `CONCEPT=LOW..HIGH`, of which one may be left out."""
    name, sign, value = text.rpartition("=")
    low, dots, high = value.partition("..")
    try:
        bounds = float(low) if low.strip() else -math.inf, float(high) if high.strip() else math.inf
    except ValueError:
        bounds = (math.nan, math.nan)
    if not sign or not dots or not name.strip() or not bounds[0] <= bounds[1] or bounds == (-math.inf, math.inf):
        raise InputError(f"--clamp {text} is given; expected CONCEPT=LOW..HIGH, such as --clamp 'yellow wing=0..1'")
    return name, *bounds


def _weight(made: Bottleneck, text: str) -> tuple[tuple[str | int, str | int], float]:
    """Return class, concept and number of `CLASS,CONCEPT=NUMBER`; either name may hold commas."""
    names, value = _assigned("--weight", text)
    if "," not in names:
        raise InputError(
            f"--weight {text} is given; expected CLASS,CONCEPT=NUMBER, such as --weight 'crow,black wing=0'"
        )
    return shared.name_pair(names, made.class_index, made.concept_index), value


def _check_out(folder: Path, out: Path | None, overwrite: bool) -> None:
    """Refuse to write over a bottleneck, or anything else, without `--overwrite`."""
    if out is None:
        if overwrite:
            raise InputError("--overwrite is given without --out-dir, which names the folder that may be replaced")
        return
    check_folder(out)
    if overwrite:
        return
    if out.exists() and out.resolve() == folder.resolve():
        raise InputError(f"--out-dir {out} is the bottleneck that is edited; give another folder, or add --overwrite")
    check_new_folder(out, hint=", or add --overwrite")


def _print_effect(
    before: Bottleneck, after: Bottleneck, edits: list[Edit], table: BottleneckTable, found: Effect, data: str
) -> None:
    """Print what changes, in the activations' own units, and what that does."""
    for one in edits:
        span = table.activations[:, one.concept].float().quantile(table.activations.new_tensor([0.05, 0.95]))
        where = "all classes" if one.target is None else before.classes[one.target]
        typer.echo(
            f"{before.labels[one.concept]} for {where}: {_kept(one)}; in these photos mostly {span[0]:.3g} to "
            f"{span[1]:.3g}, in training {float(before.mean[one.concept]):.3g} on average"
        )
    earlier = len(before.training_record.get("weights_edited", []))
    for change in after.training_record.get("weights_edited", [])[earlier:]:
        name, concept = before.classes[change["class"]], before.labels[change["concept"]]
        typer.echo(f"weight of {concept} for {name}: {change['from']:.3g} becomes {change['to']:.3g}")
    gone = [one for one in before.edits if one not in after.edits]
    for one in gone:
        typer.echo(f"taken back: {before.labels[one.concept]}, {_kept(one)}")
    typer.echo(f"\n{data}: {found}")
    if found.before > MAX_ACCURACY:
        typer.echo(
            "nearly all of these photos were right, as training photos are: others show what is corrected (--split)"
        )
    if found.moves:
        moves = ", ".join(f"{a} -> {b} ({count})" for a, b, count in found.moves[:5])
        typer.echo(f"predictions that change most: {moves}")


def _kept(one: Edit) -> str:
    if one.low == one.high:
        return f"set to {one.low:.3g}"
    if one.low == -math.inf:
        return f"kept at {one.high:.3g} or below"
    return (
        f"kept at {one.low:.3g} or above" if one.high == math.inf else f"kept between {one.low:.3g} and {one.high:.3g}"
    )
