"""Cards as pages: Markdown made of words, measured numbers and committed results, always the same for the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from card_peers import EQUAL, Peer, peers
from card_results import read_result
from card_tables import CONTROL, controls_of, result_tables, scene_score, table
from card_texts import CardText, card_texts, sentence, words
from golden_maps import TOLERANCE, golden_cases

TOOLS = {"grad-cam": "grad-cam", "torchcam": "torch-cam", "captum": "captum"}
PAGE_TITLES = {
    "equation.md": "The one equation", "finer-cam.md": "Finer-CAM", "ce-fam.md": "CE-FAM", "loc-cbm.md": "Loc-CBM",
    "loce.md": "LoCE",
}  # fmt: skip
SYMBOLS = "`A` are the features of a layer, `k` a channel, `ij` or `u` a cell, `S` the score that is explained"


def pages(measured: dict[str, Any]) -> dict[str, str]:
    """Return the text of every page by its file's name: one for each card, and the index.

    Args:
        measured: What `docs/results/cards.json` holds.
    """
    texts = list(card_texts().values())
    return {**{text.file: _page(text, measured) for text in texts}, "index.md": _index(texts, measured)}


def _page(text: CardText, measured: dict[str, Any]) -> str:
    facts = [
        ("Call", f"`{text.call}`"),
        ("**Source**", text.source),
        ("**Held to its formula by**", ", ".join(f"`tests/{name}`" for name in text.proof)),
        ("**More**", f"[{PAGE_TITLES[text.page]}](../{text.page})"),
    ]
    parts = [
        f"# Card: {text.title}",
        text.says,
        table(facts[0], facts[1:]),
        "## Formula",
        "\n".join(["```", *text.formula, "```"]),
        SYMBOLS + (", `G = dS/dA` its gradient." if text.page == "equation.md" else "."),
        "## What it shows",
        *_golden(text),
        "## Beside other implementations",
        _conformance(text, measured),
        "## Where it departs, and why",
        "\n".join(f"- {point}" for point in text.departures),
        "## Results, with controls",
        *result_tables(text, measured),
        "## Cost",
        *_cost(text, measured),
        f"<small>{sentence('made')} {_setting(measured)}</small>",
    ]
    return "\n\n".join(parts) + "\n"


def _golden(text: CardText) -> list[str]:
    cases = golden_cases()
    rivals = ", held against " + ", ".join(f"*{case.rival}*" for case in cases)
    against = rivals if text.name == "finer_cam" else ""
    asked = ", ".join(f"*{case.asked}*" for case in cases)
    return [
        "![Three drawn scenes of coloured shapes, each with the name that is asked for](../images/cards/scenes.webp)",
        f"![The maps of these names by {text.title}](../images/cards/{text.picture})",
        sentence("golden", asked=asked, against=against, tolerance=TOLERANCE)
        + "".join(f" {note}" for note in [words("golden_notes").get(text.name)] if note),
    ]  # fmt: skip


def _conformance(text: CardText, measured: dict[str, Any]) -> str:
    found = {row["peer"]: row["differences"] for row in measured["peers"]}
    mine = [peer for peer in peers() if peer.card == text.name]
    if not mine:
        figures = read_result(f"{text.name}.json").get("figures", {})
        return words("no_peer")[text.name].format(**figures)
    places = list(found[mine[0].key])
    rows = [
        (_peer_name(peer, measured), *(_difference(found[peer.key][place]) for place in places), _verdict(peer))
        for peer in mine
    ]
    return sentence("conformance", equal=EQUAL) + "\n\n" + table(("Implementation", *places, ""), rows)


def _peer_name(peer: Peer, measured: dict[str, Any]) -> str:
    if peer.tool == "authors":
        name = f"its authors' code, restated (`{peer.method}`)"
    else:
        name = f"{TOOLS[peer.tool]} {measured['setting']['versions'][peer.tool]}, `{peer.method}`"
    return f"{name}, {peer.about}" if peer.about else name


def _difference(value: float | None) -> str:
    if value is None:
        return "-"
    return "0" if value == 0 else f"{value:.0e}" if value < 0.001 else f"{value:.2g}"


def _verdict(peer: Peer) -> str:
    return f"differs: it {peer.departs}" if peer.departs else "**the same**"


def _cost(text: CardText, measured: dict[str, Any]) -> list[str]:
    rows = [
        (row["network"], *(str(row[name]) for name in ("forward", "behind", "backward")), f"{row['operations']:.3g}",
         f"{row['time']:.1f}", f"{row['memory']:.1f}")
        for row in measured["costs"][text.name]
    ]  # fmt: skip
    head = ("Network", "Forward passes", "Behind the layer only", "Gradients", "Operations", "Time", "Memory")
    note = words("cost_notes").get(text.name)
    return [sentence("cost"), table(head, rows), *([note] if note else [])]


def _setting(measured: dict[str, Any]) -> str:
    setting = measured["setting"]
    versions = ", ".join(f"{name} {version}" for name, version in setting["versions"].items())
    return sentence("setting", versions=versions, device=setting["device"])


def _index(texts: Sequence[CardText], measured: dict[str, Any]) -> str:
    found = measured["scenes"]
    controls = ", ".join(
        f"{name.removeprefix(CONTROL)} {scene_score(name, 'pointing_energy', found)}" for name in controls_of(found)
    )
    head = ("Method", "Same as", "Not the same as", "Energy inside", "Operations, CNN", "Operations, ViT")
    parts = [
        "# Conformance cards",
        sentence("index"),
        table(head, [_index_row(text, measured) for text in texts]),
        sentence("index_columns", equal=EQUAL, scenes=found["scenes"], controls=controls),
        "![Three drawn scenes of coloured shapes, each with the name that is asked for](../images/cards/scenes.webp)",
        f"{sentence('made')} {sentence('index_made')}",
    ]
    return "\n\n".join(parts) + "\n"


def _index_row(text: CardText, measured: dict[str, Any]) -> list[str]:
    mine = [peer for peer in peers() if peer.card == text.name]
    same, other = (
        ", ".join(dict.fromkeys(_short(peer) for peer in mine if bool(peer.departs) == departs)) or "-"
        for departs in (False, True)
    )
    known = text.name in measured["scenes"]["methods"]
    energy = scene_score(text.name, "pointing_energy", measured["scenes"]) if known else "*oracle*"
    costs = [f"{row['operations']:.3g}" for row in measured["costs"][text.name]]
    return [f"[{text.title}]({text.file})", same, other, energy, *costs]


def _short(peer: Peer) -> str:
    if peer.tool == "authors":
        return "its authors' code" + (" (signed)" if peer.about else "")
    return TOOLS[peer.tool] + (" (with its objective)" if peer.about and not peer.departs else "")
