"""A byte-level tokenizer, and texts whose characters it splits."""

from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

TEXTS = [
    "Great coffee, terrible parking. We'll be back!",
    "naïve café 日本語 🙂🙂 ok.",
    "x",
    "Unbelievably long words.",
]


def byte_bpe(trim: bool) -> PreTrainedTokenizerFast:
    """A small byte-level BPE as RoBERTa has it; its characters may be split into bytes, which share a span."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=trim)
    tokenizer.train_from_iterator(TEXTS * 3, trainers.BpeTrainer(vocab_size=300, show_progress=False))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", mask_token="<mask>")
