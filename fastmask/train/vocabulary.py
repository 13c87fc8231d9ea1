"""A lower-cased wordpiece vocabulary learned from text, the same one in every process."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
MAX_ALPHABET = 1000
PREFIX = "##"


def learn_wordpieces(texts: Iterable[str], size: int, max_length: int) -> PreTrainedTokenizerFast:
    """Learn at most ``size`` wordpieces as BERT's own tokenizer would split and lower-case the text.

    The library's trainer numbers continuation letters in the order of a hash map that differs from run to
    run, and breaks ties between merges by those numbers. Giving it every letter, sorted, as a special token
    fixes the numbers; the tokenizer is then built afresh from the vocabulary, where they are plain pieces.

    Args:
        texts: the documents; read twice, so a list.
        size: wordpieces wanted, special tokens and letters included.
        max_length: ``model_max_length`` of the tokenizer.
    """
    from tokenizers import Tokenizer, models, trainers

    texts = list(texts)
    learner = _tokenizer(Tokenizer(models.WordPiece(unk_token="[UNK]")))
    letters = _letters(learner, texts)
    trainer = trainers.WordPieceTrainer(
        vocab_size=size, min_frequency=2, show_progress=False, special_tokens=[*SPECIAL_TOKENS, *letters]
    )
    learner.train_from_iterator(texts, trainer)
    vocabulary = models.WordPiece(learner.get_vocab(), unk_token="[UNK]")
    return _for_transformers(_tokenizer(Tokenizer(vocabulary)), max_length)


def _tokenizer(tokenizer):
    from tokenizers import normalizers, pre_tokenizers

    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer


def _letters(tokenizer, texts: list[str]) -> list[str]:
    """Return every letter that begins or continues a word, the most frequent MAX_ALPHABET of each, sorted."""
    words: Counter[str] = Counter()
    for text in texts:
        normal = tokenizer.normalizer.normalize_str(text)
        words.update(word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(normal))
    first: Counter[str] = Counter()
    inner: Counter[str] = Counter()
    for word, count in words.items():
        first[word[0]] += count
        for letter in word[1:]:
            inner[PREFIX + letter] += count
    return _most_frequent(first) + _most_frequent(inner)


def _most_frequent(letters: Counter[str]) -> list[str]:
    ranked = sorted(letters, key=lambda piece: (-letters[piece], piece))
    return sorted(ranked[:MAX_ALPHABET])


def _for_transformers(tokenizer, max_length: int) -> PreTrainedTokenizerFast:
    from tokenizers import AddedToken, decoders, processors
    from transformers import PreTrainedTokenizerFast

    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in SPECIAL_TOKENS])
    ends = [(token, tokenizer.token_to_id(token)) for token in ("[SEP]", "[CLS]")]
    tokenizer.post_processor = processors.BertProcessing(*ends)
    tokenizer.decoder = decoders.WordPiece(prefix=PREFIX)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=max_length, pad_token="[PAD]", unk_token="[UNK]",
        cls_token="[CLS]", sep_token="[SEP]", mask_token="[MASK]",
    )  # fmt: skip
