"""A model's weights: fast families by name from their safetensors files, others as transformers' modules.

Importing a family's modelling code in transformers takes longer than scoring a short text, and the packed encoder does
without it. Whatever does not fit is refused with one line, because transformers would fill missing weights with random
numbers.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ..core.errors import ModelError, first_line
from ..core.words import counted
from .directory import ModelFiles, quiet_transformers, weight_files
from .sizes import check_numbers, shapes_of

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig

    from .family_weights import FamilyWeights

CLASSIFIER, MASKER, MASKED_LM = "SequenceClassification", "TokenClassification", "MaskedLM"
"""Tasks of models: the end of the name of an ``AutoModelFor...`` class."""
TASKS = MappingProxyType(
    {
        CLASSIFIER: ("SEQUENCE_CLASSIFICATION", "classifier"),
        MASKER: ("TOKEN_CLASSIFICATION", "token classifier"),
        MASKED_LM: ("MASKED_LM", "masked-language model"),
    }
)
"""Task -> part of the name of transformers' table of it, and what it is."""


def load_weights(
    files: ModelFiles, classifies_tokens: bool
) -> tuple[FamilyWeights | torch.nn.Module, PretrainedConfig]:
    """Return a sequence classifier or a masker for scoring, with its configuration; float32, on the CPU.

    Args:
        files: the model.
        classifies_tokens: whether it is a masker.

    Raises:
        ModelError: the weights are damaged, incomplete or not finite, or the model is not such a classifier.
    """
    import torch

    from .family_reader import read_family

    (check_masker if classifies_tokens else check_classifier)(files)
    check_readable(files)
    config = load_config(files)
    try:
        with ExitStack() as opened:
            weights = read_family(config, _Float32(files, opened), classifies_tokens)
    except KeyError:  # named or shaped in a way that transformers may know, and else says what is wrong
        weights = None
    if weights is not None:
        return weights, config
    model = (load_masker if classifies_tokens else load_classifier)(files, torch.float32)
    return model, model.config


class _Float32(Mapping):
    """The tensors of a model's safetensors files by name, as float32, each read when it is asked for."""

    def __init__(self, files: ModelFiles, opened: ExitStack):
        import safetensors

        self._name = files.name
        self._file_of: dict[str, Any] = {}
        for path in weight_files(files.dir):
            try:
                file = opened.enter_context(safetensors.safe_open(path, framework="pt"))
            except (safetensors.SafetensorError, OSError, RuntimeError) as error:
                raise ModelError(f"{files.name}: {path.name} cannot be opened: {first_line(error)}") from error
            self._file_of |= dict.fromkeys(file.keys(), file)

    def __getitem__(self, name: str) -> torch.Tensor:
        found = self._file_of[name].get_tensor(name).float()
        if not all(bound.isfinite() for bound in found.aminmax()):  # a NaN is its own bound; one pass, no copy
            raise ModelError(f"{self._name}: its weight {name} is not finite")
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._file_of)

    def __len__(self) -> int:
        return len(self._file_of)


def load_config(files: ModelFiles) -> PretrainedConfig:
    """Return the model's configuration, with its family's defaults for what the file leaves out.

    Raises:
        ModelError: the architecture is unknown, or a value is of a wrong kind.
    """
    from transformers import AutoConfig

    try:
        with quiet_transformers():
            return AutoConfig.from_pretrained(files.dir, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # transformers raises many unrelated types
        raise ModelError(f"{files.name}: cannot be loaded: {first_line(error)}") from error


def check_classifier(files: ModelFiles) -> None:
    """Raise ModelError unless each text gets one class of several."""
    if files.config.get("problem_type") == "multi_label_classification":
        raise ModelError(f"{files.name}: gives any number of labels a text; fastmask needs one class of several")
    if files.config.get("problem_type") == "regression":
        raise ModelError(f"{files.name}: gives a text a number instead of a class; fastmask needs one class of several")
    if files.num_labels < 2:
        raise ModelError(f"{files.name}: is not a classifier, it has {counted(files.num_labels, 'class')}")


def load_classifier(files: ModelFiles, dtype: torch.dtype) -> torch.nn.Module:
    """Return the sequence classifier in ``files``, on the CPU, in eval mode, with its weights in ``dtype``.

    Raises:
        ModelError: the weights are damaged or incomplete, the architecture is unknown, or there are fewer than
            two classes.
    """
    check_classifier(files)
    model, missing = load_pretrained(files, dtype)
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ModelError(f"{files.name}: is not a trained classifier, its weights lack {missing[0]}{more}")
    return model.eval()


def is_token_classifier(files: ModelFiles) -> bool:
    """Return whether the model's config names an ``AutoModelForTokenClassification`` class."""
    return any(str(name).endswith("ForTokenClassification") for name in files.config.get("architectures") or ())


def check_masker(files: ModelFiles) -> None:
    """Raise ModelError unless it is a token classifier of two classes."""
    if files.num_labels != 2:
        raise ModelError(f"{files.name}: is not a masker, it has {counted(files.num_labels, 'class')} instead of two")
    if not is_token_classifier(files):
        raise ModelError(f"{files.name}: is not a token classifier; fastmask train-masker makes one")


def load_masker(files: ModelFiles, dtype: torch.dtype) -> torch.nn.Module:
    """Return the token classifier in ``files``, as ``load_classifier`` has it; class 1 marks tokens to mask.

    Raises:
        ModelError: the weights are damaged or incomplete, or there are not two classes.
    """
    check_masker(files)
    model, missing = load_pretrained(files, dtype, task=MASKER)
    if missing:
        raise ModelError(f"{files.name}: is not a trained masker, its weights lack {missing[0]}")
    return model.eval()


def load_trained(files: ModelFiles, task: str) -> torch.nn.Module:
    """Return the model of a task in ``files``, one of transformers, float32, on the CPU, in eval mode.

    Raises:
        ModelError: the weights are damaged or incomplete, or the model is none for this task.
    """
    import torch

    if task != MASKED_LM:
        return (load_masker if task == MASKER else load_classifier)(files, torch.float32)
    model, missing = load_pretrained(files, torch.float32, task=task)
    if missing:
        raise ModelError(f"{files.name}: is not a trained masked-language model, its weights lack {missing[0]}")
    return model.eval()


def load_pretrained(
    files: ModelFiles, dtype: torch.dtype, *, task: str = CLASSIFIER, **overrides
) -> tuple[torch.nn.Module, list[str]]:
    """Load a model with a head; return it and the sorted names of parameters that the weights lack (random, then).

    Args:
        files: the model.
        dtype: dtype of the weights; transformers would otherwise take the one in the config.
        task: which head, as transformers' ``AutoModelFor...`` classes name it.
        overrides: configuration values to replace.

    Raises:
        ModelError: the weights are damaged, not finite, or do not fit the config, or the architecture is unknown.
    """
    check_readable(files)
    import torch
    import transformers

    kind, config = getattr(transformers, f"AutoModelFor{task}"), load_config(files)
    table, said = TASKS[task]
    if type(config) not in getattr(transformers, f"MODEL_FOR_{table}_MAPPING"):
        raise ModelError(f"{files.name}: transformers knows no {said} of type {config.model_type}")
    try:
        with quiet_transformers():
            with torch.device("meta"):
                check_numbers(kind.from_config(config), shapes_of(weight_files(files.dir)), files.name)
            model, report = kind.from_pretrained(
                files.dir, dtype=dtype, use_safetensors=True, trust_remote_code=False, local_files_only=True,
                ignore_mismatched_sizes=True, output_loading_info=True, **overrides,
            )  # fmt: skip
    except ModelError:
        raise
    except Exception as error:  # unknown architecture, bad value in the config, ...: many unrelated types
        raise ModelError(f"{files.name}: cannot be loaded: {first_line(error)}") from error
    missing = set(report["missing_keys"]) | {entry[0] for entry in report["mismatched_keys"]}
    _clear_biases(model, missing)
    if bad := not_finite(model):
        raise ModelError(f"{files.name}: its weight {bad} is not finite")
    _whole_feed_forward(model)
    return model, sorted(missing)


def _clear_biases(model: torch.nn.Module, missing: set[str]) -> None:
    """Set new biases to 0: transformers leaves those of some heads as the memory was."""
    import torch

    for name, parameter in model.named_parameters(remove_duplicate=False):
        if name in missing and name.endswith("bias"):
            torch.nn.init.zeros_(parameter)


def _whole_feed_forward(model: torch.nn.Module) -> None:
    """Turn off feed-forward layers in chunks: they save memory, change no answer, and refuse lengths that do not fit.

    The configuration stays as it is, for the model that is saved.
    """
    for module in model.modules():
        if getattr(module, "chunk_size_feed_forward", 0):
            module.chunk_size_feed_forward = 0


def redrawn(model: torch.nn.Module, names: Collection[str], seed: int | None = None) -> torch.nn.Module:
    """Return the model with some parameters new, drawn as its own class does where a file lacks them.

    Args:
        model: of transformers; not to be used any more.
        names: of the parameters.
        seed: to draw from; None for torch's random state as it is.
    """
    import torch

    kept = {name: tensor for name, tensor in model.state_dict().items() if name not in names}
    if seed is not None:
        torch.manual_seed(seed)
    with quiet_transformers():
        new = type(model).from_pretrained(None, config=model.config, state_dict=kept, dtype=model.dtype)
    _whole_feed_forward(new)
    return new


def is_head(model: torch.nn.Module, name: str) -> bool:
    """Return whether a parameter is of the layers on top of the encoder, which a pre-trained encoder may lack."""
    prefix = model.base_model_prefix
    return hasattr(model, prefix) and (not name.startswith(f"{prefix}.") or "pooler." in name)


def not_finite(model: torch.nn.Module) -> str | None:
    """Return the name of a parameter that has a NaN or an infinity in it; None in a sound model."""
    return next((name for name, weight in model.named_parameters() if not weight.isfinite().all()), None)


def check_readable(files: ModelFiles) -> None:
    """Raise ModelError unless the headers of all weight files can be read."""
    import safetensors

    for file in weight_files(files.dir):
        try:
            with safetensors.safe_open(file, framework="numpy") as weights:
                weights.keys()
        except (safetensors.SafetensorError, OSError) as error:
            reason = first_line(error)
            raise ModelError(f"{files.name}: {file.name} is cut short or damaged: {reason}") from error
