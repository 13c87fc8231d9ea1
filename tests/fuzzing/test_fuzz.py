"""Some hundred cases of each target of the fuzzer, the same ones every time: none is a finding."""

import fuzz
import pytest
from outcomes import DONE, REFUSED, Outcome

CASES = dict.fromkeys(fuzz.TARGETS, 120) | {
    "encoding": 200, "ledger": 25, "recipe": 100, "manifest": 80, "shard values": 60, "shard bytes": 60, "journal": 25,
    "config.json": 60, "tokenizer.json": 80, "weights": 80, "text": 8, "training run": 25,
    "predictions": 30,
}  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return fuzz.World.ready(tmp_path_factory.mktemp("fuzz") / "world")


@pytest.mark.parametrize("target", fuzz.TARGETS)
def test_no_finding(target, world, tmp_path, one_thread):
    outcomes = [fuzz.run_case(target, 0, number, tmp_path, world) for number in range(CASES[target])]
    assert not [(number, one) for number, one in enumerate(outcomes) if one.is_finding]
    # neither is all refused, nor all taken: the cases get to where values are looked at
    assert {one.kind for one in outcomes} == {DONE, REFUSED} or target == "text"


def test_what_a_finding_is(world, tmp_path):
    """Each way to end that is none of the two good ones, in a process of its own where it takes one."""

    def case(rng, folder, world):
        number = int(rng.random() * 6)
        if number == 0:
            raise KeyError("x")
        print(["", "noise", "", "", "", ""][number], end="")

    kinds = {fuzz.attempt(case, fuzz.Random(seed), tmp_path, world).kind for seed in range(40)}
    assert kinds == {DONE, "printed", "KeyError in test_fuzz.py:case"}
    assert Outcome("printed").is_finding and not Outcome(DONE).is_finding
