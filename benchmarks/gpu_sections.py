"""The GPU suite's sections: what each of them runs, and what it reports."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import pkgutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import bench_encoder
import gpu_arms
import gpu_profile
import gpu_text
import harness
import numpy as np
import op_harness
import torch
from tokenizers import Tokenizer

from fastmask.core.config import ScoreConfig
from fastmask.models.directory import resolve_model
from fastmask.models.template import template_of
from fastmask.models.weights import load_classifier
from fastmask.scoring.engine import Engine, score_certain
from fastmask.scoring.method import load_method

METHODS = ("greedy", "prefix", "leave-one-out")
MODULE_METHODS = ("gradient", "entropy")
"""They ask modules of transformers, by plain torch."""


class Skip(Exception):
    """Why a section has nothing to do."""


class OutOfTime(BaseException):
    """The time for the whole suite is over; sections continue after their own errors, but not after this."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much of everything.

    Attributes:
        shapes: of ``gpu_arms.SHAPES``; sentences, warm_up, sample: how many reviews count, come before the clock, and
            choose the model; few: how many of them MODULE_METHODS score; profiled: how many go under the profiler.
        repeats: of a timed job.
        longest: cut reviews to so many tokens.
        files: golden files; golden: (how many of their texts, the longest in words).
        calibration: sentences that golden runs calibrate on, fewer than usual, so that the rest go through the cascade.
        padded_seconds: about what a padded arm may take.
        tests: arguments of pytest.
    """

    shapes: tuple[str, ...] = ("bert-base", "modernbert-base", "minilm")
    sentences: int = 8000
    few: int = 1000
    warm_up: int = 400
    sample: int = 200
    profiled: int = 1500
    repeats: int = 3
    longest: int | None = None
    files: tuple[str, ...] = tuple(gpu_text.MODELS)
    golden: tuple[int | None, int | None] = (None, None)
    calibration: int = 48
    padded_seconds: float = 12.0
    tests: tuple[str, ...] = ("tests/ops", "tests/models/test_device.py")


REHEARSAL = Sizes(
    shapes=("toy",), sentences=2, few=2, warm_up=1, sample=2, profiled=1, repeats=1, longest=4, golden=(2, 8),
    calibration=1, files=("mr_tiny_0.05", "restaurant_tiny_0.05"),
    tests=("tests/ops", "tests/models/test_device.py", "--collect-only"),
)  # fmt: skip


@dataclass(slots=True)
class Suite:
    """A run: what it is told, what it has made, and the report so far.

    Attributes:
        place: where jobs run; sizes: how large; out: where reports go; deadline: of the clock.
        report: JSON-ready; models, scores, error bounds: by shape, and by (shape, method).
    """

    place: gpu_arms.Place
    sizes: Sizes
    out: Path
    deadline: float
    report: dict
    models: dict = field(default_factory=dict)
    scores: dict = field(default_factory=dict)
    clock: Callable[[], float] = time.monotonic

    def left(self) -> float:
        """Seconds until the deadline."""
        return self.deadline - self.clock()

    def found(self, section: str) -> dict:
        """What a section reported, {} if it did not."""
        return self.report["sections"].get(section, {})

    def doubt(self) -> str:
        """What is wrong with tests or golden masks, "" if nothing: without them no speed-up is told."""
        for name in ("tests", "golden"):
            found = self.found(name)
            if "skipped" in found or not is_right(found):
                return f"{name}: {_complaint(found)}"
        return ""

    def write(self) -> None:
        """The report so far, as a file that is whole at any time."""
        self.out.mkdir(parents=True, exist_ok=True)
        whole = self.out / "gpu_suite.json.new"
        whole.write_text(json.dumps(self.report, indent=1) + "\n", encoding="utf-8")
        whole.replace(self.out / "gpu_suite.json")


def _complaint(found: dict) -> str:
    """Why a section is not right, in a line: the first test that is red, if there is one."""
    if red := found.get("red"):
        return f"{red[0]} is red" + (f", and {len(red) - 1} more" if len(red) > 1 else "")
    return found.get("failed") or found.get("skipped") or next(iter(found.get("wrong", [])), "not run")


Section = tuple[str, float, Callable[[Suite], dict]]
"""Its name, about how many seconds it takes on a GPU, and what makes its part of the report."""


def is_right(found: dict) -> bool:
    """Whether a section ran and complains of nothing; one that was skipped complains of nothing."""
    return bool(found) and not found.get("failed") and not found.get("wrong")


def ceilings(suite: Suite) -> dict:
    """What copies and matrix products reach."""
    return {"measured": op_harness.ceilings("cuda")} if suite.place.timed else {}


def is_installed(package: str) -> bool:
    """Whether it can be imported."""
    try:
        return importlib.util.find_spec(package) is not None
    except ImportError:  # what hides packages in tests raises
        return False


def run_tests(suite: Suite) -> dict:
    """The tests of the ops and of the encoder in a process of their own, on the device; spaCy's only if it is there."""
    workers = ("-n", "6") if suite.place.timed and is_installed("xdist") else ()
    without = [] if is_installed("spacy") else ["-m", "not spacy"]
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *suite.sizes.tests, *workers, *without]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=harness.ROOT, timeout=min(200, max(1, suite.left())),
        env=os.environ | {
            "FASTMASK_TEST_DEVICE": suite.place.device, "TRITON_INTERPRET": "0" if suite.place.timed else "1",
        },
    )  # fmt: skip
    lines = [line for line in done.stdout.splitlines() if line.strip()]
    wrong = [] if done.returncode == 0 else [*lines[-40:], *done.stderr.splitlines()[-10:]]
    red = [line.split(" - ")[0].split(maxsplit=1)[1] for line in lines if line.startswith(("FAILED ", "ERROR "))]
    return {
        "exit_code": done.returncode,
        "left_out": " ".join(without),
        "closing_line": lines[-1] if lines else "",
        "red": red,
        "wrong": wrong,
    }


def golden(suite: Suite) -> dict:
    """The released scripts' masks, sentence by sentence."""
    files, wrong = {}, []
    for name in suite.sizes.files:
        if not (model := gpu_text.MODELS[name]).is_dir():
            files[name] = {"skipped": f"no {model.parent.name}/{model.name} beside the checkout"}
            continue
        asked = gpu_text.golden(name, *suite.sizes.golden)
        found, certificate = _golden_masks(suite, asked)
        same = sum(ours == theirs for ours, theirs in zip(found, asked.masks, strict=True))
        files[name] = {"sentences": len(found), "same_masks": same, "certificate": certificate}
        wrong += [f"{name}: {len(found) - same} of {len(found)} masks differ"] if same < len(found) else []
    return {"files": files, "wrong": wrong}


def _golden_masks(suite: Suite, asked) -> tuple[list[list[int]], dict]:
    tokenizer = Tokenizer.from_file(str(asked.model / "tokenizer.json"))
    template = template_of(tokenizer, asked.name, asked.sentences.is_aspect)
    config = ScoreConfig(threshold=asked.threshold, stop_words="none", device=suite.place.device,
                         kernels=suite.place.kernels)  # fmt: skip
    classifier = load_classifier(resolve_model(str(asked.model)), torch.float32)
    nothing = np.zeros((2, tokenizer.get_vocab_size()), bool)
    engine = Engine(load_method(config), classifier, template, config, nothing, calibration=suite.sizes.calibration)
    scored, _ = score_certain(engine, asked.sentences)
    return gpu_arms.masks_of(scored), scored.certificate


def ops(suite: Suite) -> dict:
    """Every op's benchmark against the ceilings; an op without one, or whose cases fail, is told and left out."""
    limits, rows, wrong = suite.found("ceilings").get("measured"), [], []
    if suite.place.timed and not limits:
        raise Skip("the ceilings are not known")
    for op in op_names():
        try:
            cases = importlib.import_module(f"bench_{op}").cases(suite.place.device, small=not suite.place.timed)
            rows += op_harness.measure(cases, limits) if suite.place.timed else op_harness.run_once(cases)
        except Exception as error:
            wrong.append(f"{op}: {type(error).__name__}: {error}")
    return {"rows": rows, "wrong": wrong}


def op_names() -> list[str]:
    """The kernel package's modules that have cases to compile: the Triton ops."""
    import fastmask_kernels as package

    names = [module.name for module in pkgutil.iter_modules(package.__path__)]
    return [name for name in names if hasattr(importlib.import_module(f"{package.__name__}.{name}"), "cases")]


def texts(suite: Suite) -> tuple:
    """Reviews of the warm-up, and those that count."""
    sizes = suite.sizes
    return tuple(gpu_text.reviews(n, seed, sizes.longest) for seed, n in ((1, sizes.warm_up), (0, sizes.sentences)))


def model_of(suite: Suite, shape: str):
    """The model of a shape, made when first asked for."""
    if shape not in suite.models:
        sample = gpu_text.reviews(suite.sizes.sample, 2, suite.sizes.longest)
        suite.models[shape], made = gpu_arms.fair_model(shape, suite.place, sample)
        suite.report["models"][shape] = made
    return suite.models[shape]


def job(suite: Suite, shape: str, method: str) -> dict:
    """A whole job by a method, and where its time goes."""
    model, (warm_up, sentences) = model_of(suite, shape), texts(suite)
    found, scored, bounds = gpu_arms.fastmask_job(model, method, suite.place, (warm_up, sentences), suite.sizes.repeats)
    suite.scores[shape, method] = scored
    few = bench_encoder.sentences_at(sentences, np.arange(suite.sizes.profiled))
    try:
        engine = suite.place.engine(model, method)
        found["profile"] = gpu_profile.profiled(partial(score_certain, engine, few, bounds), suite.place.device)
    except (Exception, OutOfTime) as error:  # what was timed before counts whatever becomes of the profile
        found["profile"] = {"failed": f"{type(error).__name__}: {error}"}
    if limits := suite.found("ceilings").get("measured"):
        found["share_of_matrix"] = found["useful_flops"] / found["median_seconds"] / 1e12 / limits["fp16_tflops"]
    return found


def module_job(suite: Suite, shape: str, method: str) -> dict:
    """A job by one of MODULE_METHODS on the first reviews."""
    model = gpu_arms.random_filler(shape) if method == "entropy" else model_of(suite, shape)
    warm_up, sentences = texts(suite)
    jobs = warm_up, bench_encoder.sentences_at(sentences, np.arange(suite.sizes.few))
    engine_of = partial(suite.place.engine, model, method, kernels="auto")
    found, _, _ = gpu_arms.repeated(engine_of, method, suite.place, jobs, suite.sizes.repeats)
    return found | {"profile": None}


def padded(suite: Suite, shape: str, name: str) -> dict:
    """A padded arm on the same sentences, and what fastmask's speed is as a multiple of its."""
    if (shape, "greedy") not in suite.scores:
        raise Skip("there are no masks of fastmask's to compare with")
    way, model = gpu_arms.PADDED[name], model_of(suite, shape)
    found, done = gpu_arms.padded_job(model, way, suite.place, texts(suite), suite.sizes.padded_seconds)
    found |= gpu_arms.compare(suite.scores[shape, "greedy"], done)
    if found["unexplained"] and way.precision == "float32":
        found["wrong"] = [f"{found['unexplained']} of {found['compared']} masks are not those of float32"]
    return found | _ratio(suite, shape, found) if suite.place.timed else found


def _ratio(suite: Suite, shape: str, arm: dict) -> dict:
    """fastmask's rate as a multiple of a padded arm's, and both as they are; no ratio while anything is in doubt."""
    greedy = suite.found(f"{shape} greedy")
    ours, theirs = (one.get("real_tokens_per_second") for one in (greedy, arm))
    if ours is None:
        reason = f"{shape} greedy: {_complaint(greedy)}"
    else:
        reason = "masks differ" if arm["unexplained"] else suite.doubt()
    return {
        "fastmask_real_tokens_per_second": ours, "times_padded": None if reason else ours / theirs,
        "no_ratio_because": reason,
    }  # fmt: skip


def sections(shapes: tuple[str, ...]) -> list[Section]:
    """In order of what is missed most when time runs out, after what must be known first."""
    found: list[Section] = [("ceilings", 5, ceilings), ("tests", 55, run_tests), ("golden", 12, golden)]
    found += [(f"{shape} greedy", 30, partial(job, shape=shape, method="greedy")) for shape in shapes[:2]]
    found.append(("ops", 12, ops))
    found += [(f"{shape} greedy", 16, partial(job, shape=shape, method="greedy")) for shape in shapes[2:]]
    found += [(f"{shape} padded", 20, partial(padded, shape=shape, name="padded")) for shape in shapes]
    found += [(f"{shapes[0]} {name}", 15, partial(module_job, shape=shapes[0], method=name)) for name in MODULE_METHODS]
    for shape in shapes:
        found += [(f"{shape} {name}", 18, partial(padded, shape=shape, name=name)) for name in ("hf-fp16", "hf-fp32")]
        found += [(f"{shape} {method}", 15, partial(job, shape=shape, method=method)) for method in METHODS[1:]]
    return found
