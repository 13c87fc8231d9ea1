"""What several test files share: toy classifiers, corpora, and the command in this process or in another."""

import json
import os
import signal
import subprocess
import sys
from functools import cache
from itertools import pairwise
from pathlib import Path
from zlib import crc32

import numpy as np
from click.testing import CliRunner

from fastmask.cli import cli
from fastmask.core.config import ScoreConfig
from fastmask.core.records import EncodedSentences
from fastmask.models.directory import load_tokenizer, resolve_model
from fastmask.models.packing import Template
from fastmask.models.pieces import never_masked
from fastmask.models.template import template_of
from fastmask.models.weights import load_weights
from fastmask.scoring.engine import Engine
from fastmask.scoring.method import load_method
from fastmask.shards.reader import open_shards
from fastmask.text.stop_words import stop_words
from fastmask.text.tokens import TextEncoder

CLS, SEP = 1, 2
METHODS = ("greedy", "prefix", "leave-one-out")
FIRST_ID = 3
"""Ids of toy vocabularies below this are special."""
TEXT_TEMPLATE = Template(np.array([CLS], np.int32), np.empty(0, np.int32), np.array([SEP], np.int32), 0)
PAIR_TEMPLATE = Template(*(np.array(ids, np.int32) for ids in ([CLS], [SEP], [SEP])), 1)


def offsets_of(lists) -> np.ndarray:
    return np.cumsum([0, *map(len, lists)], dtype=np.int64)


def flat(lists, dtype=np.int32) -> np.ndarray:
    return np.array([value for values in lists for value in values], dtype)


def split(offsets, values) -> list[list]:
    return [values[a:b].tolist() for a, b in pairwise(offsets)]


def encoded(sentences, labels=None, aspects=None, first_row=0) -> EncodedSentences:
    """Toy sentences, a row each: lists of ids, and labels, or for each sentence a list of (context ids, label)."""
    n, total = len(sentences), sum(map(len, sentences))
    labels = [-1] * n if labels is None else labels
    units = [[((), label)] for label in labels] if aspects is None else aspects
    contexts = [context for group in units for context, _ in group]
    return EncodedSentences(
        row=np.arange(first_row, first_row + n),
        sentence=np.zeros(n, np.int32),
        offsets=offsets_of(sentences),
        input_ids=flat(sentences),
        char_start=np.arange(total, dtype=np.int32),
        char_end=np.arange(1, total + 1, dtype=np.int32),
        word=flat(map(range, map(len, sentences))),
        label=np.array([-1] * n if aspects is not None else labels, np.int32),
        unit_sentence=np.repeat(np.arange(n, dtype=np.int32), [len(group) for group in units]),
        unit_label=np.array([label for group in units for _, label in group], np.int32),
        context_offsets=offsets_of(contexts),
        context_ids=flat(contexts),
        is_aspect=aspects is not None,
        first_row=first_row,
        end_row=first_row + n,
    )


class Toy:
    """A classifier whose logits are exact in float64 and can be computed by hand.

    Token k of a variant adds ``weights[c, id] * (1 + k % 4) / 8`` to class c, twice as much in the second part.
    Weights are whole numbers, so no sum is ever rounded.
    """

    def __init__(self, weights):
        self.weights = np.asarray(weights, np.float64)

    def logits(self, ids, types) -> np.ndarray:
        factor = (1 + np.arange(len(ids)) % 4) / 8 * (1 + np.asarray(types))
        return self.weights[:, np.asarray(ids, np.int64)] @ factor


ADDITIVE = Toy([[0] * 12, [0, 0, 0, 0, 8, 16, -8, -16, 0, 0, 0, 0]])
"""By hand: word 3 says nothing; 4 and 5 speak for class 1, 6 and 7 against it."""


def no_noise(precision, ids) -> float:
    return 0.0


class ToyEncoder:
    """A toy as an encoder; ``noise(precision, ids)`` is added to the first class's logit."""

    name = "toy"
    batch_tokens = 100
    most_tokens = sys.maxsize

    def __init__(self, toy: Toy, precision: str, noise=no_noise, asked: list | None = None, spare_tokens: int = 0):
        self.toy, self.precision, self.noise, self.spare_tokens = toy, precision, noise, spare_tokens
        self.asked = [] if asked is None else asked

    def memory(self) -> None:
        """As the protocol has it."""

    def logits(self, batch, memory=None) -> np.ndarray:
        out = []
        for a, b in pairwise(batch.cu_seqlens):
            ids, types = batch.input_ids[a:b], batch.token_type_ids[a:b]
            assert b - a <= batch.max_seqlen
            self.asked.append((self.precision, tuple(ids.tolist())))
            row = self.toy.logits(ids, types)
            row[0] += self.noise(self.precision, ids)
            out.append(row)
        return np.array(out)


def pseudo_noise(ids, size: float) -> float:
    """Between -size and size, the same for the same ids."""
    return (crc32(np.asarray(ids, np.int32).tobytes()) / 2**31 - 1) * size


def toy_engine(
    monkeypatch,
    toy,
    config,
    *,
    is_aspect=False,
    stop_ids=(),
    noise=no_noise,
    asked=None,
    spare_tokens=0,
    calibration=48,
) -> Engine:
    """An engine on a toy classifier."""

    def build(model, precision, device="cpu", kernels="auto", typed=True):
        return ToyEncoder(toy, precision, noise, asked, spare_tokens)

    monkeypatch.setattr("fastmask.scoring.backend.build_encoder", build)
    stop = np.zeros((2, toy.weights.shape[1]), bool)
    stop[:, list(stop_ids)] = True
    template = PAIR_TEMPLATE if is_aspect else TEXT_TEMPLATE
    return Engine(load_method(config), None, template, config, stop, calibration=48)


def masks_of(scored) -> list[list[int]]:
    return split(scored.mask_offsets, scored.mask_index)


@cache
def parts_of(model: str):
    """A real model, its tokenizer and template, loaded once."""
    files = resolve_model(model)
    tokenizer = load_tokenizer(files)
    weights, _ = load_weights(files, classifies_tokens=False)
    return weights, tokenizer, template_of(tokenizer.backend_tokenizer, files.name, False)


def real_engine(model: str, calibration: int = 48, **options) -> Engine:
    """An engine on a real model, at the cost of its encoders only."""
    config = ScoreConfig(model=model, **options)
    classifier, tokenizer, template = parts_of(model)
    unmaskable = never_masked(tokenizer, stop_words(config.stop_words))
    return Engine(load_method(config), classifier, template, config, unmaskable, calibration=calibration)


def encoder_of(model: str) -> TextEncoder:
    """The text encoder of a real model."""
    return TextEncoder(load_tokenizer(resolve_model(model)).backend_tokenizer)


def golden(folder: Path, name: str) -> list[dict]:
    with (folder / f"{name}.jsonl").open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def write_jsonl(path: Path, rows) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def rows_of(out) -> list[dict]:
    return list(open_shards(out))


def edit(path: Path, change) -> None:
    """Change what is in a JSON file."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def contents(out) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(out).iterdir()}


def fastmask(*arguments, **options):
    """``fastmask ARGUMENTS`` in this process: click's result, with exit_code, stdout and stderr."""
    return CliRunner().invoke(cli, [str(argument) for argument in arguments], prog_name="fastmask", **options)


def process(*arguments, **options) -> subprocess.CompletedProcess:
    """``fastmask ARGUMENTS`` in a process of its own."""
    command = [sys.executable, "-m", "fastmask", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, **options)


HELD = """
import fnmatch, os, signal, sys
pattern, left = sys.argv[1], int(sys.argv[2])
def watch(event, args):
    global left
    path = args[1] if event == "os.rename" else args[0] if event == "open" else None
    if isinstance(path, (str, os.PathLike)) and fnmatch.fnmatch(os.fspath(path), pattern):
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGSTOP)
sys.addaudithook(watch)
sys.argv[:3] = ["fastmask"]
from fastmask.cli import main
main()
"""


def held(pattern: str, nth: int, *arguments, **options) -> subprocess.Popen:
    """``fastmask ARGUMENTS`` in a process that has stopped, as by SIGSTOP, and waits for a signal.

    It stops where it opens, or renames to, the ``nth`` path of a pattern, so that no test has to be quicker than it.
    """
    command = [sys.executable, "-c", HELD, pattern, str(nth), *map(str, arguments)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)
    _, status = os.waitpid(child.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status), child.communicate()
    return child


def kill_held(child: subprocess.Popen, number: int = signal.SIGKILL) -> tuple[str, str]:
    """What a held process has printed when it has ended by a signal."""
    child.send_signal(number)
    child.send_signal(signal.SIGCONT)
    return child.communicate()


def refusal(result) -> str:
    """The one line on stderr of a command that failed, whether it ran here or in a process."""
    code = result.exit_code if hasattr(result, "exit_code") else result.returncode
    assert code not in (0, None), result.stderr
    assert result.stderr.count("\n") == 1 and result.stderr.endswith("\n"), result.stderr
    assert "Traceback" not in result.stderr and "unexpected" not in result.stderr, result.stderr
    return result.stderr.strip()


def paths_in(value, path=()):
    """The path of every value in a JSON document, of the first one in a list."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(value, list) else ()
    for key, inner in items:
        yield from paths_in(inner, (*path, key))
