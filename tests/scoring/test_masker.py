"""Method ``masker``: the rule by hand on transformers' own float64 answer, its certificate, whole runs, the control."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from encoder_samples import CONFIGS, VOCABULARY
from helpers import encoded, fastmask, golden, masks_of, process, pseudo_noise, refusal, rows_of, split, write_jsonl
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AlbertConfig, AutoModelForTokenClassification

from fastmask.core.config import ScoreConfig
from fastmask.models.packing import Template
from fastmask.pipeline import score_corpus
from fastmask.scoring.api import score as score_texts
from fastmask.scoring.engine import Engine, score_certain
from fastmask.scoring.method import load_method
from fastmask.shards.reader import open_shards

FAMILIES = {
    name: CONFIGS[name]
    for name in ("bert", "bert-one-layer", "roberta", "distilbert", "electra-projected", "modernbert")
}
FAMILIES |= {"bert-odd": CONFIGS["bert-odd"]}
FAMILIES |= {"albert": AlbertConfig(vocab_size=200, embedding_size=16, hidden_size=32, num_attention_heads=2,
                                    intermediate_size=40, num_hidden_layers=2, initializer_range=0.15)}  # fmt: skip
# special tokens that no family takes for padding
CLS, SEP, FIRST_ID = 5, 6, 7
WORDS = np.arange(FIRST_ID, FIRST_ID + 4, dtype=np.int32)
TEXT_TEMPLATE = Template(np.array([CLS], np.int32), np.empty(0, np.int32), np.array([SEP], np.int32), 0, words=WORDS)
STOP = np.zeros(VOCABULARY, bool)
STOP[10:40] = True


def masker_of(family: str):
    """A token classifier with random weights, which makes class 1 of about half of the tokens."""
    torch.manual_seed(3)
    config = type(FAMILIES[family]).from_dict({**FAMILIES[family].to_dict(), "id2label": {0: "keep", 1: "mask"}})
    return AutoModelForTokenClassification.from_config(config).float().eval()


@torch.inference_mode()
def logits_of(model, words, max_length) -> np.ndarray:
    """float64 [n, 2]: transformers' own answer to one sentence, cut on the right."""
    ids = torch.tensor([[CLS, *words[: max_length - 2], SEP]])
    return model(ids, attention_mask=torch.ones_like(ids)).logits[0, 1:-1].numpy()


def rule(logits, words, stop, rate=0.15) -> list[int]:
    """The masker's rule in plain Python: tokens whose class 1 wins, best first, at most max(1, int(rate * n))."""
    found = [i for i, (zero, one) in enumerate(logits.tolist()) if one > zero and not stop[words[i]]]
    found.sort(key=lambda i: (-logits[i, 1], i))
    return sorted(found[: max(1, int(rate * len(words) + 1e-9))])


def sentences_of(count=60, longest=30, seed=0) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(FIRST_ID, VOCABULARY, n).tolist() for n in rng.integers(1, longest, count)]


def engine_of(model, stop=STOP, calibration=24, **options) -> Engine:
    config = ScoreConfig(**{"model": "m", "method": "masker", "device": "cpu", "threads": 1} | options)
    return Engine(load_method(config), model, TEXT_TEMPLATE, config, np.tile(stop, (2, 1)), calibration=calibration)


@pytest.mark.parametrize("family", FAMILIES)
def test_masks_are_those_of_transformers(family):
    model, sentences = masker_of(family), [*sentences_of(), [7] * 40, list(range(7, 60))]
    scored, _ = score_certain(engine_of(model, max_length=32), encoded(sentences))
    model.double()
    exact = [logits_of(model, words, 32) for words in sentences]
    assert masks_of(scored) == [rule(z, words, STOP) for z, words in zip(exact, sentences, strict=True)]
    assert 0 < sum(map(len, masks_of(scored))) < sum(map(len, sentences)) / 4
    for z, importance in zip(exact, split(scored.sentences.offsets, scored.importance), strict=True):
        np.testing.assert_allclose(importance[: len(z)], 1 / (1 + np.exp(z[:, 0] - z[:, 1])), atol=2e-6)
        assert not any(importance[len(z) :])  # past the longest input
    assert scored.scored.all() and np.isnan(scored.prob).all() and (scored.predicted == -1).all()


@pytest.mark.parametrize("rate", [0.01, 0.3, 1.0])
def test_a_rate_caps(rate):
    model, sentences = masker_of("bert"), sentences_of(30)
    scored, _ = score_certain(engine_of(model, mask_rate=rate), encoded(sentences))
    model.double()
    assert masks_of(scored) == [rule(logits_of(model, words, 128), words, STOP, rate) for words in sentences]


ANYHOW = {
    "bfloat16": {"precision": "bfloat16"}, "float32": {"precision": "float32"}, "torch": {"kernels": "torch"},
    "float16": {"precision": "float16", "kernels": "torch"}, "small batches": {"batch_tokens": 7},
    "one batch": {"batch_tokens": 1 << 20}, "threads": {"threads": 3},
}  # fmt: skip


@pytest.mark.parametrize("how", ANYHOW)
def test_masks_depend_on_no_batch_thread_or_precision(how):
    model, sentences = masker_of("bert"), sentences_of(80)
    expected, _ = score_certain(engine_of(model), encoded(sentences))
    found, _ = score_certain(engine_of(model, **ANYHOW[how]), encoded(sentences))
    assert masks_of(found) == masks_of(expected)
    errors = found.certificate["max_error"]
    few = sum(found.certificate["rechecked"].values()) <= 20
    assert errors[how] > 10 * errors["float32"] if "float16" in how else few  # bfloat16, too: halves they were


def test_masks_do_not_depend_on_order_or_repetition():
    model, sentences = masker_of("roberta"), sentences_of(80)
    engine = engine_of(model, precision="bfloat16")
    expected, bounds = score_certain(engine, encoded(sentences))
    order = np.random.default_rng(1).permutation(len(sentences)).tolist()
    order += [5, 5, 7]
    found, _ = score_certain(engine, encoded([sentences[i] for i in order]), bounds)
    assert masks_of(found) == [masks_of(expected)[i] for i in order]


def test_labels_and_aspects_play_no_part():
    model, sentences = masker_of("bert"), sentences_of(6)
    aspects = [[([7, 8], 0)], [], [([9], 1), ([11], 0)], [([7], 2)], [], []]
    expected, _ = score_certain(engine_of(model), encoded(sentences))
    for shard in (encoded(sentences, labels=[9, 8, 7, 0, 1, -1]), encoded(sentences, aspects=aspects)):
        found, _ = score_certain(engine_of(model), shard)
        assert masks_of(found) == masks_of(expected) and found.sentences is shard
        assert found.scored.all()


def test_nothing_to_score():
    engine = engine_of(masker_of("bert"))
    scored, bounds = score_certain(engine, encoded([]))
    assert bounds == engine.calibrate(iter([])) and len(scored.mask_offsets) == 1
    scored, _ = score_certain(engine, encoded([[], [45], []]))
    assert scored.scored.tolist() == [False, True, False] and masks_of(scored)[::2] == [[], []]


class TokenToy:
    """Logits by hand: token k has class-1 logit ``one[id]`` and class-0 logit ``zero[id]``, and noise below float64."""

    name, batch_tokens, most_tokens, spare_tokens = "toy", 64, 1 << 40, 0

    def __init__(self, zero, one, precision, sizes, asked):
        self.zero, self.one = np.asarray(zero, np.float64), np.asarray(one, np.float64)
        self.precision, self.size, self.asked = precision, sizes.get(precision, 0.0), asked

    def memory(self):
        return None

    def logits(self, batch, memory=None):
        self.asked.append((self.precision, len(batch)))
        out = np.stack([self.zero[batch.input_ids], self.one[batch.input_ids]], axis=1)
        for row, token in enumerate(batch.input_ids):
            out[row, 1] += pseudo_noise([int(token), row], self.size)
        return out


def toy_engine(monkeypatch, zero, one, sizes, asked=None, stop=None, **options) -> Engine:
    asked = [] if asked is None else asked
    monkeypatch.setattr("fastmask.scoring.backend.build_encoder",
                        lambda model, precision, *_: TokenToy(zero, one, precision, sizes, asked))  # fmt: skip
    return engine_of(None, np.zeros(len(zero), bool) if stop is None else stop, **options)


def test_by_hand(monkeypatch):
    #                 -  CLS SEP  3    4    5    6    7
    zero = np.array([0.0, 0, 0, 1.0, 0.0, 0.0, 2.0, 0.0])
    one = np.array([9.0, 9, 9, 1.0, 1.0, 3.0, 2.5, 0.5])
    stop = np.arange(8) == 5
    engine = toy_engine(monkeypatch, zero, one, {}, stop=stop, mask_rate=0.4)
    sentences = [
        [3, 3, 3],  # a tie of the classes is class 0
        [4, 4, 4, 4, 4, 4],  # a tie of ranks goes to the first: two of six
        [5, 4, 7, 6, 4],  # 5 is a stop word; then 6, whose margin is the smallest of all, ranks first
        [7],  # one mask at least
        [3, 7, 3, 3, 3, 7, 4],  # int(0.4 * 7) = 2
    ]
    scored, _ = score_certain(engine, encoded(sentences))
    assert masks_of(scored) == [[], [0, 1], [1, 3], [0], [1, 6]]
    assert scored.importance[:3].tolist() == [0.5, 0.5, 0.5]
    assert masks_of(score_certain(toy_engine(monkeypatch, zero, one, {}), encoded(sentences))[0]) == [
        [], [0], [0], [0], [6],
    ]  # fmt: skip


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.lists(st.integers(FIRST_ID, 20), min_size=1, max_size=12), min_size=1, max_size=40),
    st.integers(0, 2**32 - 1), st.sampled_from([0.15, 0.4, 1.0]), st.sampled_from([0.0, 1e-7, 0.3]),
    st.integers(1, 60),
)  # fmt: skip
def test_no_noise_changes_a_mask(sentences, seed, rate, size, batch_tokens):
    """Many exact ties: logits are eighths."""
    rng = np.random.default_rng(seed)
    zero, one = rng.integers(-8, 9, (2, 21)) / 8
    stop = rng.random(21) < 0.2
    sizes = {"bfloat16": size, "float32": size / 1e4}
    with pytest.MonkeyPatch.context() as patch:
        engine = toy_engine(patch, zero, one, sizes, stop=stop, precision="bfloat16", mask_rate=rate,
                            batch_tokens=batch_tokens, calibration=5)  # fmt: skip
        scored, _ = score_certain(engine, encoded(sentences))
    tables = [np.stack([zero[words], one[words]], axis=1) for words in sentences]
    assert masks_of(scored) == [rule(z, words, stop, rate) for z, words in zip(tables, sentences, strict=True)]


def test_only_doubts_are_asked_again_and_a_wrong_band_is_found(monkeypatch):
    rng = np.random.default_rng(5)
    zero, one = np.zeros(60), np.where(np.arange(60) % 3, -1.0, 1.0) * (1 + rng.random(60))
    sentences = [rng.integers(FIRST_ID, 60, 12).tolist() for _ in range(600)]
    asked = []
    engine = toy_engine(monkeypatch, zero, one, {"float32": 1e-6}, asked, precision="float32", mask_rate=1.0)
    scored, bounds = score_certain(engine, encoded(sentences))
    certificate = scored.certificate
    assert certificate["rechecked"] == {"float64": 0} and certificate["decisions"] == 600 * 12
    assert certificate["audited"] > 0 and certificate["flips"] == 0
    assert sum(n for precision, n in asked if precision == "float64") < 60
    expected = masks_of(scored)
    # noise beyond the error bound: the audit finds it, and the shard is scored again
    wild = toy_engine(monkeypatch, zero, one, {"float32": 1.5}, precision="float32", mask_rate=1.0)
    scored, wider = score_certain(wild, encoded(sentences), bounds)
    assert scored.certificate["max_error"]["float32"] > bounds.eps[0] and wider.eps[0] > 1
    assert masks_of(scored) == expected


def test_an_overflow_is_a_doubt(monkeypatch):
    rng = np.random.default_rng(6)
    zero, one = rng.normal(size=(2, 60))
    sentences = [rng.integers(FIRST_ID, 60, 9).tolist() for _ in range(50)]
    engine = toy_engine(monkeypatch, zero, one, {"bfloat16": np.inf}, precision="bfloat16", mask_rate=1.0)
    scored, _ = score_certain(engine, encoded(sentences))
    tables = [np.stack([zero[words], one[words]], axis=1) for words in sentences]
    nothing = np.zeros(60, bool)
    assert masks_of(scored) == [rule(z, words, nothing, 1.0) for z, words in zip(tables, sentences, strict=True)]


@pytest.mark.skipif(torch.cuda.is_available(), reason="kernels run on the device here")
def test_the_device_path_in_tritons_interpreter():
    model, sentences = masker_of("distilbert"), sentences_of(26, 12)
    expected, _ = score_certain(engine_of(model), encoded(sentences))
    engine = engine_of(model, kernels="triton")
    found, _ = score_certain(engine, encoded(sentences))
    assert engine.levels == ("float16", "float32", "float64")
    assert engine.describe()["kernels"] == "packed/triton-interpreter"
    assert masks_of(found) == masks_of(expected)


# whole runs


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, golden_dir) -> str:
    rows = [{"text": row["text"], "label": row["label"]} for row in golden(golden_dir, "mr_tiny_0.05")[:60]]
    return write_jsonl(tmp_path_factory.mktemp("corpus") / "corpus.jsonl", rows)


@pytest.fixture(scope="module")
def masker(tmp_path_factory, corpus, mr_tiny) -> str:
    """A masker that learned for a moment from masks by greedy."""
    folder = tmp_path_factory.mktemp("masker")
    score_corpus([corpus], str(folder / "greedy"), ScoreConfig(model=mr_tiny, shard_rows=25))
    result = fastmask("train-masker", folder / "greedy", "--init", mr_tiny, "-o", folder / "masker", "--epochs", 2,
                      "--lr", 5e-4, "--batch-size", 8)  # fmt: skip
    assert result.exit_code == 0, result.stderr
    return str(folder / "masker")


def score(corpus, out, masker, *more):
    return fastmask("score", corpus, "-o", out, "--method", "masker", "--model", masker, "--shard-rows", 25, *more)


def test_a_run_and_its_random_twin(corpus, masker, tmp_path):
    out, twin = tmp_path / "out", tmp_path / "twin"
    result = score(corpus, out, masker, "--control", twin)
    assert result.exit_code == 0, result.stderr
    ours, theirs = rows_of(out), rows_of(twin)
    assert sum(len(row["mask_index"]) for row in ours) > 50
    for row, other in zip(ours, theirs, strict=True):
        assert len(row["mask_index"]) == len(other["mask_index"]) <= max(1, int(0.15 * len(row["input_ids"]) + 1e-9))
        assert {**row, "mask_index": [], "importance": None} == {**other, "mask_index": []}
        assert row["predicted"] is None and row["prob"] is None and len(row["importance"]) == len(row["input_ids"])
        assert all(row["importance"][position] > 0.5 for position in row["mask_index"])
    assert [row["mask_index"] for row in ours] != [row["mask_index"] for row in theirs]
    for directory in (out, twin):
        assert fastmask("verify", directory).exit_code == 0
    assert fastmask("inspect", out, "--rows", 3).exit_code == 0
    assert open_shards(twin).manifest["config"]["like"] == str(out)
    assert open_shards(out).manifest["config"]["mask_rate"] == 0.15  # the masker's own, which nobody had to give
    before = {path: path.stat().st_mtime_ns for path in (*out.iterdir(), *twin.iterdir())}
    assert score(corpus, out, masker, "--control", twin).stderr.count("nothing to do") == 2
    assert {path: path.stat().st_mtime_ns for path in (*out.iterdir(), *twin.iterdir())} == before
    (out / "shard-00001.parquet").unlink()
    assert "made again, identical" in fastmask("verify", out, "--repair").stdout


@torch.inference_mode()
def test_the_run_follows_the_rule(corpus, masker, tmp_path):
    model = AutoModelForTokenClassification.from_pretrained(masker, dtype=torch.float64).eval()
    assert model.config.id2label == {0: "keep", 1: "mask"}
    out = tmp_path / "out"
    assert score(corpus, out, masker, "--stop-words", "none").exit_code == 0
    special = open_shards(out).manifest["tokenizer"]["special_ids"]
    for row in rows_of(out):
        ids = torch.tensor([[special["cls"], *row["input_ids"], special["sep"]]])
        logits = model(ids).logits[0, 1:-1].numpy()
        assert row["mask_index"] == rule(logits, row["input_ids"], np.zeros(8192, bool))


def test_greedy_has_a_control_too(corpus, mr_tiny, tmp_path):
    manifest = score_corpus([corpus], str(tmp_path / "a"), ScoreConfig(model=mr_tiny, mask_rate=0.2),
                            control=str(tmp_path / "b"))  # fmt: skip
    counts = [[len(row["mask_index"]) for row in rows_of(tmp_path / name)] for name in "ab"]
    assert counts[0] == counts[1] and sum(counts[0]) == manifest["totals"]["masked"]


def test_standard_input_and_its_control(masker, corpus, tmp_path):
    texts = [json.loads(line)["text"] for line in Path(corpus).read_text().splitlines()[:9]]
    arguments = ["score", "-", "-o", tmp_path / "a", "--method", "masker", "--model", masker]
    more = ["--shard-rows", 4, "--control", tmp_path / "b"]
    result = process(*arguments, *more, input="\n".join(texts))
    assert result.returncode == 0, result.stderr
    counts = [[len(row["mask_index"]) for row in rows_of(tmp_path / name)] for name in "ab"]
    assert counts[0] == counts[1] and sum(counts[0])
    alone = score_texts(texts, model=masker, method="masker")
    assert [record.mask_index.tolist() for record in alone] == [row["mask_index"] for row in rows_of(tmp_path / "a")]


def test_refusals(corpus, masker, mr_tiny, tmp_path):
    out = str(tmp_path / "out")
    assert "--method masker: name its model by --model" in refusal(
        fastmask("score", corpus, "-o", out, "--method", "masker")
    )
    assert "mr-tiny: is not a token classifier" in refusal(score(corpus, out, mr_tiny))
    assert "--control" in refusal(score(corpus, out, masker, "--control", out))
    result = fastmask("score", corpus, "-o", out, "--method", "random", "--control", tmp_path / "twin")
    assert "--control" in refusal(result) and not Path(out).exists()


def test_three_classes_are_refused(masker, tmp_path, corpus):
    other = AutoModelForTokenClassification.from_pretrained(masker, num_labels=3, ignore_mismatched_sizes=True)
    other.save_pretrained(tmp_path / "three")
    for file in Path(masker).glob("tokenizer*"):
        (tmp_path / "three" / file.name).write_bytes(file.read_bytes())
    assert "has 3 classes instead of two" in refusal(score(corpus, tmp_path / "out", tmp_path / "three"))


def test_texts_in_memory(masker):
    records = list(score_texts(["A moving, funny film.", ("Dull.", 1)], model=masker, method="masker", mask_rate=0.5))
    assert [record.predicted for record in records] == [None, None] and records[1].label == 1
    assert all(0 <= p <= 1 for record in records for p in record.importance)
