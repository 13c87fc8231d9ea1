"""Fuzzing of what fastmask and other programs make: shard directories, journals, the record of a run, models."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import NamedTuple

import fuzz_inputs
import hostile
from outcomes import command

SENTENCES = (
    "A fine film, and not a bad one. The end is good.",
    "Bad.",
    "I like the film! It is good.",
    "the",
    "fine bad",
)
CHARS = "abcdefghijklmnopqrstuvwxyz.,!?"
WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    *CHARS,
    *(f"##{char}" for char in CHARS),
    "good",
    "bad",
    "film",
    "the",
]
OPTIONS = {"max_length": 32, "threads": 1, "device": "cpu", "segment": "line"}


class World(NamedTuple):
    """What is good to begin with: a classifier, a corpus, and the corpus's shards by the classifier."""

    model: Path
    corpus: Path
    shards: Path

    @classmethod
    def make(cls, folder: Path) -> World:
        """Make it in a folder."""
        world = cls(make_model(folder / "model"), folder / "corpus.txt", folder / "shards")
        world.corpus.write_text("\n".join([*SENTENCES, SENTENCES[0]]) + "\n")
        world.score(world.shards)
        return world

    @classmethod
    def ready(cls, folder: Path) -> World:
        """Make it, and have everything imported and compiled, on one thread, so that forked processes are quick."""
        import torch

        import fastmask.experiment.run
        import fastmask.report.comparison  # noqa: F401

        torch.set_num_threads(1)
        folder.mkdir()
        world = cls.make(folder)
        for number in range(3):
            read_shards(Random(number), world.shards, world)
            shutil.rmtree(folder / "like", ignore_errors=True)
        return world

    def score(self, out: Path, overwrite: bool = False, **options) -> None:
        """Score the corpus, three documents a shard."""
        from fastmask.core.config import ScoreConfig
        from fastmask.pipeline import score_corpus

        config = ScoreConfig(model=str(self.model), shard_rows=3, **OPTIONS, **options)
        score_corpus((str(self.corpus),), str(out), config, overwrite=overwrite)


def make_model(folder: Path) -> Path:
    """Write a tiny classifier."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    from fastmask.models.directory import quiet_transformers

    torch.manual_seed(0)
    shape = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = BertConfig(
        vocab_size=len(WORDS), max_position_embeddings=64, id2label={0: "negative", 1: "positive"}, **shape
    )
    with quiet_transformers():
        BertForSequenceClassification(config).save_pretrained(folder)
    (folder / "tokenizer.json").write_text(json.dumps(word_piece()))
    roles = {f"{role}_token": f"[{role.upper()}]" for role in ("cls", "sep", "mask", "pad", "unk")}
    own = {"tokenizer_class": "BertTokenizer", "model_max_length": 64, **roles}
    (folder / "tokenizer_config.json").write_text(json.dumps(own))
    return folder


def _tokenizer(model: dict, normalizer, pre_tokenizer, decoder) -> dict:
    special = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    around = [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
              {"SpecialToken": {"id": "[SEP]", "type_id": 0}}]  # fmt: skip
    second = [{"Sequence": {"id": "B", "type_id": 1}}, {"SpecialToken": {"id": "[SEP]", "type_id": 1}}]
    tokens = {name: {"id": name, "ids": [WORDS.index(name)], "tokens": [name]} for name in ("[CLS]", "[SEP]")}
    return {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [{"id": index, "content": word, **special} for index, word in enumerate(WORDS[:5])],
        "normalizer": normalizer, "pre_tokenizer": pre_tokenizer,
        "post_processor": {"type": "TemplateProcessing", "single": around, "pair": around + second,
                           "special_tokens": tokens},
        "decoder": decoder, "model": model,
    }  # fmt: skip


def word_piece() -> dict:
    """Return a tokenizer as BERT has it."""
    normalizer = {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None,
                  "lowercase": True}  # fmt: skip
    model = {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
             "max_input_chars_per_word": 100, "vocab": {word: index for index, word in enumerate(WORDS)}}  # fmt: skip
    return _tokenizer(
        model, normalizer, {"type": "BertPreTokenizer"}, {"type": "WordPiece", "prefix": "##", "cleanup": True}
    )


def byte_level() -> dict:
    """Return a tokenizer as RoBERTa has it."""
    vocab = {word: index for index, word in enumerate([*WORDS[:5], *CHARS, "Ġ", "th", "the", "Ġthe", "go"])}
    model = {"type": "BPE", "dropout": None, "unk_token": "[UNK]", "continuing_subword_prefix": None,
             "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "vocab": vocab,
             "merges": [["t", "h"], ["th", "e"], ["Ġ", "the"], ["g", "o"]]}  # fmt: skip
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return _tokenizer(model, {"type": "NFC"}, level, level)


def unigram() -> dict:
    """Return a tokenizer as sentencepiece makes it."""
    vocab = [[word, -float(index)] for index, word in enumerate([*WORDS[:5], "▁", *CHARS, "▁the", "▁film"])]
    steps = [{"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
             {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}, {"type": "NFKC"}]  # fmt: skip
    space = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    model = {"type": "Unigram", "unk_id": 1, "vocab": vocab, "byte_fallback": False}
    return _tokenizer(model, {"type": "Sequence", "normalizers": steps}, space, space)


# --- models ---


def score(model: Path, rng: Random) -> None:
    """Score some texts, as ``explain`` does."""
    from fastmask.scoring.api import score as score_texts

    texts = [SENTENCES[0], hostile.text(rng).replace("\0", "").encode("utf-8", "replace").decode()]
    for record in score_texts(texts, model=str(model), precision=rng.choice(("auto", "float32")), **OPTIONS):
        assert all(0 <= start <= end <= len(record.text) for start, end in record.spans), "a span outside of its text"


def _copy(world: World, folder: Path) -> Path:
    return Path(shutil.copytree(world.model, folder / "model"))


def fuzz_config(rng: Random, folder: Path, world: World) -> None:
    """Score with a model whose config.json is hostile."""
    copy = _copy(world, folder)
    config = json.loads((copy / "config.json").read_text())
    if rng.random() < 0.1:
        families = (
            "roberta",
            "distilbert",
            "electra",
            "modernbert",
            "gpt2",
            "t5",
            "deberta-v2",
            "xlnet",
            "albert",
            "xxx",
        )
        config["model_type"] = rng.choice(families)
    (copy / "config.json").write_bytes(hostile.dump(rng, hostile.changed(rng, config)))
    score(copy, rng)


def fuzz_tokenizer(rng: Random, folder: Path, world: World) -> None:
    """Score with a model whose tokenizer.json, or tokenizer_config.json, is hostile."""
    copy = _copy(world, folder)
    content = rng.choice((word_piece, byte_level, unigram))()
    if rng.random() < 0.8:
        content = hostile.changed(rng, content)
    else:
        own = json.loads((copy / "tokenizer_config.json").read_text())
        (copy / "tokenizer_config.json").write_bytes(hostile.dump(rng, hostile.changed(rng, own)))
    (copy / "tokenizer.json").write_bytes(hostile.dump(rng, content))
    score(copy, rng)


def fuzz_weights(rng: Random, folder: Path, world: World) -> None:
    """Score with a model whose weights, their header or their index is hostile."""
    copy = _copy(world, folder)
    file = copy / "model.safetensors"
    data = file.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    how = rng.randrange(3)
    if how == 0:
        file.write_bytes(hostile.damaged(rng, data))
    elif how == 1:
        header = hostile.dump(rng, hostile.changed(rng, json.loads(data[8:end])))
        size = len(header) if rng.random() < 0.8 else abs(int(rng.choice((0, 1, 2**31, 2**63, 2**64 - 1))))
        file.write_bytes(size.to_bytes(8, "little") + header + data[end:])
    else:
        part = copy / "model-00001-of-00001.safetensors"
        file.rename(part)
        names = json.loads(data[8:end])
        index = {"metadata": {"total_size": len(data)}, "weight_map": dict.fromkeys(list(names)[1:5], part.name)}
        (copy / "model.safetensors.index.json").write_bytes(hostile.dump(rng, hostile.changed(rng, index)))
    score(copy, rng)


def fuzz_text(rng: Random, folder: Path, world: World) -> None:
    """Score a hostile text."""
    (folder / "c.txt").write_bytes((hostile.text(rng) + hostile.text(rng)).encode("utf-8", "replace") + b"\n")
    options = ("--max-length", 32, "--threads", 1, "--device", "cpu", "-q")
    command("score", folder / "c.txt", "-o", folder / "o", "--model", world.model, "--method", "random", *options)
    command("inspect", folder / "o", "--rows", 3)


# --- shards ---


def read_shards(rng: Random, out: Path, world: World) -> None:
    """Read shards in all the ways there are, then ``verify``: what it finds sound must be readable."""
    import fastmask
    from fastmask.core.errors import FastmaskError
    from fastmask.shards.reader import open_shards
    from fastmask.shards.verify import verify

    readers: tuple[Callable[[], object], ...] = (
        lambda: open_shards(out).to_table(),
        lambda: open_shards(out, check_hashes=True)[rng.choice((0, -1, 3))],
        lambda: list(fastmask.TrainingStream(str(out), max_length=16, seed=1).epoch()),
        lambda: list(fastmask.remap_masks(out, _tokenizer_of(world))),
        lambda: world.score(out.parent / "like", method="random", like=str(out)),
    )
    refusals = []
    for reader in rng.sample(readers, 2):
        try:
            reader()
        except FastmaskError as error:
            refusals.append(error)
    damage = verify(out)
    assert not damage or all(one.reason for one in damage)
    assert damage or not refusals or _is_not_values(refusals[0]), f"verify finds nothing: {refusals[0]!a}"
    if refusals:
        raise refusals[0]
    if rng.random() < 0.5:
        command("verify", out)
        command("inspect", out, "--rows", rng.choice((0, 2)))


def _is_not_values(error: Exception) -> bool:
    """A sound directory may still be of another tokenizer, or of inputs that are gone."""
    words = ("tokenizer", "has changed", "no such file", "--like", "special", "unknown format", "is a folder",
             "cannot be read again", "--encoding", "its text has")  # fmt: skip
    return any(word in str(error) for word in words)


def _tokenizer_of(world: World):
    from fastmask.models.directory import load_tokenizer, resolve_model

    return load_tokenizer(resolve_model(str(world.model)))


def _shards(world: World, folder: Path) -> Path:
    return Path(shutil.copytree(world.shards, folder / "shards"))


def fuzz_manifest(rng: Random, folder: Path, world: World) -> None:
    """Read shards whose manifest is hostile."""
    out = _shards(world, folder)
    manifest = hostile.changed(rng, json.loads((out / "_manifest.json").read_text()))
    if rng.random() < 0.5:
        _add_up(manifest)
    name = "_manifest.json" if rng.random() < 0.9 else "manifest.json"
    (out / "_manifest.json").unlink()
    (out / name).write_bytes(hostile.dump(rng, manifest))
    read_shards(rng, out, world)


def _add_up(manifest) -> None:
    """Make the totals fit, where that can be."""
    from fastmask.shards.schema import totals

    try:
        manifest["totals"] = totals(manifest["shards"])
    except (KeyError, TypeError, ValueError, OverflowError):
        return


def _put(out: Path, name: str, data: bytes, counts: dict) -> None:
    """Write a shard, with a manifest that fits."""
    manifest = json.loads((out / "_manifest.json").read_text())
    (out / name).write_bytes(data)
    entry = next(entry for entry in manifest["shards"] if entry["file"] == name)
    entry.update({**counts, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()})
    _add_up(manifest)
    (out / "_manifest.json").write_text(json.dumps(manifest))


def fuzz_shard_values(rng: Random, folder: Path, world: World) -> None:
    """Read shards with values that cannot be, whose hashes and counts fit."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    out = _shards(world, folder)
    name = rng.choice(("shard-00000.parquet", "shard-00001.parquet"))
    table = pq.read_table(out / name)
    for _ in range(rng.choice((1, 1, 2, 3))):
        table = _forged(rng, table)
    sink = io.BytesIO()
    try:
        pq.write_table(table, sink, row_group_size=rng.choice((1, 2, 16384)))
    except pa.ArrowException:  # Parquet cannot hold it
        return
    counts = {"rows": len(table)}
    for key, column in (("tokens", "input_ids"), ("masked", "mask_index")):
        if column in table.schema.names and pa.types.is_list(table.schema.field(column).type):
            counts[key] = sum(len(one or ()) for one in table[column].to_pylist())
    if "importance" in table.schema.names:
        counts["scored"] = len(table) - table["importance"].null_count
    _put(out, name, sink.getvalue(), counts)
    read_shards(rng, out, world)


def _forged(rng: Random, table):
    """Return a table with a value changed, rows in another order, or a column gone, renamed or of another type."""
    import pyarrow as pa

    if not table.num_columns:
        return table
    place = rng.randrange(table.num_columns)
    field, values = table.schema.field(place), table.column(place).to_pylist()
    how = rng.randrange(10)
    if how == 0:
        return table.take(pa.array([rng.randrange(len(table)) for _ in range(len(table))])) if len(table) else table
    if how == 1:
        return rng.choice((table.drop_columns([field.name]), table.slice(0, 1), table.slice(0, 0),
                           table.append_column("more", table.column(place)), table.replace_schema_metadata(None),
                           table.rename_columns([*table.column_names[1:], "x\x1b[31m"])))  # fmt: skip
    if not values:
        return table
    row = rng.randrange(len(values))
    values[row] = _other(rng, values[row])
    try:
        return table.set_column(place, field, pa.array(values, field.type, from_pandas=False))
    except (pa.ArrowException, ValueError, TypeError, OverflowError):
        return table.set_column(place, field.name, pa.array([str(value) for value in values]))


def _other(rng: Random, value):
    small = (0, 1, -1, 5, 63, 64, 2**24, 2**31 - 1, -(2**31), 2**63 - 1, 0.5, float("nan"), float("inf"), None)
    if not isinstance(value, list):
        return rng.choice(small)
    if not value or rng.random() < 0.3:
        return rng.choice(
            (None, [], value[::-1], value * 2, value[1:], [*value, rng.choice(small)], [rng.choice(small)])
        )
    copy = list(value)
    copy[rng.randrange(len(copy))] = rng.choice(small)
    return copy


def fuzz_shard_bytes(rng: Random, folder: Path, world: World) -> None:
    """Read shards whose bytes are damaged, known to the manifest or not."""
    out = _shards(world, folder)
    name = rng.choice(("shard-00000.parquet", "shard-00001.parquet"))
    data = hostile.damaged(rng, (out / name).read_bytes())
    if rng.random() < 0.7:
        _put(out, name, data, {})
    else:
        (out / name).write_bytes(data)
    read_shards(rng, out, world)


def fuzz_journal(rng: Random, folder: Path, world: World) -> None:
    """Go on from a hostile journal: to the bytes that an undisturbed run makes, or not at all."""
    out = _shards(world, folder)
    manifest = json.loads((out / "_manifest.json").read_text())
    wanted = {path.name: path.read_bytes() for path in out.iterdir()}
    (out / "_manifest.json").unlink()
    (out / "journal.jsonl").write_bytes(_journal(rng, manifest))
    if rng.random() < 0.3:
        (out / "shard-00001.parquet").unlink()
    world.score(out, overwrite=rng.random() < 0.2)
    left = {path.name: path.read_bytes() for path in out.iterdir() if path.name in wanted}
    assert left.keys() == wanted.keys() and not (out / "journal.jsonl").exists()
    assert all(left[name] == wanted[name] for name in wanted if name.endswith(".parquet")), "other bytes"


def _journal(rng: Random, manifest: dict) -> bytes:
    """Return the journal that a run of this manifest wrote, damaged."""
    from fastmask.shards.schema import header_of

    entries = [{**entry, "skipped": []} for entry in manifest["shards"]]
    records = [header_of(manifest), *entries[: rng.choice((0, 1, 2, 2))]]
    place = rng.randrange(len(records))
    records[place] = hostile.changed(rng, records[place])
    if rng.random() < 0.2:
        records = rng.choices(records, k=rng.choice((1, 3, 5)))
    data = b"".join(hostile.dump(rng, record) + b"\n" for record in records)
    return hostile.damaged(rng, data) if rng.random() < 0.3 else data


def fuzz_ledger(rng: Random, folder: Path, world: World) -> None:
    """Plan a recipe's run whose record of finished steps is hostile."""
    from fastmask.experiment.run import Run

    corpus = folder / "corpus.csv"
    corpus.write_text("text,label\ngood,positive\nbad,negative\n")
    recipe = fuzz_inputs.toml(Random(0), fuzz_inputs.RECIPE)
    for name, path in (("OUT", folder / "run"), ("MODEL", world.model), ("CORPUS", corpus)):
        recipe = recipe.replace(f'"{name}"'.encode(), json.dumps(str(path)).encode())
    (folder / "r.toml").write_bytes(recipe)
    steps = {}
    for step in Run(str(folder / "r.toml")).steps:
        shutil.copytree(world.model, folder / "run" / step.name)
        for name in ("metrics.json", "_manifest.json", "pretrain.json", "report.json"):
            (folder / "run" / step.name / name).write_bytes(b"{}")
        steps[step.name] = {
            "made_from": {"config": {"a": 1}, "needs": {}},
            "weights": {"a": [1, 2]},
            "fingerprint": "ab",
        }
    record = {"steps": steps, "files": {str(corpus): [1, 2, "ab"]}}
    (folder / "run" / "steps.json").write_bytes(hostile.dump(rng, hostile.changed(rng, record)))
    command("run", folder / "r.toml", "--dry-run")
