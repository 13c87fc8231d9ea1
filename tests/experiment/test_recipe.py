"""Recipes: what is read from TOML, what is refused and how, and the steps that come of them."""

from pathlib import Path

import pytest

from fastmask.core.config import ScoreConfig
from fastmask.core.errors import FastmaskError
from fastmask.experiment.recipe import PAPER_SEEDS, read_recipe
from fastmask.experiment.steps import steps_of
from fastmask.scoring.method import load_method

RECIPES = Path(__file__).parents[2] / "recipes"
SMALL = """
out = "o"
init = "m"
seeds = [1, 2]

[task]
train = ["a.jsonl", "b.jsonl"]
dev = "dev.jsonl"
test = "test.jsonl"
label-field = "class"

[in-domain]
corpus = "corpus.txt"
"""


def recipe(tmp_path, text: str):
    path = tmp_path / "r.toml"
    path.write_text(text, "utf-8")
    return read_recipe(str(path))


def steps(tmp_path, text: str) -> dict:
    return {step.name: step for step in steps_of(recipe(tmp_path, text))}


def refused(tmp_path, text: str) -> str:
    with pytest.raises(FastmaskError) as caught:
        steps(tmp_path, text)
    line = str(caught.value)
    assert "\n" not in line and line.startswith(str(tmp_path / "r.toml"))
    return line.removeprefix(str(tmp_path / "r.toml") + ": ")


def test_what_a_recipe_says(tmp_path):
    read = recipe(tmp_path, SMALL + "[pretrain]\nmax-steps = 5\nlr = 1\n[mask]\nstop_words = 'none'\n")
    assert (read.general.out, read.general.init, read.general.seeds) == ("o", "m", (1, 2))
    assert read.general.methods == ("masker",) and not read.general.pretrain_each_seed
    assert read.task.train == ("a.jsonl", "b.jsonl") and read.task.dev == ("dev.jsonl",)
    assert read.options["pretrain"] == {"max_steps": 5, "lr": 1.0} and type(read.options["pretrain"]["lr"]) is float
    assert read.options["mask"] == {"stop_words": "none"} and read.options["finetune"] == {}


def test_the_language_of_a_recipe_is_that_of_all_texts(tmp_path):
    found = steps(tmp_path, "language = 'de'\n" + SMALL + "[mask]\nlanguage = 'fr'\n")
    assert found["task-masks"].config.language == "de"
    assert found["masks/masker"].config.language == found["masks/masker-control"].config.language == "fr"
    assert steps(tmp_path, SMALL)["masks/masker"].config.language == "en"


def test_seeds_are_the_papers_unless_given(tmp_path):
    assert recipe(tmp_path, SMALL.replace("seeds = [1, 2]", "")).general.seeds == PAPER_SEEDS


@pytest.mark.parametrize("name", sorted(path.name for path in RECIPES.glob("*.toml")))
def test_the_recipes_that_come_with_fastmask(name):
    assert steps_of(read_recipe(str(RECIPES / name)))[-1].command == "evaluate"


def test_the_papers_settings(tmp_path):
    found = {step.name: step.config for step in steps_of(read_recipe(str(RECIPES / "mr-yelp.toml")))}
    tuned, masker, pretrained = found["finetuned/masker-859"], found["masker"], found["pretrained/masker"]
    assert (tuned.lr, tuned.batch_size, tuned.epochs, tuned.max_length) == (2e-5, 32, 10, 256)
    assert (masker.lr, masker.batch_size, masker.epochs, masker.max_length) == (1e-5, 32, 10, 128)
    assert (masker.warmup, masker.mask_weight) == (0.1, 3.0)
    assert (pretrained.lr, pretrained.warmup, pretrained.batch_size, pretrained.max_length) == (2e-5, 0.2, 112, 256)
    assert (
        load_method(found["masks/masker"]).rate(found["masks/masker"]) == 0.15
        and found["masks/masker"].stop_words == "none"
    )
    assert found["task-masks"].stop_words == "language" and found["task-masks"].threshold == 0.05


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (SMALL + "[pretain]\n", "[pretain]: unknown section; did you mean pretrain?"),
        (SMALL + "[pretrain]\nmax-step = 5\n", "[pretrain]: max-step: unknown key; did you mean max-steps?"),
        (SMALL + "[pretrain]\nxyz = 5\n", "[pretrain]: xyz: unknown key"),
        (SMALL + "[pretrain]\nlr = 1\nlr_ = 1\n", "[pretrain]: lr_: unknown key; did you mean lr?"),
        (SMALL + "[pretrain]\nmax-steps = 1\nmax_steps = 1\n", "[pretrain]: max_steps: set twice"),
        (SMALL + "[pretrain]\nmax-steps = '5'\n", "[pretrain]: max-steps: '5' is not a whole number"),
        (SMALL + "[pretrain]\nmax-steps = 5.5\n", "[pretrain]: max-steps: 5.5 is not a whole number"),
        (SMALL + "[pretrain]\nmax-steps = true\n", "[pretrain]: max-steps: True is not a whole number"),
        (SMALL + "[pretrain]\nlr = false\n", "[pretrain]: lr: False is not a number"),
        (SMALL + "[pretrain]\nlr = -1\n", "[pretrain]: --lr -1.0: above 0"),
        (SMALL + "[mask]\ncertify = 1\n", "[mask]: certify: 1 is not true or false"),
        (SMALL + "[mask]\nencoding = 8\n", "[mask]: encoding: 8 is not a text in quotes"),
        (SMALL + "[finetune]\nseed = 3\n", "[finetune]: seed: is not for a recipe to set here"),
        (SMALL + "[score]\nmethod = 'best'\n", "[score]: --method best: choose one of"),
        ("language = 'thai'\n" + SMALL, "[score]: --language thai: choose one of af, am,"),
        (SMALL.replace('init = "m"', ""), "init: is missing"),
        (SMALL.replace('test = "test.jsonl"', ""), "[task]: test: is missing"),
        (SMALL.replace('[in-domain]\ncorpus = "corpus.txt"', ""), "[in-domain]: corpus: is missing"),
        (SMALL.replace('"corpus.txt"', '["a.txt", "-"]'), "[in-domain]: corpus: standard input cannot be read again"),
        (SMALL.replace("[1, 2]", "[1, 1]"), "seeds: name at least one, each once"),
        (SMALL.replace("[1, 2]", "[]"), "seeds: name at least one, each once"),
        (SMALL.replace("[1, 2]", "[-1]"), "seeds: at least 0"),
        (SMALL.replace("[1, 2]", "[1, 'x']"), "seeds: 'x' is not a whole number"),
        ("methods = ['random-0']\n" + SMALL, "methods: random-0: choose among greedy,"),
        ("methods = ['random-100']\n" + SMALL, "methods: random-100: choose among greedy,"),
        ("methods = ['word-list']\n" + SMALL, "[mask]: --method word-list: give --words"),
        ("methods = ['greedy']\n" + SMALL + "[methods.word-list]\n", "is not TOML: methods cannot be a list and have"),
        (SMALL + "[methods]\n", "methods: name at least one, each once"),
        (SMALL + "[methods]\ngreedy = true\n", "[methods]: greedy: True is not a table of options"),
        (SMALL + "[methods.best]\n", "methods: best: choose among greedy,"),
        (SMALL + "[methods.greedy]\nwords = 'sentiment'\n", "[methods.greedy]: --words sentiment: means nothing"),
        (SMALL + "[methods.greedy]\nthreshold = 'x'\n", "[methods.greedy]: threshold: 'x' is not a number"),
        (SMALL + "[methods.greedy]\nmask-rate = 2\n", "[methods.greedy]: --mask-rate 2.0: above 0, at most 1"),
        (SMALL + "[methods.greedy]\nword = 'x'\n", "[methods.greedy]: word: unknown key; did you mean words?"),
        (SMALL + "[methods.greedy]\nsampel = true\n", "[methods.greedy]: sampel: unknown key; did you mean sample?"),
        (SMALL + "[methods.greedy]\nlike = 'x'\n", "[methods.greedy]: like: is not for a recipe to set here"),
        (SMALL + "[methods.masker]\nmodel = 'x'\n", "[methods.masker]: model: is not for a recipe to set here"),
        (SMALL + "[methods.random-15]\nmask-rate = 0.2\n", "[methods.random-15]: mask-rate: is not for a recipe"),
        (SMALL + "[methods.greedy]\nsample = true\n", "[methods.greedy]: sample: greedy gives no probabilities to"),
        (SMALL + "[methods.greedy]\n[pretrain]\nsample = true\n", "[pretrain]: sample: greedy gives no prob"),
        (SMALL + "[methods.random-15]\nmask-schedule = '1'\n", "[methods.random-15]: --mask-schedule 1: two shares"),
        (SMALL.replace("[in-d", "encoding = 'cp1252'\n[in-d") + "[methods.log-odds]\n",
         "[methods.log-odds]: encoding: is cp1252 of [task], utf-8 of the corpus; both are read together"),
        (SMALL.replace("[in-d", "text-field = 'x'\n[in-d").replace("us.txt", "us.csv") + "[methods.log-odds]\n",
         "[methods.log-odds]: text-field: is x of [task], text of the corpus; both are read together"),
        ("methods = ['random']\n" + SMALL, "methods: random: choose among greedy, prefix, leave-one-out, masker"),
        ("methods = ['greedy']\n" + SMALL + "[train-masker]\n", "[train-masker]: is of no use without"),
        ("pretrain-each-seed = true\n" + SMALL + "[pretrain]\nseed = 1\n", "[pretrain] seed: pretrain-each-"),
        ("a = \n", "is not TOML: Invalid value (at line 1, column 5)"),
    ],
)  # fmt: skip
def test_refused_in_one_line(tmp_path, text, line):
    assert refused(tmp_path, text).startswith(line)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FastmaskError, match=r"none\.toml: cannot be read: No such file"):
        read_recipe(str(tmp_path / "none.toml"))


def test_steps_in_order(tmp_path):
    found = steps(tmp_path, SMALL)
    assert [(step.name, step.command) for step in found.values()] == [
        ("finetuned/none-1", "finetune"),
        ("task-masks", "score"),
        ("masker", "train-masker"),
        ("masks/masker", "score"),
        ("masks/masker-control", "score"),
        ("pretrained/masker-control", "pretrain"),
        ("pretrained/masker", "pretrain"),
        ("predicted/none-1", "predict"),
        ("finetuned/masker-control-1", "finetune"),
        ("predicted/masker-control-1", "predict"),
        ("finetuned/masker-1", "finetune"),
        ("predicted/masker-1", "predict"),
        *(
            (f"{kind}/{arm}-2", command)
            for arm in ("none", "masker-control", "masker")
            for kind, command in (("finetuned", "finetune"), ("predicted", "predict"))
        ),
        ("report", "evaluate"),
    ]
    assert_in_order(found)


def assert_in_order(found: dict):
    names = list(found)
    assert all(names.index(need) < names.index(name) for name, step in found.items() for need in step.needs)


def test_what_the_steps_are_told(tmp_path):
    found = steps(tmp_path, SMALL)
    task, masker, masks = found["task-masks"], found["masker"], found["masks/masker"]
    assert task.files == ("a.jsonl", "b.jsonl") and task.needs == ("finetuned/none-1",)
    assert (task.config.model, task.config.label_field) == ("o/finetuned/none-1", "class")
    assert masker.config.shards == ("o/task-masks",) and masker.config.init == "o/finetuned/none-1"
    assert masks.files == ("corpus.txt",) and masks.config.model == "o/masker" and masks.config.label_field == "label"
    control = found["masks/masker-control"].config
    assert control == ScoreConfig(method="random", model="o/masker", like="o/masks/masker")
    assert found["pretrained/masker-control"].config.shards == ("o/masks/masker-control",)
    assert found["pretrained/masker"].config.init == found["finetuned/none-2"].config.init == "m"
    tuned = found["finetuned/masker-2"]
    assert (tuned.config.init, tuned.config.seed, tuned.needs) == ("o/pretrained/masker", 2, ("pretrained/masker",))
    assert all(step.config.new_head for step in found.values() if step.command == "finetune")
    answers = found["predicted/masker-2"]
    assert (answers.config.model, answers.config.seed, answers.config.test) == ("o/finetuned/masker-2", 2, "test.jsonl")
    assert answers.needs == ("finetuned/masker-2",) and answers.files == ("test.jsonl",)
    # the answers may be the same by other masks and steps, which the report tells of, too
    assert {"masks/masker", "masks/masker-control", "pretrained/masker-control"} < set(found["report"].needs)
    report = found["report"].config
    assert report.arms[:3] == ("none=o/predicted/none-1", "none=o/predicted/none-2",
                               "masker-control=o/predicted/masker-control-1")  # fmt: skip
    assert (report.test, report.label_field, report.max_length) == ("test.jsonl", "class", 256)


def test_a_classifier_of_ones_own(tmp_path):
    found = steps(tmp_path, "methods = ['greedy']\n" + SMALL + "[score]\nmodel = 'mine'\n")
    assert list(found)[:2] == ["masks/greedy", "masks/greedy-control"] and "finetuned/none-1" in found
    assert found["masks/greedy"].config.model == "mine" and found["masks/greedy"].models == ("mine",)
    assert found["masks/greedy"].needs == ()
    assert_in_order(found)


def test_a_method_gets_the_model_that_it_asks(tmp_path):
    found = steps(tmp_path, "methods = ['entropy', 'gradient', 'masker']\n" + SMALL + "[score]\nmodel = 'mine'\n")
    init = found["pretrained/entropy"].config.init
    asked = {name: (found[f"masks/{name}"].config.model, found[f"masks/{name}"].models, found[f"masks/{name}"].needs)
             for name in ("entropy", "gradient", "masker")}  # fmt: skip
    assert asked == {"entropy": (init, (init,), ()), "gradient": ("mine", ("mine",), ()),
                     "masker": ("o/masker", (), ("masker",))}  # fmt: skip
    assert_in_order(found)


def test_pretraining_for_each_seed(tmp_path):
    found = steps(tmp_path, "methods = ['masker', 'greedy']\npretrain-each-seed = true\n" + SMALL)
    pretrained = {name: step.config.seed for name, step in found.items() if step.command == "pretrain"}
    arms = "masker-control", "masker", "greedy-control", "greedy"
    assert pretrained == {f"pretrained/{arm}-{seed}": seed for arm in arms for seed in (1, 2)}
    assert found["finetuned/greedy-2"].config.init == "o/pretrained/greedy-2"
    assert_in_order(found)


EVERY = (
    SMALL
    + """
[methods.greedy]
[methods.masker]
[methods.gradient]
mask-rate = 0.2
[methods.word-list]
words = "sentiment"
sample = true
mask-schedule = "0.3:0.1"
[methods.log-odds]
[methods.difference]
background = "general.txt"
[methods.entropy]
[methods.random-15]
[mask]
mask-rate = 0.1
stop-words = "none"
"""
)


def test_a_table_for_each_method(tmp_path):
    found = steps(tmp_path, EVERY)
    assert_in_order(found)
    arms = [name.removeprefix("masks/") for name, step in found.items() if name.startswith("masks/")]
    assert arms == [arm for name in ("greedy", "masker", "gradient", "word-list", "log-odds", "difference", "entropy")
                    for arm in (name, f"{name}-control")] + ["random-15"]  # fmt: skip
    masks = {arm: found[f"masks/{arm}"] for arm in arms}
    rates = {arm: step.config.mask_rate for arm, step in masks.items() if "control" not in arm}
    assert rates == dict.fromkeys(rates, 0.1) | {"gradient": 0.2, "random-15": 0.15}
    assert {step.config.stop_words for step in masks.values()} == {"none"}
    assert (masks["random-15"].config.method, masks["random-15"].models) == ("random", ("m",))
    assert masks["word-list"].config.words == "sentiment" and masks["difference"].config.background == ("general.txt",)
    assert all(step.config.model == "o/finetuned/none-1" for arm, step in masks.items() if arm in
               ("greedy", "gradient", "word-list", "log-odds", "difference"))  # fmt: skip
    assert masks["entropy"].config.model == "m" and masks["masker"].config.model == "o/masker"
    drawn = {arm: (found[f"pretrained/{arm}"].config.sample, found[f"pretrained/{arm}"].config.mask_schedule)
             for arm in arms}  # fmt: skip
    word_list = dict.fromkeys(("word-list", "word-list-control"), (True, "0.3:0.1"))
    assert drawn == dict.fromkeys(drawn, (False, None)) | word_list | {"random-15": (True, None)}


def test_log_odds_goes_by_the_labels_of_the_task(tmp_path):
    own = steps(tmp_path, EVERY)["masks/log-odds"].config
    assert (own.labelled, own.label_field) == (("a.jsonl", "b.jsonl"), "class")
    control = steps(tmp_path, EVERY)["masks/log-odds-control"].config
    assert control.labelled == () and control.like == "o/masks/log-odds"
    told = steps(tmp_path, SMALL + "[methods.log-odds]\nlabelled = 'mine.csv'\n")["masks/log-odds"].config
    assert (told.labelled, told.label_field) == (("mine.csv",), "label")
    texts = SMALL.replace("[in-d", "text-field = 'x'\n[in-d") + "[methods.log-odds]\n"
    assert steps(tmp_path, texts)["masks/log-odds"].config.text_field == "x"  # the corpus has no fields


def test_a_list_or_tables_without_options_are_one(tmp_path):
    listed = steps(tmp_path, "methods = ['greedy', 'random-15']\n" + SMALL)
    assert listed == steps(tmp_path, SMALL + "[methods.greedy]\n[methods.random-15]\n")
    assert listed["pretrained/random-15"].config.sample
    static = steps(tmp_path, SMALL + "[methods.random-15]\nsample = false\n")
    assert not static["pretrained/random-15"].config.sample


def test_a_method_may_have_a_model_of_its_own(tmp_path):
    found = steps(tmp_path, SMALL + "[methods.entropy]\nmodel = 'other'\n[methods.greedy]\n")
    assert (found["masks/entropy"].config.model, found["masks/entropy"].models) == ("other", ("other",))
    assert found["masks/entropy-control"].config.model == "other" and found["masks/greedy"].models == ()


def test_arms_in_the_order_of_the_recipe(tmp_path):
    arms = list(dict.fromkeys(arm.partition("=")[0] for arm in steps(tmp_path, EVERY)["report"].config.arms))
    assert arms[:3] == ["none", "greedy-control", "greedy"] and arms[-2:] == ["entropy", "random-15"]
