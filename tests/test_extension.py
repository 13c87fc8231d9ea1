"""Whatever there are several of - methods, export formats, families - is added by one file and a line in a registry."""

import ast
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from textwrap import dedent

import numpy as np
import pytest
import torch
from helpers import fastmask
from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification, ErnieConfig

from fastmask import ScoreConfig, score_corpus
from fastmask.core.config import EXPORT_FORMATS, METHODS, ExportConfig
from fastmask.core.records import PackedBatch
from fastmask.data.exporting import export_shards
from fastmask.experiment.recipe import read_recipe
from fastmask.experiment.steps import steps_of
from fastmask.models.encoder import PackedEncoder, build_encoder
from fastmask.models.family import FAMILIES
from fastmask.models.mlm_model import MaskedLoss, Part
from fastmask.models.trainable import class_logits, enable_packing, pack

NAMES = {*METHODS, *FAMILIES, *EXPORT_FORMATS}
REGISTRIES = {"core/config.py", "models/family.py"}
FOLDERS = ("scoring/methods/", "models/families/", "data/export/")
# Defaults, the name of the step that trains a masker, and a column's title.
DEFAULTS = {("scoring/api.py", "greedy"), ("experiment/recipe.py", "masker"), ("experiment/steps.py", "masker")}
DEFAULTS |= {("report/comparison.py", "difference")}

TOY_FORMAT = """
    from fastmask.core.durable import write_atomically
    from fastmask.data.exporting import Format

    class Toy(Format):
        def write(self, folder, index, table):
            write_atomically(folder / f"{index}.toy", table["input_ids"].tobytes())
            return len(table)

        def finish(self, folder, files):
            write_atomically(folder / "counts", repr(files).encode())

    FORMAT = Toy()
"""


TOY_METHOD = """
    import numpy as np
    from fastmask.core.records import ScoredSentences
    from fastmask.scoring.method import Method
    from fastmask.scoring.policy import ragged_positions

    class Toy(Method):
        '''Masks every second token, and scores each by its id.'''
        asks_model, keeps_other_labels, large_is_important = False, True, True

        def without_model(self, config, tokenizer, progress):
            return Masks()

    class Masks:
        remark, levels = None, ()

        def calibrate(self, shards):
            return None

        def score(self, shard, bounds):
            n = len(shard)
            position = np.arange(len(shard.input_ids)) - np.repeat(shard.offsets[:-1], np.diff(shard.offsets))
            return ScoredSentences(
                shard, np.full(n, -1, np.int32), np.full(n, np.nan, np.float32), shard.input_ids.astype(np.float32),
                np.ones(n, bool), *ragged_positions(shard.offsets, position % 2 == 0),
            )

        def identity(self):
            return {"like": None}

        def describe(self):
            return {"device": "cpu", "kernels": "none"}

        def stop(self):
            pass

    METHOD = Toy()
"""


TOY_FAMILY = """
    from fastmask.models.families.bert import LAYER
    from fastmask.models.family import Family, Names

    class Toy(Family):
        names = Names("ernie", "encoder.layer", LAYER, "ernie.pooler.dense", "tanh", "classifier", ("cls.",))

        def class_logits(self, model, first):
            return model.classifier(model.dropout(model.ernie.pooler(first[:, None])))

        def vocabulary_logits(self, model, hidden):
            return model.cls(hidden)

    FAMILY = Toy()
"""


@pytest.fixture
def add(tmp_path, monkeypatch):
    """Add the file ``toy.py`` to a package, and a line to its registry."""

    def added(package: str, registry: dict, source: str, name: str = "toy") -> None:
        folder = tmp_path / package
        folder.mkdir()
        (folder / "toy.py").write_text(dedent(source))
        monkeypatch.setattr(import_module(package), "__path__", [*import_module(package).__path__, str(folder)])
        monkeypatch.delitem(__import__("sys").modules, f"{package}.toy", raising=False)
        monkeypatch.setitem(registry, name, "toy")

    return added


def test_nothing_else_names_one():
    root, found = Path(import_module("fastmask").__file__).parent, set()
    for path in root.rglob("*.py"):
        place = path.relative_to(root).as_posix()
        if place not in REGISTRIES and not place.startswith(FOLDERS):
            constants = (
                node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Constant)
            )
            found |= {(place, node.value) for node in constants if node.value in NAMES}
    assert found == DEFAULTS


@pytest.fixture
def corpus(tmp_path) -> str:
    path = tmp_path / "corpus.txt"
    path.write_text("a fine film\nnot so bad at all\n")
    return str(path)


def test_an_export_format(add, corpus, mr_tiny, tmp_path):
    add("fastmask.data.export", EXPORT_FORMATS, TOY_FORMAT)
    score_corpus([corpus], str(tmp_path / "s"), ScoreConfig(model=mr_tiny, method="random", mask_rate=0.5))
    counts = export_shards(ExportConfig(str(tmp_path / "s"), str(tmp_path / "o"), "toy", max_length=16), sequences=1)
    assert counts["files"] == counts["sequences"] >= 1
    assert (tmp_path / "o" / "0.toy").stat().st_size == 4 * 16
    assert (tmp_path / "o" / "counts").read_text() == repr([1] * counts["files"])


def test_a_method(add, corpus, mr_tiny, tmp_path):
    add("fastmask.scoring.methods", METHODS, TOY_METHOD)
    out = tmp_path / "s"
    manifest = score_corpus([corpus], str(out), ScoreConfig(model=mr_tiny, method="toy", shard_rows=1))
    assert manifest["config"]["method"] == "toy" and manifest["model"] is None
    assert "[a] fine [film]\n" in fastmask("inspect", out, "--rows", 1).stdout
    (out / "shard-00001.parquet").unlink()
    assert fastmask("verify", out).exit_code == 1
    assert fastmask("verify", out, "--repair").stdout.startswith("shard-00001.parquet: made again, identical")
    assert fastmask("verify", out).exit_code == 0
    twin = replace(ScoreConfig(model=mr_tiny).control_of(str(out)), shard_rows=1)
    assert score_corpus([corpus], str(tmp_path / "c"), twin)["totals"]["masked"] == manifest["totals"]["masked"]


def test_a_recipe_knows_a_new_method(add, mr_tiny, tmp_path):
    add("fastmask.scoring.methods", METHODS, TOY_METHOD)
    recipe = tmp_path / "r.toml"
    recipe.write_text(
        dedent(f"""
        out = "{tmp_path / "run"}"
        init = "{mr_tiny}"
        methods = ["toy"]
        [task]
        train = "train.jsonl"
        test = "test.jsonl"
        [in-domain]
        corpus = "corpus.txt"
    """)
    )
    names = [step.name for step in steps_of(read_recipe(str(recipe)))]
    assert {"masks/toy", "masks/toy-control"} < {*names} and "masker" not in names


def test_a_family(add, tmp_path):
    """It is read by name and scored packed, fine-tuned packed, and pre-trained."""
    shape = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 40}
    shape |= {"max_position_embeddings": 32, "vocab_size": 97, "num_labels": 3, "initializer_range": 0.5}
    torch.manual_seed(0)
    classifier = AutoModelForSequenceClassification.from_config(ErnieConfig(**shape)).eval()
    masked = AutoModelForMaskedLM.from_config(ErnieConfig(**shape)).eval()
    texts = [np.arange(5, 12), np.array([7]), np.arange(20, 50)]
    types = [np.zeros(len(text), np.int64) for text in texts]
    alone = [{"input_ids": torch.from_numpy(text)[None]} for text in texts]
    with torch.inference_mode():
        expected = torch.cat([classifier(**one).logits for one in alone])
        words = torch.cat([masked(**one).logits[0] for one in alone])
    assert not isinstance(build_encoder(classifier, "float32"), PackedEncoder)
    add("fastmask.models.families", FAMILIES, TOY_FAMILY, "ernie")
    bounds = np.cumsum([0, *map(len, texts)]).astype(np.int32)
    joined, none = np.concatenate(texts).astype(np.int32), np.zeros(bounds[-1], np.int32)
    encoder = build_encoder(classifier, "float32")
    assert isinstance(encoder, PackedEncoder)
    found = encoder.logits(PackedBatch(joined, none, bounds, 30))
    assert np.abs(found - expected.numpy()).max() < 1e-4
    packed = pack(texts, types)
    with torch.inference_mode():
        assert (class_logits(enable_packing(classifier), packed) - expected).abs().max() < 1e-4
        at = torch.tensor([3, 8, 20])
        part = Part(packed, at, packed.input_ids[at])
        loss = MaskedLoss(enable_packing(masked), torch.float32)(part)
    wanted = torch.nn.functional.cross_entropy(words[at], part.labels, reduction="sum")
    assert abs(loss - wanted) < 1e-3 * wanted
