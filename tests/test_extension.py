"""Whatever there are several of - methods, export formats, families - is added by one file and a line in a registry."""

from importlib import import_module
from textwrap import dedent

import pytest

from fastmask import ScoreConfig, score_corpus
from fastmask.core.config import EXPORT_FORMATS, ExportConfig
from fastmask.data.exporting import export_shards

TOY_FORMAT = """
    from fastmask.core.durable import write_atomically
    from fastmask.data.exporting import Format

    class Toy(Format):
        def write(self, folder, index, table):
            write_atomically(folder / f"{index}.toy", table["input_ids"].tobytes())
            return len(table)

        def finish(self, folder, files):
            write_atomically(folder / "counts", repr(files).encode())

    FORMAT = Toy()
"""


@pytest.fixture
def add(tmp_path, monkeypatch):
    """Add the file ``toy.py`` to a package, and a line to its registry."""

    def added(package: str, registry: dict, source: str) -> None:
        folder = tmp_path / package
        folder.mkdir()
        (folder / "toy.py").write_text(dedent(source))
        monkeypatch.setattr(import_module(package), "__path__", [*import_module(package).__path__, str(folder)])
        monkeypatch.delitem(__import__("sys").modules, f"{package}.toy", raising=False)
        monkeypatch.setitem(registry, "toy", "toy")

    return added


@pytest.fixture
def corpus(tmp_path) -> str:
    path = tmp_path / "corpus.txt"
    path.write_text("a fine film\nnot so bad at all\n")
    return str(path)


def test_an_export_format(add, corpus, mr_tiny, tmp_path):
    add("fastmask.data.export", EXPORT_FORMATS, TOY_FORMAT)
    score_corpus([corpus], str(tmp_path / "s"), ScoreConfig(model=mr_tiny, method="random", mask_rate=0.5))
    counts = export_shards(ExportConfig(str(tmp_path / "s"), str(tmp_path / "o"), "toy", max_length=16), sequences=1)
    assert counts["files"] == counts["sequences"] >= 1
    assert (tmp_path / "o" / "0.toy").stat().st_size == 4 * 16
    assert (tmp_path / "o" / "counts").read_text() == repr([1] * counts["files"])
