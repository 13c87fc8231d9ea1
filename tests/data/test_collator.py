"""``SelectiveMaskCollator``: batches by hand and against ``corrupt``, and Hugging Face's Trainer learning from them."""

import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import golden, write_jsonl
from torch.utils.data import DataLoader
from transformers import AutoTokenizer, BertConfig, BertForMaskedLM, Trainer, TrainerCallback, TrainingArguments

from fastmask import (
    ScoreConfig,
    SelectiveMaskCollator,
    TorchStream,
    TrainingStream,
    open_shards,
    remap_masks,
    score_corpus,
)
from fastmask.core.errors import FastmaskError, ModelError
from fastmask.data.corruption import corrupt, ordinary_ids
from fastmask.models.tokenizer import special_ids
from fastmask.train.vocabulary import learn_wordpieces

EXAMPLE = Path(__file__).parents[2] / "examples" / "hf_trainer.py"


@pytest.fixture(scope="module")
def tokenizer(mr_tiny):
    return AutoTokenizer.from_pretrained(mr_tiny)


@pytest.fixture(scope="module")
def shards(tmp_path_factory, mr_tiny, golden_dir) -> str:
    folder = tmp_path_factory.mktemp("collator")
    rows = [{"text": row["text"]} for row in golden(golden_dir, "mr_tiny_0.05")[:60]]
    config = ScoreConfig(model=mr_tiny, method="random", mask_rate=0.2)
    score_corpus([write_jsonl(folder / "corpus.jsonl", rows)], str(folder / "out"), config)
    return str(folder / "out")


def tiny_bert(**options) -> BertForMaskedLM:
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    return BertForMaskedLM(BertConfig(vocab_size=8192, **shape, **options))


def row(number, ids, masks, sentence=0):
    return {"row": number, "sentence": sentence, "input_ids": ids, "mask_index": masks, "prob": None}


def expected(tokenizer, ids, at, keys, seed=0, epoch=0):
    special = special_ids(tokenizer)
    columns = zip(*keys, strict=True) if keys else ([], [], [])
    arrays = (np.array(list(column), kind) for column, kind in zip(columns, ("i8", "i4", "i4"), strict=True))
    return corrupt(
        np.array(ids, np.int32), np.array(at, np.int64), *arrays,
        seed=seed, epoch=epoch, mask_id=special["mask"], ordinary=ordinary_ids(len(tokenizer), special),
    ).tolist()  # fmt: skip


def test_rows_by_hand(tokenizer):
    cls, sep = tokenizer.cls_token_id, tokenizer.sep_token_id
    batch = SelectiveMaskCollator(tokenizer)([row(7, [50, 51, 52], [0, 2]), row(9, [60], [], sentence=4)])
    first = expected(tokenizer, [cls, 50, 51, 52, sep], [1, 3], [(7, 0, 0), (7, 0, 2)])
    assert batch["input_ids"].tolist() == [first, [cls, 60, sep, 0, 0]]
    assert batch["labels"].tolist() == [[-100, 50, -100, 52, -100], [-100] * 5]
    assert batch["attention_mask"].tolist() == [[1] * 5, [1, 1, 1, 0, 0]]
    assert batch["token_type_ids"].tolist() == [[0] * 5] * 2
    assert {tensor.dtype for tensor in batch.values()} == {torch.int64}
    without = SelectiveMaskCollator(tokenizer, token_type_ids=False)([row(7, [50], [0])])
    assert list(without) == ["input_ids", "attention_mask", "labels"]


def same(left: dict, right: dict) -> bool:
    return left.keys() == right.keys() and all(torch.equal(tensor, right[name]) for name, tensor in left.items())


def test_rows_as_other_libraries_give_them(shards, tokenizer, tmp_path):
    """Rows, and slices of eight, which are a dictionary of lists in ``datasets`` and a table in pandas."""
    import datasets

    collator, opened = SelectiveMaskCollator(tokenizer), open_shards(shards)
    expected = collator([opened[k] for k in range(8)])
    assert same(collator(opened[:8]), expected)
    assert same(collator(opened.to_table().slice(0, 8).to_pydict()), expected)
    plain = datasets.load_dataset("parquet", data_files=f"{shards}/*.parquet", split="train", cache_dir=str(tmp_path))
    for form in (None, "torch", "numpy", "pandas"):
        rows = plain.with_format(form)
        assert same(collator(rows[:8]), expected), form
        if form != "pandas":
            assert same(collator([rows[k] for k in range(8)]), expected), form
    frame = opened.to_table().to_pandas()
    assert same(collator(frame[:8]), expected)
    assert same(collator([frame.iloc[k] for k in range(8)]), expected)


def test_long_rows_are_cut_and_empty_ones_left_out(tokenizer):
    batch = SelectiveMaskCollator(tokenizer, max_length=5)([row(0, [], []), row(1, [50, 51, 52, 53], [1, 3])])
    assert batch["input_ids"].shape == (1, 5) and batch["labels"].tolist() == [[-100, -100, 51, -100, -100]]


def test_packed_rows_share_sequences(tokenizer):
    cls, sep = tokenizer.cls_token_id, tokenizer.sep_token_id
    rows = [row(0, [50, 51], [1]), row(1, [60], [0]), row(1, [61], [], sentence=1), row(2, [70] * 4, [2])]
    batch = SelectiveMaskCollator(tokenizer, max_length=9, pack=True)(rows)
    assert batch["labels"].tolist() == [
        [-100, -100, 51, -100, 60, -100, -100], [-100, -100, -100, 70, -100, -100, -100],
    ]  # fmt: skip
    assert batch["attention_mask"].tolist() == [[1] * 7, [1] * 6 + [0]]
    assert batch["input_ids"][0, [0, 1, 3, 5, 6]].tolist() == [cls, 50, sep, 61, sep]
    assert batch["input_ids"][1].tolist()[:3] == [cls, 70, 70]


def test_shares(tokenizer):
    rows = [row(3, list(range(100, 200)), list(range(100)))]
    batch = SelectiveMaskCollator(tokenizer, shares=(1, 0, 0))(rows)
    assert batch["input_ids"][0, 1:-1].tolist() == [tokenizer.mask_token_id] * 100
    with pytest.raises(FastmaskError, match=r"shares \[0.8, 0.1\]: three numbers from 0 on"):
        SelectiveMaskCollator(tokenizer, shares=(0.8, 0.1))


def test_epochs(tokenizer):
    rows = [row(3, list(range(100, 200)), list(range(100)))]
    collator = SelectiveMaskCollator(tokenizer, seed=11)
    zero, again = (collator(rows)["input_ids"] for _ in range(2))
    assert torch.equal(zero, again)
    collator.set_epoch(2)
    ids = [tokenizer.cls_token_id, *range(100, 200), tokenizer.sep_token_id]
    keys = [(3, 0, position) for position in range(100)]
    assert collator(rows)["input_ids"][0].tolist() == expected(tokenizer, ids, range(1, 101), keys, 11, 2)
    assert not torch.equal(zero, collator(rows)["input_ids"])


@pytest.mark.parametrize("workers", [0, 2])
def test_sequences_of_a_stream(shards, tokenizer, workers):
    """Pairs keep their own epoch, also in a batch that holds the end of one and the start of the next."""
    stream = TrainingStream(shards, max_length=64, seed=3)
    loader = DataLoader(
        TorchStream(stream, 8), batch_size=8, collate_fn=SelectiveMaskCollator(tokenizer, seed=5), num_workers=workers
    )
    items, number = iter(TrainingStream(shards, max_length=64, seed=3)), 0
    for batch, _ in zip(loader, range(len(stream) // 8 + 3), strict=False):
        for ids, labels, mask in zip(batch["input_ids"], batch["labels"], batch["attention_mask"], strict=True):
            epoch, example = next(items)
            keys = list(zip(example.row, example.sentence, example.position, strict=True))
            assert ids[mask.bool()].tolist() == expected(tokenizer, example.input_ids, example.at, keys, 5, epoch)
            assert labels.nonzero().numel() and (labels >= 0).nonzero().ravel().tolist() == example.at.tolist()
            number += epoch
    assert number > 0


def test_rows_and_plain_examples_agree(shards, tokenizer):
    """A document of one sentence is the same sequence either way."""
    rows = [each for each in open_shards(shards) if each["mask_index"]][:20]
    counts = {each["row"]: 0 for each in open_shards(shards)}
    for each in open_shards(shards):
        counts[each["row"]] += 1
    rows = [each for each in rows if counts[each["row"]] == 1]
    examples = [e for e in TrainingStream(shards, max_length=512, seed=0, shuffle=False).epoch()
                if len(e.row) and e.row[0] in {each["row"] for each in rows}]  # fmt: skip
    assert len(rows) == len(examples) > 5
    collator = SelectiveMaskCollator(tokenizer)
    for name, tensor in collator(rows).items():
        assert torch.equal(tensor, collator(examples)[name]), name


def test_another_tokenizers_rows(shards, tokenizer):
    rows = [each for each in remap_masks(shards, tokenizer) if len(each["mask_index"])]
    collator = SelectiveMaskCollator(tokenizer)
    own = collator([each for each in open_shards(shards) if each["mask_index"]])
    assert all(torch.equal(tensor, own[name]) for name, tensor in collator(rows).items())


def test_packing_changes_no_target(shards, tokenizer):
    rows = list(open_shards(shards))[:30]
    plain, packed = (SelectiveMaskCollator(tokenizer, pack=pack)(rows)["labels"] for pack in (False, True))
    assert len(packed) < len(plain)
    assert plain[plain >= 0].tolist() == packed[packed >= 0].tolist()


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"input_ids": [5]}], r'a row has no "row": .*remove_unused_columns=False'),
        ([row(0, [50], []), row(1, [51], [])], "no token of a batch is masked"),
        ([row(3, [9000], [0])], "id 9000 in row 3: the tokenizer has 8192 ids"),
        ([row(3, [50], [1])], "row 3: mask_index is not ascending or leaves its 1 token"),
        ([row(3, [50, 51], [1, 0])], "row 3: mask_index is not ascending"),
        ([row(3, [50, 51.5], [1])], "row 3: input_ids: one row of whole numbers, not float64"),
        ([row(3, [50, -1], [1])], "row 3: input_ids: -1 to 50"),
        (row(3, [50], [0]), "this is one row: put it into a list"),
        ({"row": [3], "sentence": [0], "input_ids": [[50]]}, 'a row has no "mask_index"'),
        ({"row": [3, 4], "sentence": [0], "input_ids": [[50]], "mask_index": [[0]]}, "different lengths: 2 row, 1 sen"),
        (["Great coffee"], "a batch holds rows of shards as dictionaries, or sequences of a stream, not a str"),
        ([(0, 1, 2)], "not a tuple"),
    ],
)
def test_bad_rows(rows, said, tokenizer):
    with pytest.raises(FastmaskError, match=said):
        SelectiveMaskCollator(tokenizer)(rows)


def test_sequences_of_another_tokenizer(shards, tokenizer, tmp_path):
    """Their ids are all known, and mean other tokens; a copy of the shards' own tokenizer is taken."""
    example = next(TrainingStream(shards, max_length=64, seed=0).epoch())
    tokenizer.save_pretrained(tmp_path / "copy")
    SelectiveMaskCollator(AutoTokenizer.from_pretrained(tmp_path / "copy"))([example])
    other = learn_wordpieces(["Great coffee, terrible parking."] * 2, 100, 64)
    other.add_tokens([f"more{k}" for k in range(8192)])
    other.save_pretrained(tmp_path / "other")
    said = (
        "out: was made with the tokenizer of .*mr-tiny, which is not that of .*other; fastmask remap .*out --tokenizer"
    )
    with pytest.raises(ModelError, match=said):
        SelectiveMaskCollator(AutoTokenizer.from_pretrained(tmp_path / "other"))([(0, example)])


def test_bad_settings(tokenizer, shards):
    with pytest.raises(FastmaskError, match="max_length 2"):
        SelectiveMaskCollator(tokenizer, max_length=2)
    example = next(TrainingStream(shards, max_length=64, seed=0).epoch())
    with pytest.raises(FastmaskError, match="mixes rows"):
        SelectiveMaskCollator(tokenizer)([row(0, [50], [0]), example])
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    bare = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0}, "a")))
    with pytest.raises(ModelError, match="no mask token"):
        SelectiveMaskCollator(bare)


def test_hugging_face_trainer_learns_from_the_example(shards, tokenizer, tmp_path):
    pytest.importorskip("accelerate")
    example = runpy.run_path(str(EXAMPLE))
    trainer = example["train"](shards, tiny_bert(), tokenizer, str(tmp_path / "out"), 20, batch_size=4, lr=5e-3)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert trainer.state.global_step == 20 and len(losses) == 4
    assert losses == sorted(losses, reverse=True) and losses[-1] < losses[0] - 0.25


def test_hugging_face_trainer_on_rows(shards, tokenizer, tmp_path):
    """Rows of an open shard directory, shuffled by the trainer; a callback moves the collator's epoch on."""
    pytest.importorskip("accelerate")
    collator, seen = SelectiveMaskCollator(tokenizer), []

    class NextEpoch(TrainerCallback):
        def on_epoch_begin(self, args, state, control, **kwargs):
            collator.set_epoch(round(state.epoch or 0))
            seen.append(collator.epoch)

    arguments = TrainingArguments(
        output_dir=str(tmp_path), num_train_epochs=2, per_device_train_batch_size=32, save_strategy="no",
        report_to=[], disable_tqdm=True, remove_unused_columns=False,
    )  # fmt: skip
    dataset = open_shards(shards)
    trainer = Trainer(model=tiny_bert(), args=arguments, train_dataset=dataset, data_collator=collator,
                      callbacks=[NextEpoch()])  # fmt: skip
    trainer.train()
    assert seen == [0, 1] and trainer.state.global_step == 2 * -(-len(dataset) // 32)
