"""The three stages as steps: a recipe -> what each step runs, reads and needs. The one file that knows their order.

Fine-tune, score the task, train a masker on that, mask the in-domain text, with an equal-count random control;
pre-train on either; fine-tune each arm over seeds; compare (paper, sections 2 and 3).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from typing import Any

from ..core.config import EvaluateConfig, ScoreConfig
from ..core.config_train import FinetuneConfig, MaskerConfig, PretrainConfig
from ..core.errors import FastmaskError
from ..models.weights import MASKED_LM, MASKER
from ..scoring.method import method_named
from .recipe import General, Recipe

NO_PRETRAINING = "none"
"""Name of the arm that is fine-tuned without pre-training."""
REPORT = "report"


@dataclass(frozen=True, slots=True)
class Step:
    """One command of a run, which writes one directory.

    Attributes:
        name: of the step, and of its directory under the run's.
        command: the fastmask command that it is.
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
        methods, seeds = self.recipe.general.methods, self.recipe.general.seeds
        if self._classifier_step:
            yield self._finetune(NO_PRETRAINING, seeds[0])
        if any(method_named(method).task == MASKER for method in methods):
            yield self._score_task()
            yield self._train_masker()
        for method in methods:
            yield self._mask(method)
            yield self._control(method)
        for arm in self.arms[1:]:
            for seed in seeds if self.recipe.general.pretrain_each_seed else seeds[:1]:
                yield self._pretrain(arm, seed)
        for arm in self.arms:
            for seed in seeds:
                if not (arm == NO_PRETRAINING and seed == seeds[0] and self._classifier_step):
                    yield self._finetune(arm, seed)
        yield self._compare()

    @property
    def arms(self) -> tuple[str, ...]:
        """Return the arms: no pre-training, then each method after its control, so that baselines come first."""
        pairs = ((control_of(method), method) for method in self.recipe.general.methods)
        return (NO_PRETRAINING, *(arm for pair in pairs for arm in pair))

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

    def _config(self, section: str, configuration: type, **given: Any) -> Any:
        try:
            return configuration(**{**self.recipe.options[section], **given})
        except FastmaskError as error:
            raise FastmaskError(f"{self.recipe.source}: [{section}]: {error}") from error

    def _scoring(self, section: str, **given: Any) -> Any:
        language = self.recipe.options[section].get("language", self.recipe.general.language)
        return self._config(section, ScoreConfig, language=language, **given)

    def _reading(self) -> dict[str, str]:
        task = self.recipe.task
        return {"text_field": task.text_field, "label_field": task.label_field, "encoding": task.encoding}

    def _finetune(self, arm: str, seed: int) -> Step:
        task, name = self.recipe.task, _finetuned(arm, seed)
        # pre-training removes the head, so that every arm has to start from a new one
        own, before = arm == NO_PRETRAINING, pretrained(self.recipe.general, arm, seed)
        init = self.recipe.general.init if own else self._path(before)
        config = self._config("finetune", FinetuneConfig, train=task.train, dev=task.dev, out=self._path(name),
                              init=init, new_head=True, seed=seed, **self._reading())  # fmt: skip
        models, needs = ((init,), ()) if own else ((), (before,))
        return Step(name, "finetune", config, (*task.train, *task.dev), models, needs)

    def _score_task(self) -> Step:
        config = self._scoring("score", model=self._classifier, **self._reading())
        return Step("task-masks", "score", config, self.recipe.task.train, self._classifier_model,
                    self._classifier_step)  # fmt: skip

    def _train_masker(self) -> Step:
        own = self.recipe.options["train-masker"].get("init")
        config = self._config("train-masker", MaskerConfig, shards=(self._path("task-masks"),),
                              out=self._path("masker"), init=own or self._classifier)  # fmt: skip
        models, needs = ((own,), ()) if own else (self._classifier_model, self._classifier_step)
        return Step("masker", "train-masker", config, (), models, ("task-masks", *needs), config.dev)

    def _mask(self, method: str) -> Step:
        task, init = method_named(method).task, self.recipe.general.init
        model, models, needs = {
            MASKER: (self._path("masker"), (), ("masker",)),
            MASKED_LM: (init, (init,), ()),
        }.get(task, (self._classifier, self._classifier_model, self._classifier_step))
        config = self._scoring("mask", method=method, model=model)
        return Step(_masks(method), "score", config, self.recipe.in_domain.corpus, models, needs)

    def _control(self, method: str) -> Step:
        selective = self._mask(method)
        config = selective.config.control_of(self._path(selective.name))
        return Step(_masks(control_of(method)), "score", config, selective.files, selective.models,
                    (*selective.needs, selective.name))  # fmt: skip

    def _pretrain(self, arm: str, seed: int) -> Step:
        general = self.recipe.general
        init, name, own_seed = general.init, pretrained(general, arm, seed), {"seed": seed}
        config = self._config("pretrain", PretrainConfig, shards=(self._path(_masks(arm)),), out=self._path(name),
                              init=init, **(own_seed if general.pretrain_each_seed else {}))  # fmt: skip
        return Step(name, "pretrain", config, (), (init,), (_masks(arm),), config.eval)

    def _compare(self) -> Step:
        task, seeds = self.recipe.task, self.recipe.general.seeds
        runs = {_finetuned(arm, seed): arm for arm in self.arms for seed in seeds}
        arms = tuple(f"{arm}={escape(self._path(name))}" for name, arm in runs.items())
        longest = self._finetune(NO_PRETRAINING, seeds[0]).config.max_length
        config = self._config("evaluate", EvaluateConfig, arms=arms, test=task.test, max_length=longest,
                              picture=self._path(f"{REPORT}/report.svg"), **self._reading())  # fmt: skip
        return Step(REPORT, "evaluate", config, (task.test,), (), tuple(runs))


def control_of(method: str) -> str:
    """Return the name of a method's random control: the same sentences with as many masks each."""
    return f"{method}-control"


def _masks(arm: str) -> str:
    return f"masks/{arm}"


def pretrained(general: General, arm: str, seed: int) -> str:
    """Return the name of the step that pre-trains the model which an arm fine-tunes with a seed."""
    return f"pretrained/{arm}-{seed}" if general.pretrain_each_seed else f"pretrained/{arm}"


def _finetuned(arm: str, seed: int) -> str:
    return f"finetuned/{arm}-{seed}"
