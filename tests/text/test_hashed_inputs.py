"""What is scored is what was hashed: a file that is replaced or written to meanwhile is an error that names it."""

import os
from contextlib import contextmanager

import pytest
from helpers import contents, write_jsonl
from remap_samples import byte_bpe

from fastmask import ScoreConfig, remap_masks, score_corpus
from fastmask.core.errors import FastmaskError, InputError
from fastmask.experiment.ledger import Ledger
from fastmask.experiment.steps import Step
from fastmask.pipeline import repair
from fastmask.report.progress import Meter
from fastmask.text.documents import read_rows
from fastmask.text.hashed import HashedInputs

CHANGED = "has changed since it was hashed"
FIRST = [{"text": f"a good film number {n}"} for n in range(6)]
OTHER = [{"text": f"a poor film number {n}"} for n in range(6)]


class Doing(Meter):
    """Does something once the inputs are hashed, before they are read."""

    def __init__(self, act):
        super().__init__()
        self.act = act

    @contextmanager
    def running(self, rows, done):
        self.act()
        yield


class DoingAtLast(Meter):
    """Does something when the last shard begins: all is read by then."""

    def __init__(self, act):
        super().__init__()
        self.act = act

    def shard(self, first_row, end_row):
        if end_row == len(FIRST):
            self.act()


def replaced(path):
    write_jsonl(path.with_name("new.jsonl"), OTHER)
    os.replace(path.with_name("new.jsonl"), path)


def rewritten(path):
    with path.open("r+") as file:
        file.write(path.read_text().replace("good", "poor"))


def grown(path):
    with path.open("a") as file:
        file.write('{"text": "one more"}\n')


def gone(path):
    path.unlink()


def forged(path):
    """The same size and time of change, other content."""
    times = os.stat(path)
    rewritten(path)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "corpus.jsonl"
    write_jsonl(path, FIRST)
    # so that what is written now has another time, however coarse the file system's clock is
    os.utime(path, ns=(10**18, 10**18))
    return path


def scored(corpus, out, mr_tiny, meter=None, rows=2):
    config = ScoreConfig(model=mr_tiny, method="random", shard_rows=rows)
    return score_corpus([corpus], str(out), config, meter=meter)


@pytest.mark.parametrize("doing", [Doing, DoingAtLast])
@pytest.mark.parametrize("change", [replaced, rewritten, grown, forged, gone])
def test_a_changed_input_is_an_error_and_what_is_left_is_of_the_old_one(corpus, tmp_path, mr_tiny, change, doing):
    kept = corpus.read_bytes()
    with pytest.raises(FastmaskError) as fault:
        scored(corpus, tmp_path / "out", mr_tiny, doing(lambda: change(corpus)))
    assert str(corpus) in str(fault.value) and "\n" not in str(fault.value)
    assert not (tmp_path / "out" / "_manifest.json").exists()
    corpus.write_bytes(kept)
    scored(corpus, tmp_path / "out", mr_tiny)
    scored(corpus, tmp_path / "whole", mr_tiny)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_another_link_or_other_rights_are_no_change(corpus, tmp_path, mr_tiny):
    def touch():
        os.link(corpus, tmp_path / "link.jsonl")
        corpus.chmod(0o600)

    assert scored(corpus, tmp_path / "out", mr_tiny, Doing(touch))["totals"]["rows"] == 6


def test_a_file_that_was_there_for_a_moment_is_not_read(corpus, tmp_path):
    """Replaced and put back: what is opened is compared, not only what is there in the end."""
    inputs = HashedInputs([str(corpus)])
    rows = read_rows([str(corpus)], stamps=inputs.stamps)
    os.rename(corpus, tmp_path / "aside")
    write_jsonl(corpus, OTHER)
    with pytest.raises(FastmaskError, match=f"corpus.jsonl: {CHANGED}"):
        list(rows)
    os.replace(tmp_path / "aside", corpus)
    inputs.check()


def test_repair(corpus, tmp_path, mr_tiny):
    scored(corpus, tmp_path / "out", mr_tiny)
    shard = tmp_path / "out" / "shard-00001.parquet"
    whole = shard.read_bytes()
    shard.unlink()
    with pytest.raises(FastmaskError, match=f"corpus.jsonl: {CHANGED}"):
        repair(str(tmp_path / "out"), _Shards(lambda: rewritten(corpus)))
    assert not shard.exists()
    write_jsonl(corpus, FIRST)
    assert repair(str(tmp_path / "out")) == [shard.name]
    assert shard.read_bytes() == whole


class _Shards(Meter):
    """Does something when a shard begins."""

    def __init__(self, act):
        super().__init__()
        self.act = act

    def shard(self, first_row, end_row):
        self.act()


def test_remap(corpus, tmp_path, mr_tiny):
    scored(corpus, tmp_path / "out", mr_tiny)
    rows = remap_masks(str(tmp_path / "out"), byte_bpe(True))
    next(rows)
    grown(corpus)
    with pytest.raises(FastmaskError, match=f"corpus.jsonl: {CHANGED}"):
        list(rows)


def test_a_step_of_a_run_is_not_finished_from_what_it_may_not_have_read(corpus, tmp_path):
    ledger, step = Ledger(tmp_path / "run"), Step("masks", "score", ScoreConfig(), (str(corpus),))
    read = ledger.read_by(step)
    rewritten(corpus)
    with pytest.raises(InputError, match=r"corpus\.jsonl: has changed while masks was made from it"):
        ledger.finish(step, read)
    assert "max_text_mb" not in ledger._header(step)["config"]  # so that older runs go on
