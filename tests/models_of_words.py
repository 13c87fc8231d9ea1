"""Tokenizers of each kind with the vocabulary that a test names."""

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast


def tokenizer_of(kind: str, pieces) -> PreTrainedTokenizerFast:
    vocabulary = {piece: index for index, piece in enumerate(["<unk>", *pieces])}
    wordpiece, bpe = models.WordPiece(vocabulary, unk_token="<unk>"), models.BPE(vocabulary, [])
    metaspace = Tokenizer(models.Unigram([(piece, 0.0) for piece in vocabulary], unk_id=0))
    metaspace.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    llama = Tokenizer(models.BPE(vocabulary, [], byte_fallback=True))
    llama.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    byte_level = Tokenizer(bpe)
    byte_level.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(), pre_tokenizers.ByteLevel()])
    byte_level.decoder = decoders.ByteLevel()
    suffix = Tokenizer(models.BPE(vocabulary, [], end_of_word_suffix="</w>"))
    prefix = Tokenizer(models.BPE(vocabulary, [], continuing_subword_prefix="@@"))
    made = {"wordpiece": Tokenizer(wordpiece), "byte-level": byte_level, "metaspace": metaspace, "llama": llama,
            "suffix": suffix, "prefix": prefix, "words": Tokenizer(models.WordLevel(vocabulary, "<unk>"))}  # fmt: skip
    return PreTrainedTokenizerFast(tokenizer_object=made[kind], unk_token="<unk>")
