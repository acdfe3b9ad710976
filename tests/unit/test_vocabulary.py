"""The vocabulary is clean, what people write is understood, and each type has its prompt."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter, defaultdict
from dataclasses import FrozenInstanceError
from importlib.resources import files

import pytest

from conceptlens.concepts.vocabulary import (
    CONCEPT_TYPES,
    PROMPTS,
    ConceptName,
    everyday_words,
    parse_concepts,
    prompt,
    read_concepts,
    vocabulary,
)
from conceptlens.io.errors import InputError

AT_LEAST = {"object": 300, "part": 120, "material": 40, "colour": 25, "texture": 60, "scene": 80}

# A word and its plural that are two things.
NOT_TWINS = {
    frozenset(pair)
    for pair in (
        ("glass", "glasses"),
        ("ring binder", "binder rings"),
        ("brake disc", "disc brake"),
        ("telephone dial", "dial telephone"),
        ("dog sled", "sled dog"),
        ("skirt hoop", "hoop skirt"),
        ("string instrument", "instrument strings"),
        ("organ pipe", "pipe organ"),
    )
}

# Names of one thing: the vocabulary holds one of them at the most.
SYNONYMS = """
couch = sofa = settee; mug = cup; tv = television; plane = airplane = aeroplane; tire = tyre; truck = lorry;
gray = grey; cupboard = cabinet; fridge = refrigerator; tap = faucet; bicycle = bike; motorcycle = motorbike;
sweater = jumper = pullover; trousers = pants; curtain = drape; rug = carpet; statue = sculpture; ship = boat;
loudspeaker = speaker; mobile phone = cell phone = smartphone; stone = rock; aubergine = eggplant;
courgette = zucchini; muzzle = snout; navy blue = dark blue; light blue = sky blue; translucent = transparent;
glossy = shiny; rainforest = jungle; pavement = sidewalk; windscreen = windshield; bookcase = bookshelf;
seagull = gull; ladybird = ladybug; footpath = trail
"""


def word_stem(word: str) -> str:
    for ending, instead in (
        ("ves", "f"),
        ("ies", "y"),
        ("sses", "ss"),
        ("shes", "sh"),
        ("ches", "ch"),
        ("xes", "x"),
    ):
        if word.endswith(ending):
            return word[: -len(ending)] + instead
    return word[:-1] if word.endswith("s") and not word.endswith(("ss", "us")) else word


def stem(label: str) -> str:
    """Forget plural, hyphen, word order and British spelling."""
    words = re.split(r"[\s-]+", label.replace("colour", "color").replace("grey", "gray"))
    return " ".join(sorted(word_stem(word) for word in words))


def test_each_type_is_well_covered():
    counts = Counter(concept.type for concept in vocabulary())
    assert set(counts) == set(CONCEPT_TYPES) == set(AT_LEAST)
    assert sum(counts.values()) >= 650
    for kind, least in AT_LEAST.items():
        assert counts[kind] >= least, kind


def test_a_label_is_plain_and_occurs_once():
    labels = [concept.label for concept in vocabulary()]
    assert [label for label, times in Counter(labels).items() if times > 1] == []
    # Words, a hyphen or an apostrophe inside them at the most: nothing that the notation of entries uses.
    assert [label for label in labels if not re.fullmatch(r"[A-Za-z]+(?:[ '-]+[A-Za-z]+)*", label)] == []
    everyday = [concept.label for concept in everyday_words()]
    assert [label for label in everyday if not re.fullmatch(r"[a-z]+(?:[ -][a-z]+)*", label)] == []
    assert [label for label in labels if len(label.split()) > 4] == []


def test_no_label_is_another_in_the_plural_or_another_order():
    groups = defaultdict(set)
    for concept in vocabulary():
        groups[stem(concept.label)].add(concept.label)
        groups[stem(concept.label.replace(" ", "").replace("-", ""))].add(concept.label)
    assert [twins for twins in groups.values() if len(twins) > 1 and frozenset(twins) not in NOT_TWINS] == []


def test_the_plural_check_would_find_twins():
    assert stem("autumn leaves") == stem("autumn leaf")
    assert stem("leopards") == stem("leopard")
    assert stem("wine glasses") == stem("wine glass")
    assert stem("fur striped") == stem("striped fur")
    assert stem("berries") == stem("berry")
    assert stem("cactus") != stem("cact")


def test_one_thing_has_one_name():
    labels = {concept.label for concept in everyday_words()}
    groups = [{name.strip() for name in group.split("=")} for group in SYNONYMS.split(";")]
    assert [group & labels for group in groups if len(group & labels) > 1] == []
    assert sum(len(group & labels) for group in groups) > 20


@pytest.mark.parametrize(
    ("label", "kind"),
    [
        ("cat", "object"),
        ("coffee", "object"),
        ("spoon", "object"),
        ("rocket", "object"),
        ("motorcycle", "object"),
        ("astronaut", "object"),
        ("whiskers", "part"),
        ("eye", "part"),
        ("fur", "part"),
        ("striped fur", "part"),
        ("blue feathers", "part"),
        ("tyre", "part"),
        ("wheel", "part"),
        ("wood", "material"),
        ("dark brown", "colour"),
        ("striped", "texture"),
        ("launch pad", "scene"),
        ("sky", "scene"),
        ("grass", "scene"),
    ],
)
def test_the_vocabulary_knows(label, kind):
    assert ConceptName(label, kind) in vocabulary()


def test_the_file_says_whose_it_is():
    lines = files("conceptlens.concepts").joinpath("vocabulary.tsv").read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("#")
    assert lines[2] == "label\ttype\trate\teveryday"
    assert len(lines) == 3 + len(vocabulary())


@pytest.mark.parametrize(
    ("concept", "sentence"),
    [
        (ConceptName("cat", "object"), "a photo of a cat"),
        (ConceptName("striped fur", "part"), "a photo of a striped fur"),
        (ConceptName("wood", "material"), "a photo of an object made of wood"),
        (ConceptName("dark brown", "colour"), "a photo of a dark brown object"),
        (ConceptName("woven", "texture"), "a photo of a woven object"),
        (ConceptName("beach", "scene"), "a photo of an object on beach"),
        (ConceptName("{0}", "object"), "a photo of a {0}"),
    ],
)
def test_prompt(concept, sentence):
    assert prompt(concept) == sentence


def test_every_prompt_has_one_place_for_the_label():
    assert tuple(PROMPTS) == CONCEPT_TYPES
    assert all(template.count("{}") == 1 for template in PROMPTS.values())


def test_a_name_is_a_value():
    concept = ConceptName("cat", "object")
    assert concept == ConceptName("cat")
    assert len({concept, ConceptName("cat")}) == 1
    with pytest.raises(FrozenInstanceError):
        concept.label = "dog"  # type: ignore[misc]


@pytest.mark.parametrize("label", ["", "  ", None, 3])
def test_a_name_needs_a_label(label):
    with pytest.raises(InputError, match="give it a label"):
        ConceptName(label, "object")


@pytest.mark.parametrize("kind", ["", "Texture", "color", None, ["part"]])
def test_a_name_needs_a_known_type(kind):
    with pytest.raises(InputError, match="for concept 'cat': use one of object, part, material"):
        ConceptName("cat", kind)


def test_parse_a_text():
    assert parse_concepts("whiskers, striped fur:texture , red,  zeppelin hangar") == (
        ConceptName("whiskers", "part"),
        ConceptName("striped fur", "texture"),
        ConceptName("red", "colour"),
        ConceptName("zeppelin hangar", "object"),
    )


def test_parse_an_iterable():
    given = ["beach", ConceptName("Odd One", "texture"), "wood"]
    expected = (ConceptName("beach", "scene"), given[1], ConceptName("wood", "material"))
    assert parse_concepts(given) == expected
    assert parse_concepts(entry for entry in given) == expected
    assert parse_concepts(expected) == expected
    assert parse_concepts(vocabulary()) == vocabulary()


def test_an_entry_of_an_iterable_keeps_its_comma():
    assert parse_concepts(["a small, round table"]) == (ConceptName("a small, round table", "object"),)


def test_case_and_spacing_do_not_matter_to_the_vocabulary():
    assert parse_concepts(["  STRIPED \t  Fur "]) == (ConceptName("striped fur", "part"),)
    assert parse_concepts(["Wood : TEXTURE"]) == (ConceptName("wood", "texture"),)


def test_a_label_of_ones_own_keeps_its_case():
    assert parse_concepts("Eiffel   Tower") == (ConceptName("Eiffel Tower", "object"),)


def test_only_the_last_colon_parts_the_type():
    assert parse_concepts(["ratio 1:2:texture"]) == (ConceptName("ratio 1:2", "texture"),)


def test_repeated_entries_are_dropped_in_order():
    found = parse_concepts("dog, cat, DOG, cat:object, my thing, My  Thing, orange, orange:object")
    assert [(c.label, c.type) for c in found] == [
        ("dog", "object"),
        ("cat", "object"),
        ("my thing", "object"),
        ("orange", "colour"),
        ("orange", "object"),
    ]


def test_blank_entries_are_ignored():
    assert parse_concepts(" , cat,, ") == parse_concepts(["", "cat", " \n"]) == (ConceptName("cat", "object"),)


@pytest.mark.parametrize("nothing", ["", " , ,", [], ["", "  "], ()])
def test_nothing_left_is_an_error(nothing):
    with pytest.raises(InputError, match="no concept is given; name at least one"):
        parse_concepts(nothing)


@pytest.mark.parametrize("entry", ["wood:colr", "my thing:colr", "my thing:", "wood:"])
def test_an_unknown_type_lists_the_known_ones(entry):
    kind = entry.partition(":")[2]
    expected = f"unknown type '{kind}' for concept '{entry.partition(':')[0]}': use one of object, part, "
    with pytest.raises(InputError, match=expected):
        parse_concepts([entry])


def test_a_type_alone_is_no_concept():
    with pytest.raises(InputError, match="':texture' names no concept; write label:type"):
        parse_concepts("cat, :texture")


@pytest.mark.parametrize("given", [None, 3, ConceptName("cat")])
def test_something_that_is_no_list(given):
    with pytest.raises(InputError, match=f"given as {type(given).__name__}; expected a text or a list"):
        parse_concepts(given)


@pytest.mark.parametrize("entry", [None, 3, b"cat", ("cat", "object")])
def test_an_entry_that_is_no_text(entry):
    with pytest.raises(InputError, match="expected text such as 'striped fur:texture'"):
        parse_concepts(["cat", entry])


def test_read_a_file(tmp_path):
    path = tmp_path / "mine.txt"
    path.write_bytes("\ufeff# mine\r\nWhiskers\r\n\r\ncrème brûlée:texture # sweet\r\nsmall, round\r\n".encode())
    expected = (
        ConceptName("whiskers", "part"),
        ConceptName("crème brûlée", "texture"),
        ConceptName("small, round", "object"),
    )
    assert read_concepts(path) == expected
    assert read_concepts(str(path)) == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"# only this\n\n", "no concept is given"),
        (b"cat\nwood:colr\n", "unknown type 'colr' for concept 'wood'"),
        (b"caf\xe9\n", "is not UTF-8 text"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(tmp_path, content, message):
    path = tmp_path / "mine.txt"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        read_concepts(path)
    assert str(path) in str(caught.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match=r"cannot read '.*missing\.txt' \(No such file"):
        read_concepts(tmp_path / "missing.txt")
    with pytest.raises(InputError, match="cannot read"):
        read_concepts(tmp_path)


def test_torch_is_not_imported():
    code = "import sys, conceptlens.concepts.vocabulary as v; v.vocabulary(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
