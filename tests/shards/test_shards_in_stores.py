"""A shard directory in a store, read by every command that reads one."""

import pytest
import s3fs
import torch
from helpers import fastmask, refusal
from shard_samples import write_run
from stores import bucket, local, put, s3_server, stored  # noqa: F401

import fastmask as package
from fastmask.core.urls import Url
from fastmask.shards.reader import open_shards

CORPUS = "".join(f"The {noun} was {word}.\n" for noun in ("food", "room", "film") for word in ("good", "dull", "lost"))


@pytest.fixture(scope="module")
def masks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("masks")
    (folder / "corpus.txt").write_text(CORPUS)
    done = fastmask("score", folder / "corpus.txt", "-o", folder / "out", "--shard-rows", 4, "--mask-rate", 0.3,
                    "--method", "random")  # fmt: skip
    assert done.exit_code == 0, done.stderr
    return folder / "out"


def test_inspect_and_verify(masks, bucket):  # noqa: F811
    url = put(masks, f"{bucket}/masks")
    for arguments in (("inspect", "--rows", 3), ("verify",)):
        there, here = (fastmask(arguments[0], place, *arguments[1:]) for place in (url, masks))
        assert there.exit_code == 0, there.stderr
        assert there.stdout == here.stdout.replace(str(masks), url)


def test_rows_and_training_sequences(masks, bucket):  # noqa: F811
    url = put(masks, f"{bucket}/masks")
    there, here = open_shards(url, check_hashes=True), open_shards(masks)
    assert list(there) == list(here) and there[5] == here[5] and there.path == Url(url)
    loader = torch.utils.data.DataLoader(there, batch_size=4, num_workers=2, collate_fn=list)
    assert [row for batch in loader for row in batch] == list(here)
    for one, other in zip(
        *(package.TrainingStream(place, max_length=64, seed=0) for place in (url, masks)), strict=False
    ):
        if one[0]:
            break
        assert one[1].input_ids.tolist() == other[1].input_ids.tolist()


@pytest.mark.parametrize(("command", "options"), [
    ("remask", ("--mask-rate", 0.1)),
    ("export", ("--to", "jsonl")),
    ("remap", ("--tokenizer", "TOKENIZER")),
])  # fmt: skip
def test_what_is_made_of_shards(masks, bucket, tmp_path, mr_tiny, command, options):  # noqa: F811
    url = put(masks, f"{bucket}/masks")
    options = [mr_tiny if one == "TOKENIZER" else one for one in options]
    for place, out in ((url, "there"), (masks, "here")):
        done = fastmask(command, place, *options, "-o", tmp_path / out)
        assert done.exit_code == 0, done.stderr
    there, here = local(tmp_path / "there"), local(tmp_path / "here")
    assert there.keys() == here.keys() and len(here) >= 1
    assert all(there[name] == here[name] for name in here if "manifest" not in name and "plan" not in name)


def test_a_store_is_not_asked_about_each_shard(tmp_path, bucket, monkeypatch):  # noqa: F811
    asked, call = [], s3fs.S3FileSystem._call_s3

    async def counted(self, method, *args, **options):
        asked.append(method)
        return await call(self, method, *args, **options)

    monkeypatch.setattr(s3fs.S3FileSystem, "_call_s3", counted)
    times = []
    for shards in (2, 9):
        url = put(write_run(tmp_path / f"{shards}", shards), f"{bucket}/{shards}")
        asked.clear()
        assert len(open_shards(url).manifest["shards"]) == shards
        times.append(len(asked))
    assert times[0] == times[1] < 9


def test_damage_is_named(tmp_path, bucket):  # noqa: F811
    url = put(write_run(tmp_path / "out", 3), f"{bucket}/out")
    Url(f"{url}/shard-00001.parquet").write_bytes(b"x" * 100)
    Url(f"{url}/shard-00002.parquet").unlink()
    Url(f"{url}/shard-00009.parquet").write_bytes(b"")
    done = fastmask("verify", url)
    assert done.exit_code == 1
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == [f"shard-0000{n}.parquet" for n in (1, 2, 9)]
    assert f"{url}/shard-00001.parquet: has 100 bytes" in refusal(fastmask("inspect", url))


def test_what_is_not_there_is_named(bucket):  # noqa: F811
    assert refusal(fastmask("inspect", f"{bucket}/none")) == f"fastmask: error: {bucket}/none: no such directory"
    Url(f"{bucket}/begun/shard-00000.parquet").write_bytes(b"")
    assert "not finished (no _manifest.json)" in refusal(fastmask("verify", f"{bucket}/begun"))
    assert refusal(fastmask("verify", "nothing://x")).startswith(
        "fastmask: error: nothing://x/_manifest.json: Protocol"
    )
