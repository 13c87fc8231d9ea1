"""Everything that README and docs/ show, run from top to bottom in one folder that holds what it names."""

import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import fastmask, golden, write_jsonl
from transformers import BertConfig, BertForMaskedLM

from fastmask.shards.reader import open_shards
from fastmask.train.vocabulary import learn_wordpieces

ROOT = Path(__file__).parents[1]
DOCS = ("concepts", "score", "models", "shards", "look", "read", "python", "train", "compare", "gpus", "cluster",
        "faq", "other-tools")  # fmt: skip
PAGES = ("README.md", *(f"docs/{name}.md" for name in DOCS), "CONTRIBUTING.md")
"""In an order in which each finds what those before it have made."""


def blocks_of(page: str) -> list[tuple[str, str]]:
    """(kind, content) of each block of code on a page."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", (ROOT / page).read_text("utf-8"), re.DOTALL | re.MULTILINE)


BLOCKS = [block for page in PAGES for block in blocks_of(page)]
MARKDOWN = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("benchmarks/*.md"), *ROOT.glob("fastmask/**/*.md")]
SHORTER = {
    "--init bert-base-uncased -o my-classifier": "--init bert-base-uncased -o my-classifier --epochs 1",
    "--init my-classifier -o my-masker": "--init my-classifier -o my-masker --epochs 1",
    "max_steps=1000": "max_steps=2",
    "in stream:  # without end, epoch after epoch": "in [next(iter(stream))]:",
}
"""What takes long, or for ever, and what stands here for it."""
ELSEWHERE = {
    "fastmask run recipes/mr-yelp.toml": "a recipe is run in test_run.py",
    "fastmask score reviews.txt -o by-ray --engine ray --workers 2": "a cluster is started in test_ray.py",
}
ELSEWHERE_TOO = r"import ray|from pyspark"
"""Blocks with servers of their own are run in test_read_anywhere.py."""
TEXTS = ("reviews.txt", "in-domain.txt", "corpus.txt", "data/yelp/corpus.txt")
LABELLED = ("train.jsonl", "dev.jsonl", "test.jsonl", "reviews.jsonl", *(f"data/mr/{name}.jsonl" for name in
            ("train", "dev", "test")))  # fmt: skip
SHAPE = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}


@pytest.fixture
def folder(tmp_path, golden_dir, monkeypatch) -> Path:
    """A user's folder: texts, labelled texts, the recipes, and a small model by the name of a large one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    rows = [{"text": row["text"], "label": row["label"]} for row in golden(golden_dir, "mr_tiny_0.05")]
    for name in ("data/mr", "data/yelp"):
        (tmp_path / name).mkdir(parents=True)
    for name in TEXTS:
        (tmp_path / name).write_text("".join(row["text"] + "\n" for row in rows[:150]), "utf-8")
    (tmp_path / "news.txt").write_text("".join(row["text"] + "\n" for row in rows[150:]), "utf-8")
    for name in LABELLED:
        write_jsonl(tmp_path / name, rows[:40])
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes")
    torch.manual_seed(0)
    tokenizer = learn_wordpieces([row["text"] for row in rows], 400, 128)
    tokenizer.save_pretrained(tmp_path / "bert-base-uncased")
    BertForMaskedLM(BertConfig(vocab_size=len(tokenizer), **SHAPE)).save_pretrained(tmp_path / "bert-base-uncased")
    return tmp_path


def test_every_page_is_tried():
    assert {f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")} < set(PAGES)


def test_every_block_says_what_it_is():
    assert [kind for kind, _ in BLOCKS if kind not in ("sh", "python", "toml", "text")] == []
    assert [kind for kind, _ in BLOCKS].count("sh") >= 5 and [kind for kind, _ in BLOCKS].count("python") >= 3


def test_blocks_from_top_to_bottom(folder):
    """In the order of the pages, each on what those before it have left."""
    names, replaced, shown = {}, set(), []
    for kind, block in BLOCKS:
        for old, new in SHORTER.items():
            replaced |= {old} & {old if old in block else ""}
            block = block.replace(old, new)
        if kind == "python" and not re.search(ELSEWHERE_TOO, block):
            exec(compile(block, "<page>", "exec"), names)
        elif kind == "toml":
            (folder / "mine.toml").write_text(block, "utf-8")
            check("run", "mine.toml", "--dry-run")
        elif kind == "sh":
            for line in block.splitlines():
                shown += run_line(shlex.split(line, comments=True)).splitlines()
    assert replaced == set(SHORTER)
    check_trained(folder, names)
    picture, layout = (block.splitlines() for kind, block in BLOCKS if kind == "text")
    assert len(picture) == 3 and set(picture) <= set(shown)
    assert all((folder / line.split()[0]).is_file() for line in layout)


def run_line(words: list[str]) -> str:
    """Run, or else check, a line of a shell; return what it printed."""
    if words[0] == "fastmask" and shlex.join(words) not in ELSEWHERE:
        return check(*words[1:])
    if words[0] == "make":
        subprocess.run(["make", "--dry-run", words[1]], cwd=ROOT, check=True, capture_output=True)
    elif words[:2] == ["pip", "install"]:
        assert words[2:4] == ["-c", "constraints.txt"] and words[4].startswith(".")
        check_extras(words[4])
    else:
        assert words[0] == "fastmask", words
    return ""


def check(*words: str) -> str:
    done = fastmask(*words)
    assert done.exit_code == 0, (words, done.stderr)
    return done.stdout


def check_extras(place: str) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    assert set(re.findall(r"\w+", place)) <= set(extras)


def check_trained(folder: Path, names: dict) -> None:
    """What the blocks have left: models, rows, and a batch of the loop that a trainer of one's own has."""
    shards = open_shards(folder / "masks")
    assert len(names["frame"]) == len(list(names["rows"])) == sum(map(len, names["loader"])) == len(shards)
    assert names["masked"].item() == shards.manifest["totals"]["masked"]
    assert (folder / "adapted" / "model.safetensors").is_file() and names["trainer"].state.global_step == 2
    example, inputs = names["e"], names["inputs"]
    assert names["targets"].tolist() == example.input_ids[example.at].tolist()
    kept = inputs == example.input_ids
    assert not kept.all() and kept[np.setdiff1d(np.arange(len(inputs)), example.at)].all()
    assert np.isin(inputs[~kept], [*names["options"]["ordinary"], names["options"]["mask_id"]]).all()


def test_extras_in_the_text_are_there():
    text = "".join((ROOT / page).read_text("utf-8") for page in PAGES)
    named = re.findall(r"'\.(\[[\w,]+\])'", text) + [f"[{name}]" for name in re.findall(r"[Ee]xtra `(\w+)`", text)]
    assert len(named) >= 3
    for place in named:
        check_extras(place)


@pytest.mark.parametrize("page", sorted(path.relative_to(ROOT) for path in MARKDOWN), ids=str)
def test_links_lead_somewhere(page):
    """To a file of the repository, and to a heading in it where one is named."""
    for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", (ROOT / page).read_text("utf-8")):
        name, _, heading = link.partition("#")
        target = (ROOT / page).parent / name if name else ROOT / page
        assert target.exists(), link
        assert not heading or heading in headings_of(target), link


@pytest.mark.parametrize("page", ["ARCHITECTURE.md", "CONTRIBUTING.md"])
def test_files_that_are_named_are_there(page):
    folders = ("fastmask", "kernels", "tests", "benchmarks", "recipes")
    paths = [path.relative_to(ROOT) for folder in folders for path in (ROOT / folder).rglob("*")]
    known = tuple(f"/{path.with_suffix('')}" for path in paths)
    text = (ROOT / page).read_text("utf-8")
    named = re.findall(r"`([\w./]+)\.py`", text) + re.findall(r"[ \"](\w+/\w+)[,:\"]", text)  # the second in pictures
    missing = [name for name in named if not any(path.endswith(f"/{name}") for path in known)]
    assert len(named) >= 5 and [name for name in missing if "NAME" not in name] == []


def headings_of(page: Path) -> set[str]:
    """The names that links have for a page's headings."""
    found = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in found}
