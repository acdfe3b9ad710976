"""Which words does the default model take for known? The thresholds of `needed_cosine`, chosen and reported on halves.

`python benchmarks/known_words.py [--json]`; it needs no data. Every other word of a list is for choosing, the rest is
reported. Words of the vocabulary are asked for as if they were not in it: against the other words and the class names.

- `vocabulary`: the share that is known; in use all are, since they are in the vocabulary.
- `random`, `shuffled`: words of 4 to 10 random letters, and words of the vocabulary with their letters shuffled.
- `pronounceable`: made by the vocabulary's letter trigrams, not used for choosing.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import defaultdict
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

import conceptlens as cl
from conceptlens.concepts.vocabulary import vocabulary
from conceptlens.model import known_texts
from conceptlens.model.encoders import ClassifierText, sentence_pieces
from conceptlens.model.known_texts import letters_per_piece, needed_cosine
from run_record import run_record

NONSENSE = 1500
# Of each list of nonsense, the share of the choosing half that is to be refused; of whole words, that is to be kept.
REFUSED, KEPT = 0.955, 0.99
GIVEN = {
    "abstract": "jurisprudence, inflation, photosynthesis rate, democracy, interest rate, algorithm, nostalgia, "
    "justice, quarterly revenue, monday, epistemology, grammar, mortgage, ethics, friendship, theorem, loneliness, "
    "tax, philosophy, causality, tomorrow, opinion, percentage, copyright, century, irony",
    "not in the vocabulary, can be seen": "pangolin, okapi, capybara, quokka, narwhal, sextant, astrolabe, theremin, "
    "ukulele, samovar, baklava, pierogi, labradoodle, hoverboard, smartwatch, macbook, iphone, selfie stick, airpods, "
    "segway, nike shoe, lightsaber, jetski, chrysanthemum, hydrangea, tattoo, mascara, paw pad, dewclaw, herringbone, "
    "houndstooth, corduroy, taffeta, vermilion, wet road, old man, happy dog, person riding a bike",
    "German": "Katze, Hund, Haus, Baum, Schnurrhaare, Fahrrad, Vogel, Blume, Schmetterling, Eichhörnchen, Regenschirm, "
    "Apfel, Tisch, Stuhl, Kaffeetasse, Fenster, Wolke, Schlüssel, Brille, Pferd, Kuh, Schaf, Löffel, Gabel, Messer",
    "Russian": "кошка, собака, дом, дерево, усы, велосипед, птица, цветок, бабочка, белка, зонт, яблоко, стол, ывфа",
    "Greek": "γάτα, σκύλος, σπίτι, δέντρο, μουστάκια, ποδήλατο, πουλί, λουλούδι, πεταλούδα, ομπρέλα, μήλο, τραπέζι",
    "Chinese": "猫, 狗, 房子, 树, 胡须, 自行车, 鸟, 花, 蝴蝶, 松鼠, 雨伞, 苹果",
    "typed at random": "qwrtzx, zzzqqq, blorfin, asdf, qwerty, xyzzy, foobar, lorem ipsum, jabberwock, wug, blicket, "
    "flibbertigibbet, hjkl, aaaa, !!!, ..., 😀, qwrtzx cat",
}


def nonsense(count: int) -> dict[str, list[str]]:
    """Return three lists of words that mean nothing, the same ones every time."""
    generator = random.Random(0)
    words = [one.label.lower() for one in vocabulary() if one.label.isascii() and one.label.isalpha()]
    drawn = ["".join(generator.choices("abcdefghijklmnopqrstuvwxyz", k=generator.randint(4, 10))) for _ in range(count)]
    longer = generator.choices([word for word in words if len(word) > 4], k=count)
    shuffled = ["".join(generator.sample(word, len(word))) for word in longer]
    follows = defaultdict(list)
    for word in words:
        for at, letter in enumerate(f"{word}$"):
            follows[f"^^{word}"[at : at + 2]].append(letter)
    made: dict[str, None] = {}
    while len(made) < count:
        text = "^^"
        while not text.endswith("$"):
            text += generator.choice(follows[text[-2:]])
        made.update({text[2:-1]: None} if 4 <= len(text) - 3 <= 10 else {})
    lists = {"random": drawn, "shuffled": shuffled, "pronounceable": list(made)}
    meant = set(words)
    return {name: [w for w in rows if w not in meant and len(sentence_pieces(w)) > 1] for name, rows in lists.items()}


def nearest(language: ClassifierText, labels: Sequence[str]) -> Tensor:
    """Return the cosine of each text and the nearest text that is not the same word."""
    things = [one.label for one in vocabulary() if one.type in ("object", "part")]
    synonyms = [{part.strip().casefold() for part in name.split(",")} for name in (*things, *language.class_names)]
    same = torch.tensor([[label.casefold() in names for names in synonyms] for label in labels])
    return language.nearest_known(labels).masked_fill(same, -1.0).amax(1)


def chosen(known: Tensor, wrong: Sequence[Tensor]) -> dict[str, float]:
    """Return the thresholds, from rows of cosine and letters per piece: a logistic regression, then a quantile."""
    whole = known[:, 1].isinf()
    least = float(known[whole, 0].quantile(1 - KEPT))
    rows = torch.cat([known[~whole], *wrong])
    truth = torch.cat([torch.ones(int((~whole).sum())), torch.zeros(len(rows) - int((~whole).sum()))])
    weights = torch.zeros(3, requires_grad=True)
    optimiser = torch.optim.LBFGS([weights], max_iter=300)

    def loss() -> Tensor:
        optimiser.zero_grad()
        value = F.binary_cross_entropy_with_logits(rows @ weights[:2] + weights[2], truth)
        value.backward()
        return value

    optimiser.step(loss)  # pyright: ignore[reportArgumentType]
    slope = float(weights.detach()[1] / weights.detach()[0])
    return {
        "least_cosine": least,
        "cosine_per_letter": slope,
        "cosine_of_no_letters": max(float((row[:, 0] + slope * row[:, 1]).quantile(REFUSED)) for row in wrong),
    }


def main() -> None:
    """Choose, report, and print or write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true", help="write docs/results/known_words.json's content to stdout")
    as_json = parser.parse_args().json
    torch.set_num_threads(1)
    language = cast(ClassifierText, cl.load_model().language)
    lists = {"vocabulary": [one.label for one in vocabulary()], **nonsense(NONSENSE)}
    cosines = {name: nearest(language, words) for name, words in lists.items()}
    rows = {
        name: torch.stack(
            [cosines[name], torch.tensor([letters_per_piece(sentence_pieces(word)) for word in words])], dim=1
        )
        for name, words in lists.items()
    }
    thresholds = chosen(rows["vocabulary"][::2], [rows[name][::2] for name in ("random", "shuffled")])
    shares = {}
    for name, words in lists.items():
        needed = torch.tensor([needed_cosine(sentence_pieces(word)) for word in words])
        shares[name] = (cosines[name] >= needed)[1::2].float().mean().item()
    whole = [i for i in range(1, len(lists["vocabulary"]), 2) if rows["vocabulary"][i, 1].isinf()]
    broken = [i for i in range(1, len(lists["vocabulary"]), 2) if not rows["vocabulary"][i, 1].isinf()]
    needed = torch.tensor([needed_cosine(sentence_pieces(word)) for word in lists["vocabulary"]])
    known = cosines["vocabulary"] >= needed
    given = {name: dict(zip(t.split(", "), language.knows(t.split(", ")), strict=True)) for name, t in GIVEN.items()}
    figures = {
        "vocabulary_in_use": sum(language.knows(lists["vocabulary"])) / len(lists["vocabulary"]),
        "vocabulary_left_out": shares["vocabulary"],
        "vocabulary_left_out_whole_words": known[whole].float().mean().item(),
        "vocabulary_left_out_in_pieces": known[broken].float().mean().item(),
        **{f"{name}_refused": 1 - shares[name] for name in ("random", "shuffled", "pronounceable")},
        **{f"given_known: {name}": sum(found.values()) / len(found) for name, found in given.items()},
    }
    details = {
        **run_record(),
        "chosen": thresholds,
        "in_use": {
            "least_cosine": known_texts.LEAST_COSINE,
            "cosine_per_letter": known_texts.COSINE_PER_LETTER,
            "cosine_of_no_letters": known_texts.COSINE_OF_NO_LETTERS,
        },
        "words": {name: len(words) for name, words in lists.items()},
        "given": {name: {"known": [w for w, k in f.items() if k], "unknown": [w for w, k in f.items() if not k]}
                  for name, f in given.items()},
    }  # fmt: skip
    result = {"name": "known_words", "figures": {k: round(v, 4) for k, v in figures.items()}, "details": details}
    if as_json:
        print(json.dumps(result, indent=1, ensure_ascii=False))
    else:
        for name, value in result["figures"].items():
            print(f"{name:<55} {value:.3f}")
        print(thresholds)


if __name__ == "__main__":
    main()
