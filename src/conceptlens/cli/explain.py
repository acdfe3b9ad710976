"""`conceptlens explain`: which concepts are in photos, where they are, and how much each one counts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from conceptlens.cli import options as shared
from conceptlens.cli.engine import LOCAL, EngineName, RayAddress, Workers, chosen_engine
from conceptlens.cli.explain_outputs import (
    OutDir,
    RuleName,
    class_of,
    explain_and_write,
    map_option,
    wants_photos,
)
from conceptlens.cli.explain_store import check_store, explain_to_store
from conceptlens.cli.options import answering, load, model_option, question_option
from conceptlens.io.errors import InputError

OutFile = Annotated[
    Path | None,
    shared.out_file(
        "FILE.html for a page, FILE.json for the numbers, FILE.csv, .parquet or .jsonl for a table with a row for each "
        "concept of each photo; a name without a suffix for a folder with a picture of the maps of each photo."
    ),
]
StoreFolder = Annotated[
    Path | None,
    shared.out_dir("a store of the numbers of any number of photos, in a run that can be resumed", "--store"),
]


@answering
def explain(
    photos: shared.Photos,
    concepts: shared.Concepts = None,
    concepts_file: shared.ConceptsFile = None,
    top: Annotated[
        int | None,
        question_option(min=1, help="How many concepts of the vocabulary to show, where none are named; by default 8."),
    ] = None,
    target: shared.TargetName = None,
    against: Annotated[
        str | None,
        question_option("--against", "-a", metavar="CLASS", help="Another class: explain the difference to it."),
    ] = None,
    threshold: Annotated[
        float | None,
        question_option(
            metavar="SCORE",
            help="With a detector, the lowest score of a detection that is explained, 0 to 1; by default 0.5.",
        ),
    ] = None,
    regions: Annotated[
        str | None,
        map_option(
            metavar="competing|coarse|fine|official",
            help="Maps of concepts that compete with everyday words, the same from the model's own input size alone "
            "(half the time) or from more sizes (15 times slower), or as CE-FAM published them; by default competing "
            "where that is quick, else official.",
        ),
    ] = None,
    contribution: Annotated[
        str,
        map_option(
            metavar="evidence|masking",
            help="How contributions are measured: by the evidence where a concept is, which adds up to the margin of "
            "the class; or by masking channels, as CE-FAM published it.",
        ),
    ] = "evidence",
    intervals: Annotated[
        bool,
        map_option(
            "--intervals",
            help="Also give the range of each contribution among six small changes of the photo (about six times as "
            "long).",
        ),
    ] = False,
    random_level: Annotated[
        bool | None,
        map_option(
            "--random-level/--no-random-level",
            help="Say how much a word drawn at random would get; by default where that takes hardly any time.",
        ),
    ] = None,
    concepts_from: Annotated[
        Path | None,
        question_option(metavar="DIR", help="Also show concepts without a word that `conceptlens discover` found."),
    ] = None,
    rule: RuleName = None,
    model: shared.Model = shared.DEFAULT_MODEL,
    weights: shared.Weights = None,
    class_names: shared.ClassNames = None,
    task: shared.TaskName = None,
    pretrained: shared.Pretrained = True,
    layer: shared.LayerName = None,
    crop_mode: shared.CropMode = None,
    branch: shared.BranchFolder = None,
    calibration: Annotated[
        Path | None,
        model_option(metavar="FILE", help="A file made by `conceptlens calibrate`, for z-scores of your own model."),
    ] = None,
    knowledge: shared.KnowledgeFile = None,
    out: OutFile = None,
    out_dir: OutDir = None,
    store: StoreFolder = None,
    maps: Annotated[
        bool, shared.output_option("--maps", help="With --store: also keep the maps of class and concepts.")
    ] = False,
    labels: Annotated[
        str | None,
        shared.data_option(
            metavar="folders|FILE",
            help="With --store: also keep the true class of each photo: the folder that it lies in, or a row of a "
            "table (.csv, .tsv) with the columns photo and class.",
        ),
    ] = None,
    as_json: shared.Json = False,
    resume: shared.Resume = False,
    retry_failed: shared.RetryFailed = False,
    engine: EngineName = LOCAL,
    ray_address: RayAddress = None,
    workers: Workers = None,
    device: shared.Device = "cpu",
    autocast: shared.Autocast = False,
    channels_last: shared.ChannelsLast = False,
    batch_size: shared.BatchSize = 8,
) -> None:
    """Show which concepts are in photos, where they are, and how much each one counts for the class.

    With a detector: which objects are in photos, and what each detection rests on.
    """
    from conceptlens.cams.class_activation import find_rule
    from conceptlens.cams.contrast import Contrast
    from conceptlens.discovery.discovered_concepts import DiscoveredConcepts
    from conceptlens.explainer.calibration import ScoreCalibration
    from conceptlens.explainer.explain_json import explain_json
    from conceptlens.explainer.photo_run import ExplainOptions

    named = shared.named_concepts(concepts, concepts_file)
    for_page = wants_photos(out, out_dir)
    if store is None:
        of_runs = {
            "--maps": maps or None, "--labels": labels, "--resume": resume or None,
            "--retry-failed": retry_failed or None, "--engine": None if engine == LOCAL else engine,
            "--ray-address": ray_address, "--workers": workers,
        }  # fmt: skip
        shared.refuse_unused(of_runs, "without --store DIR; add it, or leave it out")
    else:
        check_store(store, out, out_dir)
    run_on = chosen_engine(engine, ray_address, workers)
    if top is not None and named is not None:
        raise InputError("--top has no effect where concepts are named; leave it out")
    if rule is not None:
        find_rule(rule)
    if calibration is not None and branch is not None:
        raise InputError("--calibration has no effect with --branch, which has no z-scores; leave one of them out")
    if knowledge is not None and branch is not None:
        raise InputError("--knowledge has no effect with --branch, which knows no classes; leave one of them out")
    layers = layer if branch is None and layer else ()
    backbone = load(
        model, weights, pretrained, device, class_names, knowledge, layers=layers, crop_mode=crop_mode, task=task,
        autocast=autocast, channels_last=channels_last,
    )  # fmt: skip
    detector = backbone.known_task == "detection"
    if detector:
        unused = {
            "--concepts": named, "--top": top, "--regions": regions, "--concepts-from": concepts_from,
            "--branch": branch, "--calibration": calibration, "--knowledge": knowledge,
            "--intervals": intervals or None, "--contribution": None if contribution == "evidence" else contribution,
        }  # fmt: skip
        shared.refuse_unused(unused, "on a detector, whose detections are explained; leave it out")
    elif backbone.known_task == "dense":
        raise InputError(
            f"{backbone.name} gives class scores of every pixel and no concepts, which this command explains; ask in "
            "Python: cl.cam(observation, cl.Region('car')), and cl.report for the page"
        )
    elif threshold is not None:
        raise InputError(f"--threshold has no effect on {backbone.name}, which is no detector; leave it out")
    if rule is not None and not (for_page or detector or maps):
        raise InputError("--rule has no effect without a page, where class maps are shown; add --out FILE.html")
    other = class_of(against)
    options = ExplainOptions(
        target=class_of(target),
        against=other,
        concepts=named,
        top=top or 8,
        contrast=Contrast(class_of(target), () if other is None else (other,)),
        choose=other is None,
        rule=rule or ("hires_cam" if detector else "grad_cam"),
        for_page=for_page,
        calibration=None if calibration is None else ScoreCalibration.load(calibration),
        branch=shared.load_branch(branch),
        regions=regions,  # pyright: ignore[reportArgumentType]
        contribution=contribution,  # pyright: ignore[reportArgumentType]
        intervals=intervals,
        concepts_from=None if concepts_from is None else DiscoveredConcepts.load(concepts_from),
        random_level=random_level,
        layer=None if branch is None else layer,
        threshold=0.5 if threshold is None else threshold,
    )
    if store is None:
        explain_and_write(backbone, photos, options, batch_size, out, out_dir, as_json, "explain", explain_json)
        return
    explain_to_store(
        backbone, photos, options, store, run_on, as_json, batch_size=batch_size, with_maps=maps, labels=labels,
        resume=resume or retry_failed, retry_failed=retry_failed,
    )  # fmt: skip
