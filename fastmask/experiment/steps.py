"""The three stages as steps: a recipe -> what each step runs, reads and needs. The one file that knows their order.

Fine-tune, score the task, train a masker on that, mask the in-domain text, with an equal-count random control;
pre-train on either; fine-tune each arm over seeds; compare (paper, sections 2 and 3).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from typing import Any

from ..core.config import MAX_TEXT_MB, EvaluateConfig, ScoreConfig
from ..core.config_train import FinetuneConfig, MaskerConfig, PretrainConfig
from ..core.errors import FastmaskError
from ..models.weights import MASKED_LM, MASKER
from ..scoring.method import load_method
from ..text.files import has_fields
from ..train.run_directory import kept_name
from .choices import Choice
from .predictions import PredictConfig
from .questions import NO_PRETRAINING, control_of
from .recipe import METHODS, General, Recipe

REPORT, PICTURE, PAGE, PREDICT = "report", "report.svg", "index.html", "predict"


@dataclass(frozen=True, slots=True)
class Step:
    """One command of a run, which writes one directory.

    Attributes:
        name: of the step, and of its directory under the run's.
        command: the fastmask command that it is, or PREDICT.
        config: the configuration of that command.
        files: the user's files that it reads, other than models; the inputs where the command is ``score``.
        models: the user's models that it starts from.
        shards: the user's shard directories that it reads.
        needs: names of earlier steps whose directories it reads.
    """

    name: str
    command: str
    config: Any
    files: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    shards: tuple[str, ...] = ()


def steps_of(recipe: Recipe) -> list[Step]:
    """Return the steps in their order, each after those that it needs.

    Raises:
        FastmaskError: an option that its command does not take.
    """
    return list(_Steps(recipe).in_order())


@dataclass(frozen=True, slots=True)
class _Steps:
    recipe: Recipe

    def in_order(self) -> Iterator[Step]:
        choices, seeds = self.recipe.choices, self.recipe.general.seeds
        if self._classifier_step:
            yield self._finetune(NO_PRETRAINING, seeds[0])
        if any(choice.method.task == MASKER for choice in choices):
            yield self._score_task()
            yield self._train_masker()
        for choice in choices:
            yield self._mask(choice)
            if not choice.is_random:
                yield self._control(choice)
        for seed in seeds:  # one after the other, so that a run that is stopped has some that are whole
            for choice in choices if self.recipe.general.pretrain_each_seed or seed == seeds[0] else ():
                yield from (self._pretrain(choice, arm, seed) for arm in _arms_of(choice))
            for share in (1.0, *self.recipe.general.curve):
                for arm in self._arms_at(share):
                    if not (arm == NO_PRETRAINING and seed == seeds[0] and self._classifier_step):
                        yield self._finetune(arm, seed, share)
                    yield self._predict(arm, seed, share)
        yield from (self._compare(share) for share in (*self.recipe.general.curve, 1.0))

    @property
    def arms(self) -> tuple[str, ...]:
        """Return the arms: no pre-training, then each method after its control, so that baselines come first."""
        return (NO_PRETRAINING, *(arm for choice in self.recipe.choices for arm in _arms_of(choice)))

    def _arms_at(self, share: float) -> tuple[str, ...]:
        """Return the arms that there are after a share of the steps of pre-training."""
        return self.arms if share == 1 else self.arms[1:]

    @property
    def _classifier_step(self) -> tuple[str, ...]:
        """Return the step whose classifier scores: the first of the arm without pre-training; none if one is given."""
        if "model" in self.recipe.options["score"]:
            return ()
        return (_finetuned(NO_PRETRAINING, self.recipe.general.seeds[0]),)

    @property
    def _classifier(self) -> str:
        own = self.recipe.options["score"].get("model")
        return own or self._path(*self._classifier_step)

    @property
    def _classifier_model(self) -> tuple[str, ...]:
        return () if self._classifier_step else (self._classifier,)

    def _path(self, name: str) -> str:
        return str(Path(self.recipe.general.out, name))

    def _config(self, section: str, configuration: type, choice: Choice | None, **given: Any) -> Any:
        """Return a configuration: of a section, of a method's own options over it, and of what the run gives."""
        own = {} if choice is None else choice.training if configuration is PretrainConfig else choice.scoring
        with self._named(_table_of(choice) if choice and own else section):
            return configuration(**{**self.recipe.options[section], **own, **given})

    @contextmanager
    def _named(self, section: str) -> Iterator[None]:
        """Name file and section in errors."""
        try:
            yield
        except FastmaskError as error:
            raise FastmaskError(f"{self.recipe.source}: [{section}]: {error}") from error

    def _reading(self) -> dict[str, str]:
        task = self.recipe.task
        return {"text_field": task.text_field, "label_field": task.label_field, "encoding": task.encoding}

    def _finetune(self, arm: str, seed: int, share: float = 1.0) -> Step:
        task, name = self.recipe.task, _at(share, _finetuned(arm, seed))
        # pre-training removes the head, so that every arm has to start from a new one
        own, before = arm == NO_PRETRAINING, pretrained(self.recipe.general, arm, seed)
        init = self.recipe.general.init if own else self._path(kept_model(before, share))
        config = self._config("finetune", FinetuneConfig, None, train=task.train, dev=task.dev, out=self._path(name),
                              init=init, new_head=True, seed=seed, **self._reading())  # fmt: skip
        models, needs = ((init,), ()) if own else ((), (before,))
        return Step(name, "finetune", config, (*task.train, *task.dev), models, needs)

    def _score_task(self) -> Step:
        language = self.recipe.options["score"].get("language", self.recipe.general.language)
        config = self._config("score", ScoreConfig, None, model=self._classifier, language=language, **self._reading())
        return Step("task-masks", "score", config, self.recipe.task.train, self._classifier_model,
                    self._classifier_step)  # fmt: skip

    def _train_masker(self) -> Step:
        own = self.recipe.options["train-masker"].get("init")
        config = self._config("train-masker", MaskerConfig, None, shards=(self._path("task-masks"),),
                              out=self._path("masker"), init=own or self._classifier)  # fmt: skip
        models, needs = ((own,), ()) if own else (self._classifier_model, self._classifier_step)
        return Step("masker", "train-masker", config, (), models, ("task-masks", *needs), config.dev)

    def _mask(self, choice: Choice) -> Step:
        model, models, needs = self._model_of(choice)
        options = {"language": self.recipe.general.language, **self.recipe.options["mask"], **choice.scoring}
        config = self._config("mask", ScoreConfig, choice, method=choice.method_name, model=model,
                              language=options["language"], **choice.rate, **self._labels(choice, options))  # fmt: skip
        with self._named(_table_of(choice) if choice.scoring else "mask"):
            load_method(config)
        return Step(masks_of(choice.name), "score", config, self.recipe.in_domain.corpus, models, needs)

    def _model_of(self, choice: Choice) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
        """Return the model that a way to mask asks: its name, as what the step reads of the user's, and as a need."""
        init, own = self.recipe.general.init, choice.scoring.get("model")
        if own:
            return own, (own,), ()
        if choice.method.task == MASKER:
            return self._path("masker"), (), ("masker",)
        if choice.method.task == MASKED_LM or choice.is_random:
            return init, (init,), ()
        return self._classifier, self._classifier_model, self._classifier_step

    def _labels(self, choice: Choice, options: dict[str, Any]) -> dict[str, Any]:
        """Return what a method that goes by labels takes them from: the task's training texts, unless it is told."""
        task = self.recipe.task
        if not {"labelled"} & choice.method.options or options.get("labelled"):
            return {}
        is_table = any(map(has_fields, self.recipe.in_domain.corpus))
        for name, default in (("encoding", "utf-8"), ("text_field", "text")):
            there, here = getattr(task, name), options.get(name, default)
            if there != here and (is_table or name == "encoding"):
                raise FastmaskError(f"{self.recipe.source}: [{_table_of(choice)}]: {name.replace('_', '-')}: is "
                                    f"{there} of [task], {here} of the corpus; both are read together, so they must "
                                    "have one")  # fmt: skip
        return {"labelled": task.train, "label_field": task.label_field, "text_field": task.text_field}

    def _control(self, choice: Choice) -> Step:
        selective = self._mask(choice)
        config = selective.config.control_of(self._path(selective.name))
        return Step(masks_of(control_of(choice.name)), "score", config, selective.files, selective.models,
                    (*selective.needs, selective.name))  # fmt: skip

    def _pretrain(self, choice: Choice, arm: str, seed: int) -> Step:
        general, name = self.recipe.general, pretrained(self.recipe.general, arm, seed)
        given: dict[str, Any] = {"seed": seed} if general.pretrain_each_seed else {}
        if general.curve:
            given["keep"] = ",".join(map(str, general.curve))
        if choice.is_random and "sample" not in choice.training:
            given["sample"] = True
        config = self._config("pretrain", PretrainConfig, choice, shards=(self._path(masks_of(arm)),),
                              init=general.init, out=self._path(name), **given)  # fmt: skip
        if config.sample and not choice.method.gives_probabilities:
            with self._named(_table_of(choice) if "sample" in choice.training else "pretrain"):
                raise FastmaskError(f"sample: {choice.name} gives no probabilities to draw masks by")
        return Step(name, "pretrain", config, (), (general.init,), (masks_of(arm),), config.eval)

    def _predict(self, arm: str, seed: int, share: float) -> Step:
        general, own = self.recipe.general, self.recipe.options["evaluate"]
        model, longest = _at(share, _finetuned(arm, seed)), self._finetune(NO_PRETRAINING, general.seeds[0]).config
        config = PredictConfig(self._path(model), seed, self.recipe.task.test, longest.max_length,
                               own.get("max_text_mb", MAX_TEXT_MB), **self._reading())  # fmt: skip
        return Step(_at(share, _predicted(arm, seed)), PREDICT, config, (self.recipe.task.test,), (), (model,))

    def _compare(self, share: float = 1.0) -> Step:
        task, seeds, whole = self.recipe.task, self.recipe.general.seeds, share == 1
        runs = {_at(share, _predicted(arm, seed)): arm for arm in self._arms_at(share) for seed in seeds}
        arms = tuple(f"{arm}={escape(self._path(name))}" for name, arm in runs.items())
        longest = self._finetune(NO_PRETRAINING, seeds[0]).config.max_length
        picture = self._path(f"{REPORT}/{PICTURE}") if whole else None
        config = self._config("evaluate", EvaluateConfig, None, arms=arms, test=task.test, max_length=longest,
                              picture=picture, **self._reading())  # fmt: skip
        return Step(compared_at(share), "evaluate", config, (task.test,), (), (*runs, *(self._told if whole else ())))

    @property
    def _told(self) -> dict[str, None]:
        """Return the steps that the last report tells of beside answers, which may be the same by other ways."""
        general, arms = self.recipe.general, self.arms[1:]
        return dict.fromkeys((*map(compared_at, general.curve), *map(masks_of, arms),
                              *(pretrained(general, arm, seed) for arm in arms for seed in general.seeds)))  # fmt: skip


def _table_of(choice: Choice) -> str:
    return f"{METHODS}.{choice.name}"


def _arms_of(choice: Choice) -> tuple[str, ...]:
    return (choice.name,) if choice.is_random else (control_of(choice.name), choice.name)


def masks_of(arm: str) -> str:
    """Return the name of the step that makes the masks of an arm."""
    return f"masks/{arm}"


def pretrained(general: General, arm: str, seed: int) -> str:
    """Return the name of the step that pre-trains the model which an arm fine-tunes with a seed."""
    return f"pretrained/{arm}-{seed}" if general.pretrain_each_seed else f"pretrained/{arm}"


def _at(share: float, name: str) -> str:
    """Return the name of a step that works on models after a share of the steps of pre-training."""
    return name if share == 1 else f"at-{share:g}/{name}"


def compared_at(share: float) -> str:
    """Return the name of the step that compares the arms after a share of the steps of pre-training."""
    return _at(share, REPORT)


def kept_model(pretraining: str, share: float) -> str:
    """Return where a step of pre-training leaves the model after a share of its steps."""
    return pretraining if share == 1 else f"{pretraining}/{kept_name(share)}"


def _finetuned(arm: str, seed: int) -> str:
    return f"finetuned/{arm}-{seed}"


def _predicted(arm: str, seed: int) -> str:
    return f"predicted/{arm}-{seed}"
