"""Input embeddings by name, and the pieces of a word inside a sentence."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from fastmask.core.errors import ModelError
from fastmask.models.directory import ModelFiles
from fastmask.models.embeddings import WordEmbeddings
from fastmask.scoring.similar import word_pieces
from fastmask.text.tokens import TextEncoder


def files(folder, tensors) -> ModelFiles:
    save_file(tensors, folder / "model.safetensors")
    return ModelFiles(folder, "toy", True, {}, (), 0, "")


def byte_level() -> PreTrainedTokenizerFast:
    """It has a, good, Ġgood and the pieces of these; other letters are unknown to it."""
    pieces = ["a", "g", "o", "d", "Ġ", "go", "od", "good", "Ġgood", "<unk>"]
    merges = [("g", "o"), ("o", "d"), ("go", "od"), ("Ġ", "good")]
    tokenizer = Tokenizer(models.BPE({piece: k for k, piece in enumerate(pieces)}, merges, unk_token="<unk>"))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


@pytest.mark.parametrize("kind", [torch.float32, torch.float16, torch.bfloat16])
def test_the_mean_over_pieces_as_inside_a_sentence(kind, tmp_path):
    table = torch.arange(20.0).reshape(10, 2)
    model = files(tmp_path, {"m.decoder.weight": table + 1, "m.embed_tokens.weight": table.to(kind)})
    tokenizer = byte_level()
    pieces = word_pieces(["good", "goood", "gx"], TextEncoder(tokenizer.backend_tokenizer))
    has_one, rows = WordEmbeddings(model, tokenizer).of(*pieces)
    assert has_one.tolist() == [True, True, False]
    # "Ġgood" is 8; " goood" is Ġ 4, go 5, o 2, od 6: the means of rows (2 k, 2 k + 1)
    assert np.array_equal(rows, [[16, 17], [8.5, 9.5], [0, 0]])


def test_models_whose_embeddings_are_not_found(tmp_path):
    with pytest.raises(ModelError, match="input embeddings are not known by name"):
        WordEmbeddings(files(tmp_path, {"m.other.weight": torch.zeros(10, 2)}), byte_level())
    with pytest.raises(ModelError, match="has 9 input embeddings for 10 ids"):
        WordEmbeddings(files(tmp_path, {"m.wte.weight": torch.zeros(9, 2)}), byte_level())
