"""``push``: what is uploaded, what is refused, the card, and that ``datasets`` finds the shards by it."""

import fnmatch
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from datasets import load_dataset
from helpers import fastmask
from huggingface_hub import HfApi
from huggingface_hub.errors import HFValidationError, LocalTokenNotFoundError
from shard_samples import open_run, sample, write_run

from fastmask.core.errors import FastmaskError, OutputError
from fastmask.scoring.pushing import dataset_card, push
from fastmask.shards.reader import open_shards


class Hub:
    """A client that keeps each repository in a folder and notes what it was asked for."""

    def __init__(self, root: Path):
        self.root, self.asked = root, []

    def create_repo(self, repo_id, *, repo_type, private, exist_ok):
        self.asked.append((repo_id, repo_type, private, exist_ok))
        (self.root / repo_id).mkdir(parents=True, exist_ok=exist_ok)
        return f"https://hub/{repo_id}"

    def upload_folder(self, *, repo_id, repo_type, folder_path, allow_patterns, delete_patterns, commit_message):
        for old in [old for pattern in delete_patterns or () for old in (self.root / repo_id).glob(pattern)]:
            old.unlink()
        for file in Path(folder_path).rglob("*"):
            name = str(file.relative_to(folder_path))
            if file.is_file() and any(fnmatch.fnmatch(name, pattern) for pattern in allow_patterns):
                shutil.copy(file, self.root / repo_id / name)

    def file_exists(self, repo_id, filename, *, repo_type):
        return (self.root / repo_id / filename).exists()

    def upload_file(self, *, repo_id, repo_type, path_or_fileobj, path_in_repo, commit_message):
        (self.root / repo_id / path_in_repo).write_bytes(path_or_fileobj)


@pytest.fixture
def hub(tmp_path):
    return Hub(tmp_path / "hub")


def names_in(path: Path) -> set[str]:
    return {file.name for file in path.iterdir()}


def pushed(hub, out, private=False) -> Path:
    assert push(str(out), "me/masks", private=private, api=hub) == "https://hub/me/masks"
    return hub.root / "me/masks"


def test_shards_become_a_data_set_that_datasets_reads(hub, tmp_path, said):
    out = write_run(tmp_path / "out", 2)
    for name in (".fastmask.lock", "journal-1-of-2.ab.jsonl", ".x.fastmask-tmp", "notes.txt", "shard-x.parquet"):
        (out / name).write_bytes(b"x")
    repo = pushed(hub, out, private=True)
    assert hub.asked == [("me/masks", "dataset", True, True)]
    wanted = {"README.md", "_manifest.json", "shard-00000.parquet", "shard-00001.parquet"}
    assert wanted <= names_in(repo) <= wanted | {"_plan.json"}
    rows = load_dataset(str(repo), split="train", cache_dir=str(tmp_path / "cache"))
    shards = open_shards(out)
    assert len(rows) == len(shards) and rows[3]["mask_index"] == shards[3]["mask_index"]
    text = (repo / "README.md").read_text("utf-8")
    header = yaml.safe_load(text.split("---\n")[1])
    assert header["configs"] == [{"config_name": "default", "data_files": [{"split": "train",
                                  "path": "shard-*.parquet"}]}] and "license" not in header  # fmt: skip
    assert f"| rows | {len(shards):,} |" in text and "## License" in text
    # what somebody has added to the card stays
    (repo / "README.md").write_text("license: mine")
    pushed(hub, out)
    assert (repo / "README.md").read_text() == "license: mine" and "is kept" in said.messages[-1]


def test_the_card_says_how_sure_the_masks_are_and_escapes_names(tmp_path):
    manifest = open_shards(write_run(tmp_path / "out", 1)).manifest
    manifest["config"] |= {"method": "greedy", "threshold": 0.05}
    manifest["model"] = {"name": "a|<b>\n# c"}
    manifest["certificate"] = {"decisions": 1200, "eps": {"float32": 0.1}, "rechecked": {"float64": 12}}
    text = dataset_card(manifest)
    assert "| method | greedy |" in text and "| threshold | 0.0500 |" in text and "1,200 decisions" in text
    assert "| model | a\\|&lt;b&gt;\ufffd\\# c |" in text


def test_what_is_not_whole_is_refused(hub, tmp_path):
    with open_run(tmp_path / "begun") as run:
        run.write_shard(0, sample(0))
    damaged = write_run(tmp_path / "damaged", 1) / "shard-00000.parquet"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    for out in (tmp_path / "begun", damaged.parent):
        with pytest.raises(OutputError):
            pushed(hub, out)
    with pytest.raises(FastmaskError, match="no such directory"):
        pushed(hub, tmp_path / "nothing")
    assert hub.asked == []


def test_a_model_goes_with_its_card_and_without_what_is_left_over(hub, mr_tiny, tmp_path):
    out = tmp_path / "model"
    shutil.copytree(mr_tiny, out)
    names = names_in(out)
    for name in ("README.md", "run.json", ".fastmask-train.lock", "x.fastmask-tmp"):
        (out / name).write_text("x")
    (out / "checkpoint-00000002").mkdir()
    (out / "checkpoint-00000002" / "model.safetensors").write_text("x")
    with pytest.raises(FastmaskError, match="not finished"):
        pushed(hub, out)
    (out / "pretrain.json").write_text("{}")
    assert names_in(pushed(hub, out)) == names | {"README.md", "run.json", "pretrain.json"}
    assert hub.asked == [("me/masks", "model", False, True)]


class Refused(OSError):
    """What the client raises for an answer that is none."""

    def __init__(self, status: int):
        super().__init__(f"{status}\nand more")
        self.response = SimpleNamespace(status_code=status)


@pytest.mark.parametrize(("error", "line"), [
    (LocalTokenNotFoundError("x"), "hf auth login"), (Refused(401), "hf auth login"), (Refused(403), "HF_TOKEN"),
    (Refused(409), "refuses it: 409"), (HFValidationError("bad name"), "refuses it: bad name"),
    (OSError("x"), "could not be reached"),
])  # fmt: skip
def test_what_the_hub_says_is_one_line(error, line, tmp_path):
    def refuse(**_):
        raise error

    out = write_run(tmp_path / "out", 1)
    with pytest.raises(FastmaskError, match=line) as caught:
        pushed(SimpleNamespace(create_repo=refuse), out)
    assert str(caught.value).startswith("me/masks: ") and "\n" not in str(caught.value)


def test_without_a_network_and_without_a_finished_directory_the_end_is_one_line(tmp_path):
    out, nowhere = write_run(tmp_path / "out", 1), HfApi(endpoint="http://127.0.0.1:9", token=False)
    with pytest.raises(FastmaskError, match="could not be reached"):
        pushed(SimpleNamespace(create_repo=nowhere.create_repo), out)
    (out / "_manifest.json").unlink()
    done = fastmask("push", out, "me/masks")
    assert done.exit_code == 1 and done.stderr.startswith(f"fastmask: error: {out}") and done.stderr.count("\n") == 1
