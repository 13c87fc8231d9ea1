"""Input files to documents, streamed; every fault names file, line and field."""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Mapping, Sequence
from itertools import count, islice, takewhile

from ..core.config import MAX_TEXT_MB
from ..core.errors import FastmaskError, InputError, Unreadable
from ..core.labels import LABEL_FIELD, Label, read_label
from ..core.records import Aspect, Document
from .files import Fields, Reading, has_fields, open_records, type_name
from .listing import input_files
from .streams import MB, STDIN, Place, Stamp, check_path, source_name

ASPECTS_FIELD = "aspects"
LONGEST_ID = 1000
"""Characters of an id: each sentence of a document has it."""


_NOT_BY_LINE = ("idna", "punycode")


def read_documents(paths: Sequence[str], **options) -> Iterator[Document]:
    """Return the documents of the inputs in reading order; options and errors are those of ``read_rows``."""
    return (document for document in read_rows(paths, **options) if document is not None)


def read_rows(
    paths: Sequence[str],
    *,
    text_field: str = "text",
    label_field: str = LABEL_FIELD,
    id_field: str | None = None,
    encoding: str = "utf-8",
    on_error: str = "fail",
    max_text_mb: int = MAX_TEXT_MB,
    start_row: int = 0,
    place: Place | None = None,
    skipped: list[str] | None = None,
    stamps: Mapping[str, Stamp] | None = None,
) -> Iterator[Document | None]:
    """Return one item for each input row, from row ``start_row`` on: its Document, or None where the row has none.

    Rows are numbered over all inputs. A blank line or a bad row has a number too, so numbers never depend on
    ``on_error``. "-" is standard input, a document a line.

    Args:
        text_field, label_field: column names of structured input.
        id_field: name of the column with ids, if documents are to have some: then each row has one.
        encoding: of text, JSON and CSV inputs.
        on_error: "fail" raises at the first bad row; "skip" appends its message to ``skipped`` and continues.
        max_text_mb: a line or cell of more megabytes is a bad row; 0 is no limit.
        place: where that row is, if it is known: the label field has been looked for, and of what is before that row
            only headers and the first document are read.
        stamps: of the inputs when they were hashed: one that has been replaced is an error.

    Raises:
        InputError: at once for a path that cannot be read, unless it has been hashed, a label field that was named and
            that no input has, or an id field for an input without fields; while iterating for bad rows and damaged
            files.
        FastmaskError: for an unknown encoding.
    """
    _check_encoding(encoding)
    paths = input_files(paths)
    for path in paths if stamps is None else ():  # what was hashed has been looked at
        check_path(path)
    if id_field is not None and (plain := [path for path in paths if not has_fields(path)]):
        raise InputError(source_name(plain[0]), None, id_field, "lines of text have no fields to take ids from")
    reading = reading_of(text_field, label_field, encoding, max_text_mb, stamps, id_field)
    corpus = _Corpus(text_field, label_field, reading, id_field)
    named = label_field != LABEL_FIELD and place is None
    if named and paths and not any(_has_label(path, corpus) for path in paths):
        raise InputError(", ".join(map(source_name, paths)), None, label_field, "no input has such a column or key")
    if start_row and paths and paths[0] != STDIN:
        # Whether this is an aspect corpus follows from the first document, which the caller skips: any() reads it, and
        # ``corpus`` remembers.
        any(_rows(list(takewhile(lambda path: path != STDIN, paths)), corpus, True, 0, None, []))
    return _rows(paths, corpus, on_error == "skip", start_row, place, [] if skipped is None else skipped)


def reading_of(
    text_field: str,
    label_field: str,
    encoding: str,
    max_text_mb: int,
    stamps: Mapping[str, Stamp] | None = None,
    id_field: str | None = None,
) -> Reading:
    """Return how ``read_rows`` reads with these arguments."""
    columns = text_field, label_field, ASPECTS_FIELD, *([] if id_field is None else [id_field])
    return Reading(encoding, columns, max_text_mb * MB, stamps or {})


def _check_encoding(encoding: str) -> None:
    try:
        lines, line = ("a\nb\n" * 2).encode(encoding), "\n".encode(encoding)
    except (LookupError, ValueError):
        raise FastmaskError(f"--encoding {encoding}: unknown encoding") from None
    if lines.decode(encoding) != "a\nb\n" * 2 or codecs.lookup(encoding).name in _NOT_BY_LINE or not line:
        raise FastmaskError(f"--encoding {encoding}: does not encode a text line by line")


def check_text(text: str, source: str, line: int, field: str) -> None:
    """Raise InputError for characters that no tokenizer takes: NUL, and halves of surrogate pairs."""
    if "\0" in text:
        raise InputError(source, line, field, "NUL byte in the text")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            reason = f"half of a surrogate pair at character {error.start}"
            raise InputError(source, line, field, reason) from None


def check_label(value, source: str, line: int, field: str) -> Label:
    """Return a label of a file as ``labels.read_label`` gives it; InputError for a value that is none."""
    if isinstance(value, str):
        check_text(value, source, line, field)
    try:
        return read_label(value)
    except TypeError:
        raise InputError(source, line, field, f"expected a class index or name, found {type_name(value)}") from None


def check_id(value, source: str, line: int, field: str) -> str:
    """Return an id of a file as a string; InputError for a value that is neither text nor a whole number."""
    value = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if value is None or value == "":
        raise InputError(source, line, field, "missing, and --id-field wants an id in each row")
    if not isinstance(value, str):
        found = f"the number {value}" if isinstance(value, float) else type_name(value)
        raise InputError(source, line, field, f"expected a string or a whole number as id, found {found}")
    check_text(value, source, line, field)
    if len(value) > LONGEST_ID:
        raise InputError(source, line, field, f"an id of {len(value):,} characters; {LONGEST_ID:,} are the most")
    return value


def _rows(paths, corpus: _Corpus, skip_faults: bool, start_row: int, place: Place | None, skipped: list[str]):
    row = start_row - place.skip if place else 0
    for path in paths[place.input :] if place else paths:
        with open_records(path, corpus.reading, place) as (records, fields_of):
            place = None
            row += _pass_over(records, start_row - row)
            corpus.source = source_name(path)
            for item in _each(map(corpus.document, count(row), map(fields_of, records))):
                if isinstance(item, InputError):
                    if not skip_faults:
                        raise item
                    skipped.append(str(item))
                row += 1
                yield None if isinstance(item, InputError) else item


def _each(items: Iterator) -> Iterator:
    """Yield the items, and instead of a bad row its InputError; the iterator must be able to continue after it."""
    while True:
        try:
            item = next(items)
        except StopIteration:
            return
        except Unreadable:
            raise
        except InputError as fault:
            item = fault
        yield item


def _has_label(path: str, corpus: _Corpus) -> bool:
    """Return whether some row has the label's field; usually the first one has."""
    if not has_fields(path):
        return False
    with open_records(path, corpus.reading) as (records, fields_of):
        rows = (item[1] for item in _each(map(fields_of, records)) if not isinstance(item, InputError))
        return any(corpus.label_field in fields for fields in rows if fields is not None)


def _pass_over(records: Iterator, rows: int) -> int:
    """Skip up to ``rows`` records without parsing them; return how many there were."""
    return sum(1 for _ in islice(_each(records), max(rows, 0)))


class _Corpus:
    """Makes documents of fields; knows whether rows have aspects (None until the first document)."""

    def __init__(self, text_field: str, label_field: str, reading: Reading, id_field: str | None = None):
        self.text_field, self.label_field, self.reading = text_field, label_field, reading
        self.id_field = id_field
        self.has_aspects: bool | None = None
        self.source = ""

    def document(self, row: int, record: Fields) -> Document | None:
        line, fields = record
        if fields is None:
            return None
        text = fields.get(self.text_field)
        if not isinstance(text, str):
            missing = self.text_field not in fields
            reason = "missing" if missing else f"expected a string, found {type_name(text)}"
            raise InputError(self.source, line, self.text_field, reason)
        check_text(text, self.source, line, self.text_field)
        label = check_label(fields.get(self.label_field), self.source, line, self.label_field)
        aspects = fields.get(ASPECTS_FIELD)
        if aspects is not None:
            aspects = _aspects(aspects, self.source, line)
            if label is not None:
                reason = f'a row with "{ASPECTS_FIELD}" takes no label'
                raise InputError(self.source, line, self.label_field, reason)
        self._check_kind(aspects is not None, line)
        own = None if self.id_field is None else check_id(fields.get(self.id_field), self.source, line, self.id_field)
        return Document(row, text, label, aspects, self.source, line, own)

    def _check_kind(self, has_aspects: bool, line: int) -> None:
        if self.has_aspects is None:
            self.has_aspects = has_aspects
        if self.has_aspects != has_aspects:
            found, first = ("with", "without") if has_aspects else ("without", "with")
            reason = f"a row {found} aspects in a corpus that began {first} them"
            raise InputError(self.source, line, ASPECTS_FIELD, reason)


def _aspects(values, source: str, line: int) -> tuple[Aspect, ...]:
    if not isinstance(values, list):
        raise InputError(source, line, ASPECTS_FIELD, f"expected a list, found {type_name(values)}")
    aspects = (_aspect(value, source, line, f"{ASPECTS_FIELD}[{n}]") for n, value in enumerate(values))
    return tuple(aspect for aspect in aspects if aspect.polarity != "conflict")


def _aspect(value, source: str, line: int, place: str) -> Aspect:
    if not isinstance(value, dict):
        raise InputError(source, line, place, f"expected an object, found {type_name(value)}")
    term = value.get("term")
    if not isinstance(term, str):
        raise InputError(source, line, f"{place}.term", f"expected a string, found {type_name(term)}")
    check_text(term, source, line, f"{place}.term")
    polarity = check_label(value.get("polarity"), source, line, f"{place}.polarity")
    if polarity is None:
        raise InputError(source, line, f"{place}.polarity", "missing")
    return Aspect(term, polarity)
