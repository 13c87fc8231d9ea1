"""Error bounds of a whole run: what contradicts them is made again, and every way there ends with the same bytes."""

import json

import pytest
from helpers import contents, fastmask, golden, rows_of, write_jsonl

from fastmask.core.config import ScoreConfig
from fastmask.pipeline import score_corpus
from fastmask.scoring.cascade import TIE, WIDENING, Bounds, widened_by
from fastmask.scoring.executor import LocalExecutor, Wanted
from fastmask.shards.verify import verify
from fastmask.shards.writer import RunDirectory

LEVELS = ("bfloat16", "float32", "float64")
NARROW = Bounds(LEVELS, (1e-5, 1e-8, TIE))
"""Far below bfloat16's errors: what is audited contradicts it."""


class Stop(Exception):
    """Where a run is stopped."""


@pytest.fixture
def narrow(monkeypatch):
    monkeypatch.setattr("fastmask.scoring.engine.Engine.calibrate", lambda *_: NARROW)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, golden_dir) -> str:
    rows = [{"text": row["text"], "label": row["label"]} for row in golden(golden_dir, "mr_tiny_0.05")[:60]]
    return write_jsonl(tmp_path_factory.mktemp("corpus") / "c.jsonl", rows)


def run(corpus, out, mr_tiny, **options) -> dict:
    return score_corpus([corpus], str(out), ScoreConfig(model=mr_tiny, shard_rows=15, precision="bfloat16", **options))


def stopped_at_write(patch, number: int) -> list[int]:
    """Let a run stop before it writes a shard for the ``number``-th time; the list gets the shards that it wrote."""
    written, real = [], RunDirectory.write_shard

    def write(self, index, scored):
        if len(written) == number:
            raise Stop
        written.append(index)
        return real(self, index, scored)

    patch.setattr(RunDirectory, "write_shard", write)
    return written


def test_shards_that_are_contradicted_are_made_again(corpus, mr_tiny, golden_dir, tmp_path, narrow):
    with pytest.MonkeyPatch.context() as patch:
        written = stopped_at_write(patch, 10**6)
        manifest = run(corpus, tmp_path / "out", mr_tiny)
    assert written[:4] == [0, 1, 2, 3] and len(written) > 4
    planned, final = (json.loads((tmp_path / "out/_plan.json").read_text())["error_bounds"],
                      manifest["certificate"]["error_bounds"])  # fmt: skip
    assert planned == NARROW.as_dict() and final["bfloat16"] > 1e-3
    for shard in manifest["shards"]:
        certificate = shard["certificate"]
        assert certificate["eps"] == {level: final[level] for level in LEVELS[:-1]}
        assert all(certificate["max_error"][level] <= final[level] for level in LEVELS[:-1])
    expected = [s["masked"] for row in golden(golden_dir, "mr_tiny_0.05")[:60] for s in row["sentences"]]
    assert [row["mask_index"] for row in rows_of(tmp_path / "out")] == expected
    assert verify(tmp_path / "out") == []


def test_a_run_that_is_stopped_anywhere_ends_with_the_same_bytes(corpus, mr_tiny, tmp_path, narrow):
    run(corpus, tmp_path / "whole", mr_tiny)
    out = tmp_path / "out"
    for number in (1, 2, 1, 3, 1):  # each goes on from the one before, through both passes
        with pytest.MonkeyPatch.context() as patch:
            stopped_at_write(patch, number)
            try:
                run(corpus, out, mr_tiny)
            except Stop:
                continue
    run(corpus, out, mr_tiny)
    assert contents(out) == contents(tmp_path / "whole")


class BackToFront(LocalExecutor):
    """Another executor: the last shard first, of four."""

    def calibrate(self):
        return NARROW

    def shards(self, wanted, bounds):
        for k in (3, 2, 1, 0):
            if k in wanted:
                yield from super().shards(Wanted({k}), bounds)


def test_shards_made_in_any_order_are_the_same_bytes(corpus, mr_tiny, tmp_path, narrow, monkeypatch):
    """Evidence against the bounds is met in another order, too."""
    run(corpus, tmp_path / "in-order", mr_tiny)
    monkeypatch.setattr("fastmask.pipeline.LocalExecutor", BackToFront)
    with pytest.MonkeyPatch.context() as patch:
        written = stopped_at_write(patch, 10**6)
        run(corpus, tmp_path / "out", mr_tiny)
    assert written[:4] == [3, 2, 1, 0]
    assert contents(tmp_path / "out") == contents(tmp_path / "in-order")


def test_repair_makes_the_same_bytes_after_bounds_have_grown(corpus, mr_tiny, tmp_path, narrow):
    run(corpus, tmp_path / "out", mr_tiny)
    before = contents(tmp_path / "out")
    (tmp_path / "out/shard-00002.parquet").unlink()
    assert "made again, identical" in fastmask("verify", tmp_path / "out", "--repair").stdout
    assert contents(tmp_path / "out") == before


def test_bounds_never_shrink_below_what_a_shard_was_made_with():
    """The error that widened them may have been met on wrong decisions alone, which are right now."""
    eps = {"bfloat16": NARROW.eps[0] * WIDENING**3, "float32": NARROW.eps[1]}
    nothing_seen = {"eps": eps, "max_error": {"bfloat16": 0.0, "float32": 0.0}}
    assert widened_by(NARROW, [nothing_seen, {}]).eps == (eps["bfloat16"], *NARROW.eps[1:])
    # a number that no run of this plan can have had is another plan's, or damage
    assert widened_by(NARROW, [{**nothing_seen, "eps": {"bfloat16": 0.3}}]) == NARROW
