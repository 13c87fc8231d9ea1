"""Every model type that transformers can classify or fill masks with, tiny and random, through every command.

    python benchmarks/every_type.py [--types deberta-v2 mpnet ...] [--out FILE]

Prints a line a type: what each command said where it did not go well, and how the type is trained. 15 minutes for all.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import harness
import torch

sys.path.append(str(harness.ROOT / "tests"))
COMMANDS = ("finetune", "score", "explain", "train-masker", "score --method masker", "pretrain", "evaluate")
LARGEST = 10_000_000  # parameters; what is larger has a size that no field of its configuration tells
SHORT = ("--epochs", 1, "--batch-size", 8, "--max-length", 40)


def known_types() -> dict[str, str]:
    """Each type, and the class to start from: a masked-language model where there is one."""
    from transformers.models.auto import modeling_auto as tables

    classifiers = tables.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES, (
        tables.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES)  # fmt: skip
    found = {name: "" for table in classifiers for name in table}
    return found | dict.fromkeys(tables.MODEL_FOR_MASKED_LM_MAPPING_NAMES, "MaskedLM")


def size_of(kind: str, task: str) -> int:
    """The number of parameters of the tiny model of a type, which is not built for it."""
    import transformers
    from tiny_models import TEXTS, tiny_config

    from fastmask.train.vocabulary import learn_wordpieces

    config = tiny_config(kind, learn_wordpieces(TEXTS, 150, 64))
    with torch.device("meta"):
        model = getattr(transformers, f"AutoModel{task and 'For'}{task}").from_config(config)
    return sum(parameter.numel() for parameter in model.parameters())


def prepare(folder: Path) -> None:
    """Labelled texts, a corpus, and its masks by a classifier whose tokenizer all models have."""
    from helpers import fastmask, write_jsonl
    from tiny_models import TEXTS, tiny_model

    write_jsonl(folder / "train.jsonl", [{"text": text, "label": n % 2} for n, text in enumerate(TEXTS)])
    (folder / "corpus.txt").write_text("".join(f"{text[: 60 - 3 * n]}\n" for n, text in enumerate(TEXTS)), "utf-8")
    classifier = tiny_model(folder / "bert", "bert", "SequenceClassification")
    made = fastmask("score", folder / "corpus.txt", "--model", classifier, "-o", folder / "masks", "--threshold", 0.001,
                    "--mask-rate", 0.3, "--max-length", 40, "--stop-words", "none")  # fmt: skip
    assert made.exit_code == 0, made.stderr


def outcomes(kind: str, task: str, data: Path, folder: Path) -> dict[str, str]:
    """What each command came to, "ok" or its error, and under "trained" how ``pretrain`` runs the type."""
    from helpers import fastmask
    from tiny_models import tiny_model

    if size_of(kind, task) > LARGEST:
        return {}
    start = tiny_model(folder / "start", kind, task)
    model, masker, masks = folder / "model", folder / "masker", data / "masks"
    calls = {
        "finetune": ("finetune", data / "train.jsonl", "--init", start, "-o", model, *SHORT),
        "score": ("score", data / "corpus.txt", "--model", model, "-o", folder / "scored", "--max-length", 40),
        "explain": ("explain", "the film was great", "--model", model, "--max-length", 40),
        "train-masker": ("train-masker", masks, "--init", start, "-o", masker, "--dev-share", 0.2, *SHORT),
        "score --method masker": ("score", data / "corpus.txt", "--method", "masker", "--model", masker, "-o",
                                  folder / "tagged", "--max-length", 40),
        "pretrain": ("pretrain", masks, "--eval", masks, "--init", start, "-o", folder / "pre", "--max-steps", 2,
                     "--batch-size", 8, "--max-length", 40),
        "evaluate": ("evaluate", "--arm", f"a={model}", "--test", data / "train.jsonl", "--max-length", 40),
    }  # fmt: skip
    found = {}
    for name, arguments in calls.items():
        result = fastmask(*arguments)
        lines = result.stderr.strip().splitlines() or [repr(result.exception)]
        found[name] = "ok" if result.exit_code == 0 else lines[-1].replace(str(folder), "")
        if name == "pretrain" and result.exit_code == 0:
            own = [line for line in lines if "own forward" in line]
            found["trained"] = "packed" if not own else "padded" if "padded" in own[0] else "one length at a time"
    return found


def main() -> None:
    """Run what the command line asks for."""
    parser = harness.parser(__doc__)
    parser.add_argument("--types", nargs="*", help="only these")
    options = parser.parse_args()
    torch.set_num_threads(harness.cores(options.threads))
    table = {}
    with tempfile.TemporaryDirectory() as data:
        prepare(Path(data))
        for kind, task in known_types().items():
            if options.types and kind not in options.types:
                continue
            with tempfile.TemporaryDirectory() as folder:
                try:
                    table[kind] = outcomes(kind, task, Path(data), Path(folder))
                except Exception as error:  # each configuration its own
                    table[kind] = {"not made": repr(error)[:200]}
            faults = {name: said for name, said in table[kind].items() if said != "ok"}
            print(kind, faults or (table[kind] and "ok") or "too large", flush=True)
    if options.out:
        options.out.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
