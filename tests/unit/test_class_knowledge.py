"""Class knowledge: the shipped table, tables of one's own, and how a model's classes are linked to one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import conceptlens as cl
from conceptlens.concepts.class_knowledge import RATES, UNNAMED_RATE, imagenet_knowledge
from conceptlens.concepts.vocabulary import CONCEPT_TYPES, ConceptName, base_rate, everyday_words, vocabulary
from conceptlens.model.class_concepts import ClassLink, link_classes, rate_of
from conceptlens.model.class_differences import class_differences
from tolerance import assert_agree

TABLE = """# Three classes of a user.
class\tkinds\talways\toften\tsometimes
tin duck\ttoy duck > toy\tbeak; rusty hinge:part\tred\twood
tin car\ttoy car > toy\twheel; red\t\t
rain\t\t\twater\tumbrella
"""


@pytest.fixture
def table(tmp_path: Path) -> Path:
    file = tmp_path / "toys.tsv"
    file.write_text(TABLE)
    return file


def test_the_shipped_table_is_whole() -> None:
    known = imagenet_knowledge()
    names = cl.load_model(pretrained=False).class_names
    assert tuple(one.name for one in known.classes) == names
    for one in known.classes:
        assert len(one.kinds) >= 2 or one.name == "cloak", one.name
        assert 13 <= len(one.rates) <= 32, one.name
        assert {concept.type for concept in one.rates} <= set(CONCEPT_TYPES)
        assert set(one.rates.values()) <= {1.0, *RATES.values()}
    assert set(known.concepts) <= set(vocabulary())


def test_every_word_has_one_type_and_a_base_rate() -> None:
    labels = [concept.label.casefold() for concept in vocabulary()]
    assert len(set(labels)) == len(labels)
    assert all(0 < (base_rate(concept) or 0) < 1 for concept in vocabulary())
    assert base_rate(ConceptName("person")) > base_rate(ConceptName("dog")) > base_rate(ConceptName("armadillo"))  # pyright: ignore[reportOptionalOperand]
    assert base_rate(ConceptName("nothing of the kind")) is None
    assert set(everyday_words()) < set(vocabulary())


def test_what_a_class_shows_is_what_a_person_would_say() -> None:
    known = imagenet_knowledge()
    tabby = known.classes[known.index("tabby cat") or 0]
    rates = {concept.label: rate for concept, rate in tabby.rates.items()}
    assert rates["cat"] == rates["animal"] == 1
    assert rates["ear"] == RATES["always"]
    assert rates["whiskers"] >= RATES["often"]
    assert "wheel" not in rates
    assert known.broader["tabby cat"] >= {"cat", "animal"}
    assert set(range(151, 269)) <= set(known.members("dog"))  # all breeds


def test_a_table_of_ones_own(table: Path) -> None:
    known = cl.read_knowledge(table)
    duck = known.classes[0].rates
    assert duck[ConceptName("rusty hinge", "part")] == RATES["always"]
    assert duck[ConceptName("toy")] == 1
    assert known.classes[2].kinds == ()
    rates = dict(zip(known.concepts, known.rates.T, strict=True))
    assert rates[ConceptName("wheel", "part")].tolist() == pytest.approx([UNNAMED_RATE, RATES["always"], UNNAMED_RATE])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "names no class"),
        ("name\talways\n", "names no class"),
        ("name\talways\nx\ty\n", "has no column class, often, sometimes"),
        ("class\talways\toften\tsometimes\nx\ty\t\t\nx\tz\t\t\n", "names 'x' twice"),
        ("class\talways\toften\tsometimes\n\ty\t\t\n", "has a line without a class"),
        ("class\talways\toften\tsometimes\nx\ty:smell\t\t\n", "class 'x': unknown type 'smell'"),
    ],
)
def test_other_tables_are_refused(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "table.tsv"
    file.write_text(text)
    with pytest.raises(cl.InputError, match=words):
        cl.read_knowledge(file)


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(cl.InputError, match="is no table; give a table with the columns"):
        cl.read_knowledge(tmp_path / "table.json")
    with pytest.raises(cl.InputError, match="cannot read"):
        cl.read_knowledge(tmp_path / "none.csv")


def test_classes_are_linked_by_name_by_kind_and_by_sentence() -> None:
    links = link_classes(["Tabby cat", "black-footed albatross", "airplane", "melanoma"], imagenet_knowledge()).links
    assert [link.way for link in links] == ["name", "kind", "sentence", "none"]
    assert [link.known_as.split(",")[0] for link in links] == ["tabby", "albatross", "aircraft", ""]


def test_what_is_not_known_is_taken_for_the_kind_that_the_others_share() -> None:
    names = ["001.Sooty_Albatross", "002.American_Crow", "003.Purple_Finch", "004.Groove_billed_Ani", "005.Gadwall"]
    known = link_classes(names, imagenet_knowledge())
    assert [link.way for link in known.links] == ["kind", "kind", "kind", "shared kind", "shared kind"]
    assert known.links[4].known_as == "bird"
    beak = rate_of(known.rates, known, [ConceptName("beak", "part")])[:, 0]
    assert float(beak.min()) > 0.5
    assert not link_classes(["c0", "c1", "c2"], imagenet_knowledge()).linked.any()


def test_the_implied_probability_is_the_mean_over_classes(table: Path) -> None:
    known = link_classes(["tin duck", "tin car", "other"], cl.read_knowledge(table))
    logits = torch.tensor([[1.0, 0.0, 5.0], [-3.0, 2.0, 0.0]])
    implied = known.implied(logits)
    for i, row in enumerate(logits):
        duck, car = row[:2].softmax(0).tolist()  # the class without a link is left out
        for c in range(len(known.concepts)):
            expected = duck * float(known.rates[0, c]) + car * float(known.rates[1, c])
            assert float(implied[i, c]) == pytest.approx(expected, abs=1e-6)
    assert_agree(known.linked_probability(logits), logits.softmax(1)[:, :2].sum(1))


LIKENESSES = """class\tkinds\talways\toften\tsometimes
house cat, mog\thouse cat > cat > animal\tfur; head\tstriped fur; wall; grey; blue bow:part\tgreen
wild cat\twild cat > cat > animal\tfur; head; tree; green\tred nose:part\tgrey; snow
dog\tdog > animal\tfur; head; tree; green\tred nose:part; grey\tsnow
pup\tpup > dog > animal\ttree; fur; head; green\tnose; grey\tsnow; red nose:part
"""


def test_classes_differ_by_what_one_often_shows_and_the_other_hardly_ever(tmp_path: Path) -> None:
    file = tmp_path / "likenesses.tsv"
    file.write_text(LIKENESSES)
    known = link_classes(["mog", "wild cat", "dog", "pup"], cl.read_knowledge(file))

    def labels(target: str | int, against: str | int, count: int = 6) -> list[list[str]]:
        return [[concept.label for concept in side] for side in class_differences(known, target, against, count)]

    # Of equal ones, words without a base rate stand first, then the rarer ones. "fur" and "cat" are shared, "grey" and
    # "green" are sometimes shown by the other, and a class's own names say nothing.
    assert labels("mog", "wild cat") == [["blue bow", "striped fur", "wall"], ["tree", "green", "red nose"]]
    assert labels(0, 1, count=1) == [["blue bow"], ["tree"]]
    assert labels("wild cat", "mog") == labels("mog", "wild cat")[::-1]
    assert labels("wild cat", "dog") == [["cat"], []]  # "animal" is shared, "grey" is sometimes shown by the wild cat
    assert labels("mog", "dog")[0][0] == "cat"
    assert labels("dog", "pup") == [[], []]  # a red nose is a nose, so "nose" tells the pup from nobody
    one = replace(known, links=(*known.links[:3], ClassLink("c7", "", "none", 0.0)))
    assert class_differences(one, "mog", "c7") == class_differences(one, "c7", "mog") == ((), ())
    with pytest.raises(cl.InputError, match="moog"):
        class_differences(known, "moog", "dog")


class Linear(nn.Module):
    """Three classes of the mean colour."""

    def __init__(self) -> None:
        """Draw the weights."""
        super().__init__()
        torch.manual_seed(0)
        self.cells = nn.Conv2d(3, 6, 8, 8)
        self.head = nn.Linear(6, 3)

    def forward(self, images: Tensor) -> Tensor:
        """Return class scores."""
        return self.head(self.cells(images).relu().mean((2, 3)))


def test_a_concept_by_classes_contrasts_those_that_show_it_with_those_that_do_not(table: Path) -> None:
    model = cl.Backbone(
        Linear().eval(), "toys", class_names=("tin duck", "tin car", "other"), input_size=(32, 32),
        knowledge=cl.read_knowledge(table),
    )  # fmt: skip
    observation = model.observe(torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1)))
    found = cl.cam(observation, cl.Concept("beak", by="classes"), signed=True)
    logits = observation.logits.detach()
    always = RATES["always"]
    for i in range(2):
        duck, car = logits[i, :2].exp().tolist()
        odds = (always * duck + UNNAMED_RATE * car) / ((1 - always) * duck + (1 - UNNAMED_RATE) * car)
        assert float(found.scores[i, 0].exp()) == pytest.approx(odds, rel=1e-5)
    versus = cl.cam(observation, cl.Contrast("tin duck", "tin car", gamma=1.0), signed=True)
    side = torch.nn.functional.cosine_similarity(found.maps.flatten(2), versus.maps.flatten(2), dim=2)
    assert float(side.min()) > 0.999  # with two known classes it is their contrast
    with pytest.raises(cl.InputError, match="no class of toys is known to show 'lighthouse'"):
        cl.cam(observation, cl.Concept("lighthouse", by="classes"))
    bare = cl.Backbone(Linear().eval(), "bare", input_size=(32, 32)).observe(torch.zeros(1, 3, 32, 32))
    with pytest.raises(cl.InputError, match="nothing is known of the classes of bare"):
        cl.cam(bare, cl.Concept("beak", by="classes"))
