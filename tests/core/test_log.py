"""Lines for the user: the logger ``fastmask`` from Python, what the commands print of it, and which process speaks."""

import logging
import subprocess
import sys

import pytest

import fastmask
from fastmask.core.config_train import PretrainConfig
from fastmask.core.log import SILENT, at_level
from fastmask.report.screen import log_shown
from fastmask.train import pretrain as training
from fastmask.train.ranks import Ranks

log = logging.getLogger("fastmask.some.module")


@pytest.mark.parametrize(("setting", "shown"), [
    ("", ""),
    ("logging.basicConfig()", "WARNING:fastmask.x:a warning\n"),
    ("logging.basicConfig(level='INFO')", "INFO:fastmask.x:a line, 5 %\nWARNING:fastmask.x:a warning\n"),
])  # fmt: skip
def test_from_python_it_is_silent_until_somebody_listens(setting, shown):
    code = f"import logging, fastmask\n{setting}\nlog = logging.getLogger('fastmask.x')\n"
    code += "log.info('a line, 5 %'), log.warning('a warning')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", shown)


def test_a_run_from_python_tells_its_totals(tmp_path, said):
    (tmp_path / "c.txt").write_text("A film.\n\n")
    fastmask.score_corpus([tmp_path / "c.txt"], tmp_path / "out", fastmask.ScoreConfig(method="random", mask_rate=1.0))
    line = "out: 1 sentence, 3 tokens, 3 masked (100.0%); 1 row without text left out"
    assert said.messages[-1] == f"{tmp_path}/{line}"


def test_a_command_prints_clean_lines_and_leaves_the_logger_as_it_was(capsys, caplog):
    logger = logging.getLogger("fastmask")
    before = logger.level, logger.propagate, list(logger.handlers)
    with log_shown(quiet=False):
        log.info("50 % of \x1b[31mred")
        log.warning("two\nlines")
        log.debug("nothing")
    with log_shown(quiet=True):
        log.warning("quiet")
    assert (logger.level, logger.propagate, logger.handlers) == before
    assert capsys.readouterr() == ("", "50 % of \ufffd[31mred\nwarning: two\ufffdlines\n")
    assert caplog.messages == []  # the root logger's handlers would print it again


def test_of_several_processes_the_first_one_speaks(monkeypatch, said):
    monkeypatch.setattr(training, "_pretrain", lambda config, ranks, console: log.info(f"rank {ranks.rank}"))
    for rank in (1, 0):
        monkeypatch.setattr(Ranks, "rank", rank)
        training.pretrain(PretrainConfig(shards=("a",), init="b", out="c", device="cpu"))
    assert said.messages == ["rank 0"]


def test_a_level_inside(said):
    with at_level(SILENT):
        log.critical("no")
    log.info("yes")
    assert said.messages == ["yes"]
