"""``fastmask run`` as a user runs it: the whole pipeline on real text, what is skipped, changed, killed and refused."""

import hashlib
import json
import re
import signal
import subprocess
from pathlib import Path

import pytest
import torch
from helpers import fastmask, golden, held, kill_held, process, refusal, write_jsonl

from fastmask.core.config_train import FinetuneConfig
from fastmask.experiment.run import Run
from fastmask.train.prepare import build_task

RECIPE = """
out = "run"
init = "{model}"
seeds = [1, 2]
pretrain-each-seed = {each}

[task]
train = "train.jsonl"
test = "test.jsonl"

[in-domain]
corpus = "corpus.txt"

[finetune]
epochs = 1

[train-masker]
epochs = 1
lr = 1e-3

[pretrain]
max-steps = 3
batch-size = 8
lr = {lr}
save-every = 2
"""


def write(directory: Path, model, golden_dir, lr=1e-4, each="false") -> Path:
    directory.mkdir(exist_ok=True)
    rows = [{"text": row["text"], "label": row["label"]} for row in golden(golden_dir, "mr_tiny_0.05")]
    write_jsonl(directory / "train.jsonl", rows[:48])
    write_jsonl(directory / "test.jsonl", rows[48:98])
    (directory / "corpus.txt").write_text("".join(row["text"] + "\n" for row in rows[98:140]), "utf-8")
    (directory / "r.toml").write_text(RECIPE.format(model=model, lr=lr, each=each), "utf-8")
    return directory


@pytest.fixture(scope="module")
def done(tmp_path_factory, mr_tiny, golden_dir) -> tuple[Path, subprocess.CompletedProcess]:
    directory = write(tmp_path_factory.mktemp("run") / "a", mr_tiny, golden_dir)
    return directory, process("run", "r.toml", cwd=directory)


def made(directory: Path) -> dict[str, bytes]:
    """Models, masks and the report of a run, which depend on the recipe alone."""
    wanted = ("*/*/model.safetensors", "masker/model.safetensors", "**/*.parquet", "report/report.json")
    return {str(path.relative_to(directory)): path.read_bytes()
            for pattern in wanted for path in sorted((directory / "run").glob(pattern))}  # fmt: skip


def states(directory: Path, monkeypatch) -> dict[str, str]:
    monkeypatch.chdir(directory)
    return {planned.step.name: planned.state for planned in Run("r.toml").plan()}


def test_the_plan_needs_no_extra(tmp_path, mr_tiny, golden_dir, monkeypatch):
    """Without scipy and matplotlib the steps can be seen; doing them is refused before anything is made."""
    monkeypatch.chdir(write(tmp_path / "plain", mr_tiny, golden_dir))
    monkeypatch.setattr("fastmask.experiment.run.find_spec", lambda name: None)
    shown = fastmask("run", "r.toml", "--dry-run")
    assert shown.exit_code == 0 and "pretrained/masker" in shown.stdout, shown.stderr
    assert "needs scipy; pip install 'fastmask[evaluate]'" in refusal(fastmask("run", "r.toml", "-q"))
    assert not Path("run").exists()


def test_the_whole_pipeline(done):
    directory, result = done
    assert result.returncode == 0, result.stderr
    report = json.loads((directory / "run/report/report.json").read_text())
    assert list(report["arms"]) == ["none", "masker-control", "masker"] and report["seeds"] == 2
    work = report["pretraining"]["masker"]
    assert work["every_step_equal"] and work["runs"] == 1
    assert work["selective"] == work["control"] and work["selective"]["steps"] == 3
    assert (directory / "run/report/report.svg").read_text().startswith("<?xml")
    shown = " ".join(result.stdout.split())  # lines are wrapped
    assert "masker - random, as many" in shown and "as many of each in every step" in shown
    assert "no pre-training" in shown and "masker-control" not in result.stdout.split("2 seeds", 1)[1]
    assert "Whether masker is better than as many random masks, this run cannot tell: " in shown
    assert "2 seeds cannot tell a difference from chance in training: take 3 at least" in shown and "p = " not in shown
    places = dict(line.split(": ") for line in result.stdout.splitlines()[-3:])
    assert places == {"report": "run/report/report.json", "page": "run/report/index.html",
                      "picture": "run/report/report.svg"}  # fmt: skip
    links = re.findall(r'href="([^#"]+\.\w+)"', (directory / places["page"]).read_text())
    assert links == ["masker-control.html", "masker.html", "report.json", "report.svg"]
    assert 'Beside <span class="name">masker-control</span>' in (directory / "run/report/masker.html").read_text()
    assert all((directory / "run/report" / name).is_file() for name in links)
    assert result.stdout.split()[:3] == ["step", "command", "state"]
    assert "[19/19] report: evaluate" in result.stderr


def head_of(directory: Path, init) -> dict:
    config = FinetuneConfig(train=(str(directory / "train.jsonl"),), out="", init=str(init), new_head=True, seed=7)
    model = build_task(config).model
    return {name: parameter for name, parameter in model.named_parameters() if "encoder" not in name and
            "embeddings" not in name}  # fmt: skip


def test_arms_start_from_one_head(done, mr_tiny):
    """Of a classifier, which has a head already, and of a model that pre-training left without one."""
    directory, _ = done
    own, bare = head_of(directory, mr_tiny), head_of(directory, directory / "run/pretrained/masker")
    assert set(own) == {"bert.pooler.dense.weight", "bert.pooler.dense.bias", "classifier.weight", "classifier.bias"}
    assert all(torch.equal(own[name], bare[name]) for name in own)
    assert 0.015 < own["bert.pooler.dense.weight"].std() < 0.025 and not own["classifier.bias"].any()


def test_a_second_run_does_nothing(done, monkeypatch):
    directory, result = done
    assert set(states(directory, monkeypatch).values()) == {"complete"}
    times = {path: path.stat().st_mtime_ns for path in directory.rglob("*") if path.is_file()}
    again = fastmask("run", "r.toml")
    assert again.exit_code == 0 and again.stderr == ""
    assert again.stdout.replace("complete", "").split("2 seeds", 1)[1] == result.stdout.split("2 seeds", 1)[1]
    assert {path: path.stat().st_mtime_ns for path in directory.rglob("*") if path.is_file()} == times


def test_a_warning_is_said_again(done, monkeypatch):
    monkeypatch.chdir(done[0])
    monkeypatch.setattr(
        "fastmask.experiment.doing.label_warnings", lambda out, manifest: [f"{out}: {manifest['totals']['rows']}"]
    )
    assert fastmask("run", "r.toml").stderr.splitlines()[0].startswith("warning: run/task-masks: ")
    assert fastmask("run", "r.toml", "-q").stderr == ""


def test_shards_of_before_the_manifest_was_renamed(copy, monkeypatch):
    for path in copy.rglob("_manifest.json"):
        path.rename(path.with_name("manifest.json"))
    with (copy / "r.toml").open("a") as recipe:
        recipe.write('track = "tensorboard"\n')  # changes no model
    assert set(states(copy, monkeypatch).values()) == {"complete"}
    held_out = copy / "run/masks/masker"
    with (copy / "r.toml").open("a") as recipe:
        recipe.write(f'eval = ["{held_out}"]\n')
    (read,) = {str(Run("r.toml").ledger.read_by(step)["shards"]) for step in Run("r.toml").steps if step.shards}
    assert hashlib.sha256((held_out / "manifest.json").read_bytes()).hexdigest() in read


def test_quiet_shows_the_comparison_alone(done, monkeypatch):
    monkeypatch.chdir(done[0])
    result = fastmask("run", "r.toml", "-q")
    assert result.stdout.startswith("2 seeds, 50 test rows") and result.stderr == ""


def test_killed_anywhere_it_goes_on_to_the_same(done, tmp_path, mr_tiny, golden_dir):
    directory = write(tmp_path / "b", mr_tiny, golden_dir)
    for sign in ("*/.none-1.new-*/metrics.json", "*/pretrained/masker/log.jsonl"):
        child = held(sign, 1, "run", "r.toml", "-q", cwd=directory)
        kill_held(child)
        assert child.returncode == -signal.SIGKILL
    assert process("run", "r.toml", "-q", cwd=directory).returncode == 0
    assert made(directory) == made(done[0])


@pytest.fixture
def copy(done, tmp_path):
    """A finished run that may be changed."""
    assert subprocess.run(["cp", "-a", str(done[0]), str(tmp_path / "c")], check=True).returncode == 0
    return tmp_path / "c"


def test_a_change_is_refused_then_made_with_what_follows(copy, monkeypatch, mr_tiny, golden_dir):
    before = made(copy)
    write(copy, mr_tiny, golden_dir, lr=2e-4)
    found = states(copy, monkeypatch)
    assert [name for name, state in found.items() if state == "to do again"] == [
        "pretrained/masker-control", "pretrained/masker"]  # fmt: skip
    line = refusal(fastmask("run", "r.toml", "-q")).removeprefix("fastmask: error: run/pretrained/masker-control: ")
    assert line == ("was made otherwise: --lr was 0.0001, is now 0.0002 (--overwrite makes it, and what follows from "
                    "it, again)")  # fmt: skip
    assert made(copy) == before
    with monkeypatch.context() as patch:  # the old output stays until the new one is made
        patch.setattr("fastmask.train.run_directory.TrainingRun.finish", lambda *_: 1 / 0)
        assert fastmask("run", "r.toml", "-q", "--overwrite").exit_code == 1
    assert made(copy) == before and (copy / "run/pretrained/.masker-control.begun/checkpoint-00000003").is_dir()
    assert states(copy, monkeypatch)["pretrained/masker-control"] == "begun"
    assert fastmask("run", "r.toml", "-q", "--overwrite").exit_code == 0
    assert not list(copy.rglob("*.begun"))
    changed = {name.split("/")[2] for name, data in made(copy).items() if data != before[name] and "/" in name[4:]}
    assert {"masker", "masker-control", "masker-1", "masker-2", "masker-control-1", "masker-control-2"} <= changed
    assert not {"none-1", "none-2"} & changed


def test_another_text_is_noticed(copy, monkeypatch):
    text = (copy / "corpus.txt").read_text()
    (copy / "corpus.txt").write_text(text + "one more line\n", "utf-8")
    found = states(copy, monkeypatch)
    assert found["masker"] == "complete" and found["masks/masker"] == "to do again"
    assert found["pretrained/masker"] == found["report"] == "to do"
    assert "run/masks/masker: was made otherwise: files[0].corpus.txt was" in refusal(fastmask("run", "r.toml", "-q"))
    (copy / "corpus.txt").write_text(text, "utf-8")
    assert set(states(copy, monkeypatch).values()) == {"complete"}


def test_the_order_of_files_counts(copy, monkeypatch):
    (copy / "more.txt").write_text("one more line\n", "utf-8")
    recipe = copy / "r.toml"
    text = recipe.read_text()
    recipe.write_text(text.replace('"corpus.txt"', '["more.txt", "corpus.txt"]'))
    monkeypatch.chdir(copy)
    assert Run("r.toml").ledger.read_by(Run("r.toml").steps[3])["files"][1].keys() == {"corpus.txt"}
    assert states(copy, monkeypatch)["masks/masker"] == "to do again"
    recipe.write_text(text.replace('"train.jsonl"', '["train.jsonl", "train.jsonl"]'))
    assert states(copy, monkeypatch)["finetuned/none-1"] == "to do again"


def test_what_is_lost_is_made_again(copy, monkeypatch):
    before = made(copy)
    (copy / "run/finetuned/masker-2/model.safetensors").unlink()
    (copy / "run/pretrained/masker-control/pretrain.json").unlink()
    subprocess.run(["rm", "-r", str(copy / "run/finetuned/masker-1"), str(copy / "run/report/report.json")], check=True)
    found = states(copy, monkeypatch)
    assert {name for name, state in found.items() if state != "complete"} == {
        "pretrained/masker-control", "finetuned/masker-control-1", "finetuned/masker-control-2",
        "finetuned/masker-1", "finetuned/masker-2", "report",
        *(f"predicted/{arm}-{seed}" for arm in ("masker", "masker-control") for seed in (1, 2))}  # fmt: skip
    result = fastmask("run", "r.toml")
    assert result.exit_code == 0 and made(copy) == before
    assert "finetuned/masker-control-1: finetune" not in result.stderr  # the same came out of what it needs


def test_what_was_changed_behind_the_run_is_refused(copy, monkeypatch):
    manifest = copy / "run/masks/masker/_manifest.json"
    text = manifest.read_text()
    manifest.write_text(text + " ")
    assert states(copy, monkeypatch)["masks/masker"] == "to do again"
    line = refusal(fastmask("run", "r.toml", "-q"))
    assert "run/masks/masker: was made otherwise: its files are not those that were made (--overwrite" in line
    manifest.write_text(text)
    weights = copy / "run/finetuned/none-2/model.safetensors"
    data = weights.read_bytes()
    weights.write_bytes(data)  # another time, the same content
    assert set(states(copy, monkeypatch).values()) == {"complete"}
    weights.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert states(copy, monkeypatch)["finetuned/none-2"] == "to do again"


def test_a_seed_more_adds_its_runs_and_compares_again(copy, monkeypatch):
    recipe = copy / "r.toml"
    recipe.write_text(recipe.read_text().replace("[1, 2]", "[1, 2, 3]"))
    before = made(copy)
    found = states(copy, monkeypatch)
    assert {name for name, state in found.items() if state != "complete"} == {
        *(f"{step}/{arm}-3" for step in ("finetuned", "predicted") for arm in ("none", "masker-control", "masker")),
        "report"}  # fmt: skip
    assert fastmask("run", "r.toml", "-q").exit_code == 0
    assert json.loads((copy / "run/report/report.json").read_text())["seeds"] == 3
    assert all(made(copy)[name] == data for name, data in before.items() if "report" not in name)


def test_a_refusal_comes_before_any_work(copy, monkeypatch):
    """Masks of another method would take days; the other change is refused first."""
    recipe = copy / "r.toml"
    recipe.write_text("methods = ['masker', 'greedy']\n" + recipe.read_text().replace("lr = 0.0001", "lr = 0.0003"))
    monkeypatch.chdir(copy)
    assert "--lr was 0.0001, is now 0.0003" in refusal(fastmask("run", "r.toml", "-q"))
    assert not (copy / "run/masks/greedy").exists()


def test_a_run_may_be_moved(copy, monkeypatch):
    (copy / "run").rename(copy / "new[1]")
    (copy / "r.toml").write_text((copy / "r.toml").read_text().replace('"run"', '"new[1]"'))
    found = states(copy, monkeypatch)
    assert {name for name, state in found.items() if state != "complete"} <= {"report"}
    (copy / "new[1]/report/report.json").unlink()
    result = fastmask("run", "r.toml", "-q")
    assert result.exit_code == 0, result.stderr


def test_dry_run_writes_nothing(tmp_path, mr_tiny, golden_dir, monkeypatch):
    monkeypatch.chdir(write(tmp_path / "d", mr_tiny, golden_dir, each="true"))
    result = fastmask("run", "r.toml", "--dry-run")
    assert result.exit_code == 0 and result.stdout.count("to do") == 21
    assert not Path("run").exists()


def test_refused_before_anything_is_done(tmp_path, mr_tiny, golden_dir, monkeypatch):
    directory = write(tmp_path / "e", mr_tiny, golden_dir)
    monkeypatch.chdir(directory)
    (directory / "test.jsonl").rename("other.jsonl")
    assert refusal(fastmask("run", "r.toml")).startswith("fastmask: error: test.jsonl: no such file")
    (directory / "other.jsonl").rename("test.jsonl")
    text = (directory / "r.toml").read_text()
    (directory / "r.toml").write_text(text.replace(mr_tiny, "./nowhere"))
    assert refusal(fastmask("run", "r.toml")).endswith("./nowhere: no such model directory")
    (directory / "r.toml").write_text(text)
    (directory / "run").mkdir()
    (directory / "run/thesis.txt").write_text("precious")
    assert "run: is there already, and no run of a recipe" in refusal(fastmask("run", "r.toml"))
    assert [path.name for path in (directory / "run").iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(("label", "reason"), [
    ("mixed", 'label "mixed" is not one of the classes: negative, positive'), (-1, "no label (none, empty or -1)"),
    (None, "no label (none, empty or -1)"),
])  # fmt: skip
def test_labels_of_the_test_file_are_looked_at_first(label, reason, tmp_path, mr_tiny, golden_dir, monkeypatch):
    monkeypatch.chdir(write(tmp_path / "g", mr_tiny, golden_dir))
    write_jsonl(Path("test.jsonl"), [{"text": "a film", "label": 1}, {"text": "a film", "label": label}])
    line = refusal(fastmask("run", "r.toml", "-q"))
    assert line.startswith(f'fastmask: error: test.jsonl:2: field "label": {reason}')
    assert not list(Path("run").glob("*/*"))


def test_two_at_a_time_are_refused(done, monkeypatch):
    monkeypatch.chdir(done[0])
    with Run("r.toml"):
        assert "run: another fastmask run is writing here" in refusal(fastmask("run", "r.toml", "-q"))


def test_aspects(tmp_path, restaurant_tiny, golden_dir, monkeypatch):
    directory = write(tmp_path / "f", restaurant_tiny, golden_dir)
    rows = [{"text": row["text"], "aspects": [{"term": a["term"], "polarity": a["polarity"]} for a in row["aspects"]]}
            for row in golden(golden_dir, "restaurant_tiny_0.05")]  # fmt: skip
    write_jsonl(directory / "train.jsonl", rows[:60])
    write_jsonl(directory / "test.jsonl", rows[60:100])
    recipe = (directory / "r.toml").read_text("utf-8")
    (directory / "r.toml").write_text(recipe.replace("[1, 2]", "[1]") + "[score]\nmodel = '" + restaurant_tiny + "'\n")
    monkeypatch.chdir(directory)
    assert fastmask("run", "r.toml", "-q").exit_code == 0
    report = json.loads(Path("run/report/report.json").read_text())
    pairs = sum(aspect["polarity"] != "conflict" for row in rows[60:100] for aspect in row["aspects"])
    assert report["rows"] == pairs and report["pretraining"]["masker"]["every_step_equal"]
