"""Tokens a second of read + segment + tokenise, by stage and as the pipeline runs them, with peak memory.

    python benchmarks/bench_frontend.py [--corpus FILE.txt] [--tokenizer DIR] [--lines N] [--join K] [--segment line]

``--join K`` makes documents of K lines, so that most have several sentences and spaCy has to be asked.
"""

import argparse
import resource
import tempfile
import time
from itertools import cycle, islice
from pathlib import Path

from fastmask.core.config import ScoreConfig
from fastmask.models.directory import load_tokenizer, resolve_model
from fastmask.text.documents import read_documents
from fastmask.text.frontend import encoded_shards
from fastmask.text.sentences import Segmenter
from fastmask.text.tokens import TextEncoder

ROOT = Path(__file__).parents[1]
CORPUS = ROOT.parent / "shared/data/yelp/corpus.txt"
STAGE_DOCUMENTS = 50_000


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--corpus", type=Path, default=CORPUS)
    parser.add_argument("--tokenizer", default=str(ROOT / "tests/data/mr-tiny"))
    parser.add_argument("--lines", type=int, default=180_153, help="lines, the corpus repeated if need be")
    parser.add_argument("--join", type=int, default=1, help="lines a document")
    parser.add_argument("--segment", choices=["sentence", "line"], default="sentence")
    return parser.parse_args()


def write_corpus(path: Path, source: Path, lines: int, join: int) -> None:
    texts = source.read_text(encoding="utf-8").splitlines()
    with open(path, "w", encoding="utf-8") as stream:
        for group in batches(islice(cycle(texts), lines), join):
            stream.write(" ".join(group) + "\n")


def batches(items, size):
    items = iter(items)
    while group := list(islice(items, size)):
        yield group


def peak_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def timed(name: str, work):
    start = time.perf_counter()
    result = work()
    return result, (name, time.perf_counter() - start)


def stages(path: str, encoder: TextEncoder, segment: str) -> None:
    segmenter = Segmenter(segment)
    segmenter.split("Warm. Up.")
    documents, read = timed("read", lambda: list(islice(read_documents([path]), STAGE_DOCUMENTS)))
    spans, split = timed("segment", lambda: [segmenter.split(d.text) for d in documents])
    encoded, encode = timed("encode", lambda: encoder.encode(documents, spans, first_row=0, end_row=len(documents)))
    tokens = len(encoded.input_ids)
    for name, seconds in (read, split, encode):
        print(f"{name:>10} {1e6 * seconds / tokens:6.2f} us/token {tokens / seconds:12,.0f} tokens/s")


def whole(path: str, encoder: TextEncoder, segment: str) -> None:
    before, start = peak_megabytes(), time.perf_counter()
    shards = encoded_shards([path], ScoreConfig(segment=segment), encoder)
    tokens = sum(len(shard.input_ids) for _, shard in shards)
    seconds = time.perf_counter() - start
    print(f"{'together':>10} {tokens:,} tokens in {seconds:.2f} s: {tokens / seconds:,.0f} tokens/s")
    print(f"{'memory':>10} {peak_megabytes() - before:.0f} MB beyond the {before:.0f} MB before")


def main() -> None:
    options = arguments()
    encoder = TextEncoder(load_tokenizer(resolve_model(options.tokenizer)).backend_tokenizer)
    Segmenter(options.segment).split("Import spaCy. Then measure.")
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "corpus.txt")
        write_corpus(Path(path), options.corpus, options.lines, options.join)
        whole(path, encoder, options.segment)
        stages(path, encoder, options.segment)


if __name__ == "__main__":
    main()
