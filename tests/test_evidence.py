"""The experiment's data: near-duplicates stand on one side of a split, which does not depend on the order of rows."""

import json
from itertools import chain
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.evidence.prepare import SAME, groups_of, write_splits
from fastmask.experiment.recipe import read_recipe
from fastmask.experiment.steps import steps_of

EVIDENCE = Path(__file__).parents[1] / "benchmarks" / "evidence"

TEXTS = st.lists(st.lists(st.sampled_from("abcdefgh"), max_size=8).map(" ".join), max_size=12)


@given(TEXTS)
def test_near_duplicates_are_found_as_by_comparing_all(texts):
    words = [frozenset(text.split()) for text in texts]
    group = list(range(len(texts)))
    for one in range(len(texts)):
        for other in range(one):
            if words[one] and len(words[one] & words[other]) >= SAME * len(words[one] | words[other]):
                group = [group[other] if own == group[one] else own for own in group]
    found = groups_of(texts)
    same = [[found[a] == found[b] for b in range(len(texts))] for a in range(len(texts))]
    assert same == [[group[a] == group[b] for b in range(len(texts))] for a in range(len(texts))]


def test_splits(tmp_path):
    rows = [(f"row {n} has these {n * 7} words of {n * 13} its own", n % 2) for n in range(40)]
    rows += [(f"{text} again", label) for text, label in rows[:5]]
    for name, order in (("a", rows), ("b", rows[::-1])):
        write_splits(order, tmp_path / name, {"train": 10, "dev": 6})
    read = {name: {split: [json.loads(line)["text"] for line in (tmp_path / name / f"{split}.jsonl").open()]
                   for split in ("train", "dev", "test")} for name in "ab"}  # fmt: skip
    assert {split: sorted(texts) for split, texts in read["a"].items()} == {
        split: sorted(texts) for split, texts in read["b"].items()}  # fmt: skip
    assert [len(read["a"][split]) for split in ("train", "dev")] == [10, 6]
    assert sorted(chain.from_iterable(read["a"].values())) == sorted(text for text, _ in rows)
    for texts in read["a"].values():
        assert all((f"{text} again" in texts) == (text in texts) for text, _ in rows[:5])


@pytest.mark.parametrize("path", sorted(EVIDENCE.glob("*.toml")), ids=lambda path: path.stem)
def test_recipes_are_those_of_the_plan(path):
    """All but the pilot have seeds of the main recipe, at least twelve, and its options; each seed has its TaskPT."""
    recipe = read_recipe(str(path))
    main = read_recipe(str(EVIDENCE / "mr-movies.toml"))
    steps = [step.name for step in steps_of(recipe)]
    assert steps[-1] == "report" and recipe.general.pretrain_each_seed and recipe.general.init == main.general.init
    assert recipe.options["finetune"] == main.options["finetune"]
    if path.stem == "pilot":
        assert not set(recipe.general.seeds) & set(main.general.seeds)
        assert {**recipe.options["pretrain"], "epochs": 2} == main.options["pretrain"]
    else:
        count = len(recipe.general.seeds)
        assert recipe.general.seeds == main.general.seeds[:count] and count >= 12
        own = {"train-masker": recipe.options["train-masker"]} if path.stem == "mr-masker" else {}
        assert recipe.options == main.options | own
        assert set(recipe.general.methods).isdisjoint(main.general.methods) or recipe.choices == main.choices
