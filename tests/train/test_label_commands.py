"""Labels as the commands meet them: score, finetune, evaluate and run read one file in one way, and say what is odd."""

import json
from pathlib import Path

import pytest
from helpers import fastmask, golden, refusal, rows_of, write_jsonl

from fastmask.core.config import ScoreConfig
from fastmask.experiment.doing import do
from fastmask.experiment.steps import Step
from fastmask.shards.writer import RunDirectory

pytestmark = pytest.mark.usefixtures("one_thread")
SCRATCH = ("--config", "small", "--vocab-size", 100, "--epochs", 1, "--batch-size", 4, "-q")


def labelled(path: Path, labels) -> str:
    rows = [{"text": f"a film of number {n}", "label": label} for n, label in enumerate(labels)]
    if path.suffix == ".csv":
        path.write_text("text,label\n" + "".join(f"{row['text']},{row['label']}\n" for row in rows))
        return str(path)
    return write_jsonl(path, rows)


def labels_of(corpus: str, model, out) -> list:
    result = fastmask("score", corpus, "--model", model, "-o", out, "-q")
    assert result.exit_code == 0, result.stderr
    return [row["label"] for row in rows_of(out)]


@pytest.fixture(scope="module")
def stars(tmp_path_factory) -> Path:
    """A folder with a model of classes 1, 2 and 3, named so on the command line."""
    folder = tmp_path_factory.mktemp("stars")
    train = labelled(folder / "train.csv", [1, 2, 3, 2])
    names = [word for name in "123" for word in ("--classes", name)]
    result = fastmask("finetune", train, "-o", folder / "model", *SCRATCH, *names)
    assert result.exit_code == 0, result.stderr
    return folder


def test_classes_whose_names_are_digits(stars, tmp_path):
    assert labels_of(str(stars / "train.csv"), stars / "model", tmp_path / "csv") == [0, 1, 2, 1]
    texts = labelled(tmp_path / "texts.jsonl", ["1", "2", "3", "2"])
    assert labels_of(texts, stars / "model", tmp_path / "jsonl") == [0, 1, 2, 1]
    for test in (stars / "train.csv", texts):
        assert fastmask("evaluate", "--arm", f"a={stars / 'model'}", "--test", test, "-q").exit_code == 0


def test_a_number_that_is_a_name_and_an_index_is_refused_by_all_commands(stars, tmp_path):
    numbers = labelled(tmp_path / "numbers.jsonl", [3, 2, 1])
    names = [word for name in "123" for word in ("--classes", name)]
    for command in (
        ("score", numbers, "--model", stars / "model", "-o", tmp_path / "masks", "-q"),
        ("evaluate", "--arm", f"a={stars / 'model'}", "--test", numbers, "-q"),
        ("finetune", numbers, "-o", tmp_path / "out", *SCRATCH, *names),
        ("finetune", numbers, "-o", tmp_path / "out", "--init", stars / "model", "--epochs", 1, "-q"),
    ):
        reason = '2 is the name of class 1 and the index of class "3"; the text "2" is the name'
        assert refusal(fastmask(*command)) == f'fastmask: error: {numbers}:2: field "label": {reason}'


def test_star_ratings_make_as_many_classes_as_there_are(tmp_path):
    train, model = labelled(tmp_path / "train.jsonl", [5, 1, 2.0, 4, 3, 1]), tmp_path / "model"
    result = fastmask("finetune", train, "-o", model, *SCRATCH[:-1])
    assert result.exit_code == 0, result.stderr
    assert "warning: the labels are not the numbers from 0 on: the classes are 1, 2, 3, 4, 5\n" in result.stderr
    assert json.loads((model / "metrics.json").read_text())["classes"] == ["1", "2", "3", "4", "5"]
    # the model remembers that numbers are names
    assert labels_of(train, model, tmp_path / "out") == [4, 0, 1, 3, 2, 0]
    assert fastmask("evaluate", "--arm", f"a={model}", "--test", train, "-q").exit_code == 0
    again = ("finetune", train, "--init", model, "-o", tmp_path / "again", "--epochs", 1, "-q")
    assert fastmask(*again).exit_code == 0
    assert labels_of(train, tmp_path / "again", tmp_path / "out2") == [4, 0, 1, 3, 2, 0]
    # names that the user gives are names of which numbers may be the index
    texts, names = labelled(tmp_path / "texts.csv", [1, 2]), ("--classes", 1, "--classes", 2)
    result = fastmask("finetune", texts, "--init", model, "-o", tmp_path / "other", "--epochs", 1, *names)
    assert result.exit_code == 0 and "warning" not in result.stderr
    numbers = labelled(tmp_path / "n.jsonl", [1])
    line = refusal(fastmask("score", numbers, "--model", tmp_path / "other", "-o", tmp_path / "n", "-q"))
    assert '1 is the name of class 0 and the index of class "2"' in line
    (tmp_path / "zero.csv").write_text("text,label\nx,0\n")
    line = refusal(fastmask("score", tmp_path / "zero.csv", "--model", model, "-o", tmp_path / "zero", "-q"))
    assert line.endswith('zero.csv:2: field "label": label "0" is not one of the classes: 1, 2, 3, 4, 5')


def test_a_class_that_no_training_row_has_is_said(mr_tiny, tmp_path):
    train = labelled(tmp_path / "train.csv", ["Positive", 1])
    result = fastmask("finetune", train, "--init", mr_tiny, "-o", tmp_path / "model", "--epochs", 1)
    assert result.exit_code == 0 and "warning: no training row has the class negative\n" in result.stderr


def test_classes_that_take_the_head_of_others_are_said(mr_tiny, tmp_path):
    command = ("finetune", labelled(tmp_path / "a.csv", ["up", "down"]), "--init", mr_tiny, "--epochs", 1)
    said = "warning: the head was trained for other classes: negative, positive become down, up; --new-head draws "
    said += "another\n"
    assert said in fastmask(*command, "-o", tmp_path / "a").stderr
    assert "other classes" not in fastmask(*command, "-o", tmp_path / "b", "--new-head").stderr


def test_rows_that_training_skips_are_counted(mr_tiny, tmp_path):
    (tmp_path / "a.csv").write_text('text,label\ngood,1\n"open,0\nbad,0\nx,y,z\n')
    command = ("finetune", tmp_path / "a.csv", "--init", mr_tiny, "-o", tmp_path / "a", "--epochs", 1)
    said = f'2 rows skipped, the first: {tmp_path}/a.csv:3: field "text": a quotation mark opens here and is not closed'
    assert f"warning: {said}\n" in fastmask(*command, "--on-error", "skip").stderr


def test_names_without_regard_to_case(mr_tiny, tmp_path):
    corpus = labelled(tmp_path / "a.csv", ["Positive", "NEGATIVE", "1.0", "0"])
    assert labels_of(corpus, mr_tiny, tmp_path / "out") == [1, 0, 1, 0]
    names = ("--classes", "negative", "--classes", "positive")
    assert fastmask("finetune", corpus, "-o", tmp_path / "model", *SCRATCH, *names).exit_code == 0
    assert fastmask("evaluate", "--arm", f"a={mr_tiny}", "--test", corpus, "-q").exit_code == 0


def test_minus_one_is_no_label(mr_tiny, tmp_path):
    corpus = labelled(tmp_path / "a.jsonl", [1, -1, None])
    assert labels_of(corpus, mr_tiny, tmp_path / "out") == [1, None, None]
    for command in (
        ("finetune", corpus, "-o", tmp_path / "model", *SCRATCH),
        ("finetune", corpus, "-o", tmp_path / "model", "--init", mr_tiny, "-q"),
        ("evaluate", "--arm", f"a={mr_tiny}", "--test", labelled(tmp_path / "b.csv", [1, -1]), "-q"),
    ):
        line = refusal(fastmask(*command))
        assert (
            line.split("/")[-1].split(":", 1)[1].split(": ", 1)[0] in ("2", "3") and 'field "label": no label' in line
        )


def test_a_label_field_that_is_nowhere(mr_tiny, tmp_path):
    corpus = labelled(tmp_path / "a.jsonl", [1, 0])
    for command in (
        ("score", corpus, "--model", mr_tiny, "-o", tmp_path / "out"),
        ("finetune", corpus, "-o", tmp_path / "out", *SCRATCH[:-1]),
        ("evaluate", "--arm", f"a={mr_tiny}", "--test", corpus),
    ):
        line = refusal(fastmask(*command, "--label-field", "stars", "-q"))
        assert line == f'fastmask: error: {corpus}: field "stars": no input has such a column or key'
    # a recipe says so before its first step, also of the file that its last one reads
    (tmp_path / "a.txt").write_text("a film\n")
    (tmp_path / "stars.csv").write_text("text,stars\nx,1\n")
    files = f'train = "{tmp_path}/stars.csv"\ntest = "{corpus}"'
    (tmp_path / "r.toml").write_text(
        f'out = "{tmp_path}/run"\ninit = "{mr_tiny}"\n[task]\n{files}\nlabel-field = "stars"\n'
        f'[in-domain]\ncorpus = "{tmp_path}/a.txt"\n'
    )
    line = refusal(fastmask("run", tmp_path / "r.toml", "-q"))
    assert line == f'fastmask: error: {corpus}: field "stars": no input has such a column or key'


@pytest.fixture(scope="module")
def rows(golden_dir) -> list[dict]:
    """Ten texts with their class, of which the model gets each right."""
    right = [row for row in golden(golden_dir, "mr_tiny_0.05") if [s["correct"] for s in row["sentences"]] == [True]][
        :10
    ]
    return [{"text": row["text"], "label": row["label"]} for row in right]


WARNING = (
    "{}: misclassified, and so without masks: {} of 10 labelled sentences; labels and classes probably do not match"
)


def flipped(rows: list[dict], wrong: int) -> list[dict]:
    return [{**row, "label": 1 - row["label"]} if n < wrong else row for n, row in enumerate(rows)]


def options(mr_tiny) -> tuple:
    return ("--model", mr_tiny, "--segment", "line", "--shard-rows", 4)


@pytest.mark.parametrize("wrong", [8, 9])
def test_labels_that_do_not_match_the_classes(rows, wrong, mr_tiny, tmp_path):
    unlabelled = [{"text": row["text"]} for row in rows]  # which count for nothing
    corpus, out = write_jsonl(tmp_path / "a.jsonl", [*flipped(rows, wrong), *unlabelled]), tmp_path / "out"
    for _ in range(2):  # a finished run says it, too
        result = fastmask("score", corpus, "-o", out, *options(mr_tiny))
        assert result.exit_code == 0
        assert (WARNING.format(out, wrong) in result.stderr.splitlines()[-1]) == (wrong == 9)
    for manner in ("--like", "--control"):
        more = ("--method", "random", "--like", out) if manner == "--like" else ("--control", tmp_path / "c")
        result = fastmask("score", corpus, "-o", tmp_path / manner, *options(mr_tiny), *more, "-q")
        assert result.stderr.count("misclassified") == (wrong == 9 and manner == "--control")


def test_a_resumed_run_counts_what_was_there(rows, mr_tiny, tmp_path, monkeypatch):
    corpus, out = write_jsonl(tmp_path / "a.jsonl", flipped(rows, 10)), tmp_path / "out"
    write = RunDirectory.write_shard

    def two_shards(self, index, scored):
        if index == 2:
            raise KeyboardInterrupt
        return write(self, index, scored)

    with monkeypatch.context() as patch:
        patch.setattr(RunDirectory, "write_shard", two_shards)
        assert fastmask("score", corpus, "-o", out, *options(mr_tiny)).exit_code == 130
    result = fastmask("score", corpus, "-o", out, *options(mr_tiny))
    assert "resuming after 8 rows" in result.stderr and WARNING.format(out, 10) in result.stderr


def test_a_recipe_says_it_too(rows, mr_tiny, tmp_path, said):
    corpus = write_jsonl(tmp_path / "a.jsonl", flipped(rows, 10))
    step = Step("masks", "score", ScoreConfig(model=mr_tiny, segment="line"), (corpus,))
    place = tmp_path / "run" / "masks"
    do(step, place, place, overwrite=False)
    last = said.records[-1]
    assert WARNING.format(tmp_path / "run" / "masks", 10) in f"warning: {last.message}" and last.levelname == "WARNING"


def test_aspects_that_do_not_match_the_classes(restaurant_tiny, tmp_path):
    texts = ["The food was great .", "The staff was rude .", "The wine is fine ."]
    aspects = [[("food", "negative")], [("staff", "positive"), ("rude", "positive")], []]
    rows = [{"text": text, "aspects": [{"term": term, "polarity": polarity} for term, polarity in each]}
            for text, each in zip(texts, aspects, strict=True)]  # fmt: skip
    result = fastmask(
        "score", write_jsonl(tmp_path / "a.jsonl", rows), "-o", tmp_path / "out", "--model", restaurant_tiny
    )
    assert "misclassified, and so without masks: 2 of 2 labelled sentences" in result.stderr


# --- where the shards go when nobody says ---


@pytest.mark.parametrize("name", ["corpus.txt", "my.corpus.JSONL.gz"])
def test_shards_lie_where_the_user_is(name, rows, mr_tiny, tmp_path, monkeypatch):
    import gzip

    folder, here = tmp_path / "data", tmp_path / "here"
    folder.mkdir()
    here.mkdir()
    texts = [row["text"] if name.endswith("txt") else json.dumps(row) for row in rows]
    content = ("\n".join(texts) + "\n").encode()
    (folder / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    monkeypatch.chdir(here)
    out = "corpus.masks" if name.endswith("txt") else "my.corpus.masks"
    command = ("score", folder / name, *options(mr_tiny), "--control", "twin")
    result = fastmask(*command)
    assert result.exit_code == 0 and f"writing to {out}\n" in result.stderr
    assert sorted(path.name for path in here.iterdir()) == [out, "twin"] and len(rows_of(out)) == 10
    result = fastmask(*command)
    assert result.exit_code == 0 and f"{out} is complete for this configuration; nothing to do" in result.stderr
    line = refusal(fastmask(*command[:-1], out, "-q"))
    assert line == f"fastmask: error: --control {out}: is the directory of --out"


@pytest.mark.parametrize("options", [(), ("--model", "./nowhere"), ("--threshold", 3), ("--label-field", "stars")])
def test_what_is_refused_writes_nowhere(options, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if options:
        (tmp_path / "a.txt").write_text("a film\n")
    assert "writing" not in refusal(fastmask("score", "a.txt", *options))
    assert not (tmp_path / "a.masks").exists()


@pytest.mark.parametrize(("paths", "what"), [(["a.txt", "b.txt"], "2 inputs"), (["-"], "standard input")])
def test_inputs_that_name_no_directory(paths, what):
    assert refusal(fastmask("score", *paths)) == f"fastmask: error: {what}: name the directory of the shards by -o DIR"
