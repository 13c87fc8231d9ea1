"""Selective masks with Hugging Face's ``Trainer``: train any ``AutoModelForMaskedLM`` on finished shards.

    python examples/hf_trainer.py SHARDS MODEL OUT [STEPS]

MODEL is a directory or hub id whose tokenizer made the shards (``fastmask remap`` turns them into another one's). Needs
``accelerate``, as the trainer does: the extra ``hf``. On several devices:

    torchrun --standalone --nproc-per-node 2 examples/hf_trainer.py ...
"""

from __future__ import annotations

import gc
import sys
from importlib.util import find_spec

import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer, PreTrainedModel, Trainer, TrainingArguments

from fastmask import SelectiveMaskCollator, TorchStream, TrainingStream


def train(
    shards: str, model: PreTrainedModel, tokenizer, out: str, steps: int, batch_size: int = 32, lr: float = 2e-5
) -> Trainer:
    """Trains ``model`` for ``steps`` batches and returns the trainer; documents' sentences are joined up to 128 tokens.

    The stream never ends and says which epoch each sequence belongs to, so the collator draws what becomes of
    masked tokens anew in each. Leave its rank and world as they are: the trainer divides it among processes.
    """
    # Most heads return a mean over their batch, whatever Trainer tells them. Unless it knows, it takes the sum over
    # processes and accumulated batches for their mean.
    model.accepts_loss_kwargs = False
    stream = TrainingStream(shards, max_length=128, seed=0, masked_only=True)
    arguments = TrainingArguments(
        output_dir=out,
        max_steps=steps,
        per_device_train_batch_size=batch_size,
        learning_rate=lr,
        # each process makes its own batches: one cannot cut up for all what is not of one width
        accelerator_config={"dispatch_batches": False},
        # or processes on a machine without an accelerator would not know of each other
        use_cpu=not torch.accelerator.is_available(),
        logging_steps=max(1, steps // 4),
        save_strategy="no",
        report_to=[],
    )
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=TorchStream(stream, batch_size),
        data_collator=SelectiveMaskCollator(tokenizer),
    )
    trainer.train()
    return trainer


if __name__ == "__main__":
    if not find_spec("accelerate"):
        sys.exit("hf_trainer.py: Trainer needs accelerate; pip install -c constraints.txt '.[hf]'")
    shards, name, out, *rest = sys.argv[1:]
    tokenizer = AutoTokenizer.from_pretrained(name)
    trained = train(shards, AutoModelForMaskedLM.from_pretrained(name), tokenizer, out, int(*rest or [100]))
    trained.save_model(out)
    tokenizer.save_pretrained(out)
    if torch.distributed.is_initialized():
        # its threads end with the last that knows it, the trainer's wrapped model, or may abort a process at its end
        del trained
        gc.collect()
        torch.distributed.destroy_process_group()
