"""Refusing files that have to be converted once, with the command that does it."""

from __future__ import annotations

from pathlib import Path

from ..core.errors import ModelError

WEIGHTS, WEIGHTS_INDEX = "model.safetensors", "model.safetensors.index.json"
TOKENIZER = "tokenizer.json"
PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")


def check_converted(path: Path, name: str, config: dict, is_local: bool) -> None:
    """Raise ModelError, with the command that converts it, where a model has pickled weights or a bare spm.model only.

    Args:
        path: of its files.
        name: what the user called it.
        config: its config.json.
        is_local: whether it is the user's directory; else pickles are not downloaded.
    """
    if not any((path / weights).is_file() for weights in (WEIGHTS, WEIGHTS_INDEX)):
        if pickle := next((pickle for pickle in PICKLES if (path / pickle).is_file()), None):
            raise ModelError(f"{name}: its weights are pickled ({pickle}), and a pickle can run code when it is read; "
                             f"if you trust it, convert it once: {_command(name, config)}")  # fmt: skip
        if not is_local:
            raise ModelError(f"{name}: has no {WEIGHTS} on the hub; if its weights are pickled, and you trust them, "
                             f"convert them once: {_command(name, config)}")  # fmt: skip
    if not (path / TOKENIZER).is_file() and (bare := sorted(path.glob("*.model"))):
        raise ModelError(f"{name}: its tokenizer is {bare[0].name} alone, without {TOKENIZER}; convert it once, "
                         f"with sentencepiece and protobuf installed: {_command(name, config)}")  # fmt: skip


def _command(name: str, config: dict) -> str:
    """Return the command that writes a model with safetensors and tokenizer.json to a directory of its name."""
    known = config.get("architectures")
    # of a file that nobody has looked at, in a line that is made to be run
    kind = known[0] if isinstance(known, list) and known and str(known[0]).isidentifier() else "AutoModel"
    read = f"n, out = {name!r}, {f'{Path(name).name}-safe'!r}; [k.from_pretrained(n).save_pretrained(out) for k in "
    return f'python -c "import transformers as t; {read}(t.{kind}, t.AutoTokenizer)]"'
