"""``fastmask export``: every format read back with its own reader, against the stream it was made from."""

import hashlib
import json
import shutil
import struct
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from helpers import fastmask, golden, refusal, write_jsonl

from fastmask import ScoreConfig, score_corpus
from fastmask.core.config import ExportConfig
from fastmask.core.errors import FastmaskError, ModelError
from fastmask.data.corruption import corrupt, ordinary_ids
from fastmask.data.export import mds
from fastmask.data.exporting import export_shards, fields_of
from fastmask.data.stream import TrainingStream
from fastmask.shards.schema import MANIFEST

DTYPES = {
    "input_ids": "<i4",
    "input_mask": "|i1",
    "segment_ids": "|i1",
    "masked_lm_positions": "<i4",
    "masked_lm_ids": "<i4",
    "next_sentence_labels": "|i1",
}
LENGTH, PREDICTIONS = 48, 10


@pytest.fixture(scope="module")
def shards(tmp_path_factory, mr_tiny, golden_dir) -> Path:
    folder = tmp_path_factory.mktemp("export")
    texts = [{"text": row["text"]} for row in golden(golden_dir, "mr_tiny_0.05")[:60]]
    corpus = write_jsonl(folder / "corpus.jsonl", texts)
    score_corpus([corpus], str(folder / "out"), ScoreConfig(model=mr_tiny, method="random", mask_rate=0.25))
    return folder / "out"


@pytest.fixture(scope="module")
def expected(shards) -> list[dict]:
    """The sequences as the stream and ``corrupt`` give them, all their masks kept."""
    stream = TrainingStream(str(shards), max_length=LENGTH, seed=0, shuffle=False, masked_only=True)
    special = stream.tokenizer["special_ids"]
    found = []
    for example in stream.epoch():
        out = corrupt(
            example.input_ids, example.at, example.row, example.sentence, example.position,
            seed=5, epoch=0, mask_id=special["mask"], ordinary=ordinary_ids(8192, special),
        )  # fmt: skip
        assert 0 not in example.at
        found.append({"example": example, "input_ids": out})
    return found


def export(shards, out, kind, **options):
    options = {"max_length": LENGTH, "max_predictions": PREDICTIONS, "seed": 5} | options
    return export_shards(ExportConfig(str(shards), str(out), kind, **options))


def nvidia_labels(row: dict) -> np.ndarray:
    """``masked_lm_labels`` as ``pretraining_dataset.__getitem__`` of NVIDIA's run_pretraining.py makes them."""
    labels, end = np.full(len(row["input_ids"]), -1), PREDICTIONS
    zeros = np.flatnonzero(row["masked_lm_positions"] == 0)
    if len(zeros):
        end = zeros[0]
    labels[row["masked_lm_positions"][:end]] = row["masked_lm_ids"][:end]
    return labels


def check(rows: list[dict], expected):
    assert len(rows) == len(expected)
    for row, wanted in zip(rows, expected, strict=True):
        example, n = wanted["example"], len(wanted["example"])
        assert row["input_mask"].tolist() == [1] * n + [0] * (LENGTH - n)
        assert not row["segment_ids"].any() and len(row["segment_ids"]) == LENGTH and row["next_sentence_labels"] == 0
        assert not row["input_ids"][n:].any()  # mr-tiny pads with 0
        at = np.flatnonzero(nvidia_labels(row) >= 0)
        assert len(at) == min(len(example.at), PREDICTIONS) and set(at) <= set(example.at.tolist())
        assert (nvidia_labels(row)[at] == example.input_ids[at]).all()
        # what is masked is corrupted as in training, and nothing else is
        same = np.where(np.isin(np.arange(n), at), wanted["input_ids"], example.input_ids)
        assert row["input_ids"][:n].tolist() == same.tolist()


def test_some_sequences_have_too_many_masks(expected):
    """Or the tests below would not see them cut."""
    counts = [len(each["example"].at) for each in expected]
    assert max(counts) > PREDICTIONS > min(counts)


def test_hdf5(shards, expected, tmp_path, mr_tiny):
    h5py = pytest.importorskip("h5py")
    counts = export(shards, tmp_path / "h5", "nvidia-hdf5")
    masks = [len(each["example"].at) for each in expected]
    kept = sum(min(n, PREDICTIONS) for n in masks)
    assert counts == {"sequences": len(masks), "masked": kept, "dropped": sum(masks) - kept, "files": 1,
                      "tokenizer": mr_tiny}  # fmt: skip
    (path,) = (tmp_path / "h5").iterdir()
    assert path.name == "training-00000.hdf5"
    with h5py.File(path) as file:
        assert {name: file[name].dtype.str for name in file} == DTYPES
        assert {file[name].compression for name in file} == {"gzip"}
        columns = {name: file[name][:] for name in file}
    check([{name: values[k] for name, values in columns.items()} for k in range(len(expected))], expected)


def test_jsonl(shards, expected, tmp_path):
    export(shards, tmp_path / "json", "jsonl")
    rows = []
    for line in (tmp_path / "json" / "training-00000.jsonl").read_text().splitlines():
        row = json.loads(line)
        assert 0 not in row["masked_lm_positions"] and len(row["input_ids"]) == len(row["input_mask"])
        padded = {name: PREDICTIONS if name.startswith("masked") else LENGTH for name in row}
        rows.append({name: np.pad(value, (0, padded[name] - len(value))) if isinstance(value, list) else value
                     for name, value in row.items()})  # fmt: skip
    check(rows, expected)


def lines(out) -> list[dict]:
    return [json.loads(line) for path in sorted(Path(out).iterdir()) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("sample", [False, True])
def test_epochs_are_those_of_training(sample, shards, tmp_path):
    """Masks drawn and tokens corrupted as ``pretrain`` has them in each epoch; what has no mask there is left out."""
    counts = export(shards, tmp_path / "out", "jsonl", sample=sample, epochs=3, max_predictions=LENGTH)
    stream = TrainingStream(str(shards), max_length=LENGTH, seed=5, shuffle=False, masked_only=True, sample=sample)
    special, found = stream.tokenizer["special_ids"], lines(tmp_path / "out")
    wanted = [(epoch, one) for epoch in range(3) for one in stream.epoch(epoch) if len(one.at)]
    assert len(found) == len(wanted) == counts["sequences"]
    for line, (epoch, example) in zip(found, wanted, strict=True):
        ids = corrupt(
            example.input_ids, example.at, example.row, example.sentence, example.position,
            seed=5, epoch=epoch, mask_id=special["mask"], ordinary=ordinary_ids(8192, special),
        )  # fmt: skip
        assert line["input_ids"] == ids.tolist() and line["masked_lm_positions"] == example.at.tolist()
    places = [[one.at.tolist() for epoch, one in wanted if epoch == number] for number in (0, 1)]
    assert (places[0] == places[1]) is not sample
    export(shards, tmp_path / "first", "jsonl", sample=sample, max_predictions=LENGTH)
    assert lines(tmp_path / "first") == found[: len(lines(tmp_path / "first"))]


def test_a_sample_of_masks_without_probabilities(tmp_path, mr_tiny):
    (tmp_path / "c.txt").write_text("a good film\n")
    score_corpus([str(tmp_path / "c.txt")], str(tmp_path / "masks"), ScoreConfig(model=mr_tiny))
    done = fastmask("export", tmp_path / "masks", "-o", tmp_path / "out", "--to", "jsonl", "--sample")
    assert "has no mask_prob to draw masks by; --method greedy gives none" in refusal(done)
    assert not (tmp_path / "out").exists()


def test_hugging_face_datasets_reads_the_lines(shards, expected, tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    export(shards, tmp_path / "json", "jsonl")
    loaded = datasets.load_dataset("json", data_files=str(tmp_path / "json" / "*.jsonl"), split="train",
                                   cache_dir=str(tmp_path / "cache"))  # fmt: skip
    assert set(loaded.column_names) == set(DTYPES) and len(loaded) == len(expected)


def read_mds(folder: Path) -> list[dict]:
    """MDS as its documentation has it, for columns of fixed size."""
    index = json.loads((folder / "index.json").read_text())
    assert index["version"] == 2
    rows = []
    for shard in index["shards"]:
        data = (folder / shard["raw_data"]["basename"]).read_bytes()
        assert len(data) == shard["raw_data"]["bytes"]
        assert hashlib.sha1(data).hexdigest() == shard["raw_data"]["hashes"]["sha1"]
        (samples,) = struct.unpack_from("<I", data)
        assert samples == shard["samples"]
        offsets = struct.unpack_from(f"<{samples + 1}I", data, 4)
        assert offsets[-1] == len(data)
        for start, end in pairwise(offsets):
            row, place = {}, start
            columns = (shard[f"column_{what}"] for what in ("names", "encodings", "sizes"))
            for name, encoding, size in zip(*columns, strict=True):
                values = np.frombuffer(
                    data[place : place + size], encoding.split(":")[1] if ":" in encoding else encoding
                )
                row[name], place = values if ":" in encoding else values[0], place + size
            assert place == end
            rows.append(row)
    return rows


def test_mds_by_its_layout(shards, expected, tmp_path):
    export(shards, tmp_path / "mds", "mds")
    rows = read_mds(tmp_path / "mds")
    assert {name: np.asarray(value).dtype.str for name, value in rows[0].items()} == DTYPES
    check(rows, expected)


def test_mds_is_what_its_own_writer_writes(tmp_path):
    """Size and hash are those of MDSWriter (mosaicml-streaming 0.13.0) on the same three samples."""
    table = np.zeros(3, fields_of(4, 2))
    table["input_ids"], table["input_mask"] = [2, 4, 3, 0], [1, 1, 1, 0]
    table["masked_lm_ids"][:, 0], table["masked_lm_positions"] = [77, 78, 79], [1, 0]
    entry = mds.FORMAT.write(tmp_path, 0, table)
    hashes = {"sha1": "7ceec0088d14ceb2303d5b11883d00e48a9e3242"}
    assert entry["raw_data"] == {"basename": "shard.00000.mds", "bytes": 519, "hashes": hashes}


def test_mds_by_its_own_reader(shards, expected, tmp_path):
    reason = "mosaicml-streaming needs transformers<5 and numpy<2.2: this test wants an environment of its own"
    streaming = pytest.importorskip("streaming", reason=reason)
    export(shards, tmp_path / "mds", "mds")
    loaded = streaming.LocalDataset(str(tmp_path / "mds"))
    check([loaded[k] for k in range(len(loaded))], expected)


def test_several_files(shards, tmp_path):
    """However the sequences are divided among files, they are the same."""
    export(shards, tmp_path / "one", "mds")
    config = ExportConfig(str(shards), str(tmp_path / "many"), "mds", LENGTH, PREDICTIONS, seed=5)
    counts = export_shards(config, sequences=7)
    assert counts["files"] == -(-counts["sequences"] // 7) > 2
    one, many = read_mds(tmp_path / "one"), read_mds(tmp_path / "many")
    assert [{k: v.tolist() for k, v in row.items()} for row in one] == [
        {k: v.tolist() for k, v in row.items()} for row in many
    ]


def test_seeds_differ_and_repeat(shards, tmp_path):
    data = {}
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        export(shards, tmp_path / name, "jsonl", seed=seed)
        data[name] = (tmp_path / name / "training-00000.jsonl").read_bytes()
    assert data["a"] == data["b"] != data["c"]


def test_samples_are_packed():
    kind = fields_of(3, 2)
    assert list(kind.names) == sorted(DTYPES) and kind.itemsize == 3 * (4 + 1 + 1) + 2 * 8 + 1


def test_command(shards, tmp_path):
    out = tmp_path / "out"
    options = ("-o", out, "--to", "jsonl", "--max-length", 48, "--max-predictions", 2)
    result = fastmask("export", shards, *options)
    assert result.exit_code == 0 and result.stdout == ""
    assert "masks past --max-predictions left out" in result.stderr and " in 1 file," in result.stderr
    before = (out / "training-00000.jsonl").read_bytes()
    assert "exists already" in refusal(fastmask("export", shards, *options))
    assert fastmask("export", shards, *options, "--overwrite", "-q").stderr == ""
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (out / "training-00000.jsonl").read_bytes() == before


def test_bad_input_is_one_line_and_leaves_nothing(shards, mr_tiny, tmp_path, monkeypatch):
    missing = fastmask("export", tmp_path / "none", "-o", tmp_path / "o", "--to", "jsonl")
    assert "no such directory" in refusal(missing)
    corpus = tmp_path / "c.txt"
    corpus.write_text("...\n")
    score_corpus([str(corpus)], str(tmp_path / "s"), ScoreConfig(model=mr_tiny, threshold=-1.0))
    with pytest.raises(FastmaskError, match="holds no sequence with a mask"):
        export(tmp_path / "s", tmp_path / "o", "jsonl")
    full = OSError(28, "No space left on device")
    monkeypatch.setattr("fastmask.data.export.jsonl.write_atomically", lambda *_: (_ for _ in ()).throw(full))
    with pytest.raises(FastmaskError, match=r"cannot write .*o: No space left"):
        export(shards, tmp_path / "o", "jsonl")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.txt", "s"]


def test_a_package_that_is_missing_is_named(shards, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    with pytest.raises(FastmaskError, match=r"needs h5py; pip install 'fastmask\[export\]'"):
        export(shards, tmp_path / "o", "nvidia-hdf5")
    assert not (tmp_path / "o").exists()


def test_the_tokenizer_may_be_gone(mr_tiny, golden_dir, tmp_path):
    """The manifest has all that is needed; an older one has not, and says whose tokenizer is missing."""
    model = shutil.copytree(mr_tiny, tmp_path / "model")
    corpus = write_jsonl(tmp_path / "c.jsonl", [{"text": golden(golden_dir, "mr_tiny_0.05")[0]["text"]}])
    manifest = score_corpus([corpus], str(tmp_path / "s"), ScoreConfig(model=str(model), method="random"))
    shutil.rmtree(model)
    assert export(tmp_path / "s", tmp_path / "o", "jsonl")["sequences"] == 1
    del manifest["tokenizer"]["vocab_size"]
    (tmp_path / "s" / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(ModelError, match="tokenizer is not here"):
        export(tmp_path / "s", tmp_path / "p", "jsonl")


def test_what_masked_tokens_become_is_a_setting(shards, tmp_path):
    """--corrupt 1,0,0: all are [MASK]; 0,0,1: none is changed."""
    mask = TrainingStream(str(shards), max_length=48, seed=0).tokenizer["special_ids"]["mask"]
    for shares, changed in (("1,0,0", True), ("0,0,1.0", False)):
        out = tmp_path / shares
        assert not fastmask("export", shards, "-o", out, "--to", "jsonl", "--corrupt", shares).exit_code
        rows = [json.loads(line) for path in sorted(out.glob("*.jsonl")) for line in path.open()]
        pairs = [(row["input_ids"][at], label) for row in rows
                 for at, label in zip(row["masked_lm_positions"], row["masked_lm_ids"], strict=True)]  # fmt: skip
        assert pairs and all(found == (mask if changed else label) for found, label in pairs)


@pytest.mark.parametrize(
    "shares", ["0.8,0.2", "0.8,0.1,0.2", "1.1,-0.1,0", "a,b,c", "0.8;0.1;0.1", "nan,1,0", "1,0,0,0"]
)
def test_shares_that_are_none(shares):
    with pytest.raises(FastmaskError, match=f"--corrupt {shares}: three numbers from 0 on whose sum is 1"):
        ExportConfig("in", "out", "jsonl", corrupt=shares)
