"""What fuzzing makes of good texts, JSON values and bytes. Everything comes from a seeded generator."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from random import Random

TEXTS = (
    "", " ", "\0", "a\0b", "\x1b[2J\x1b]0;x\x07", "\x9b31m", "\u202egnp.exe", "\u2028", "\x85", "\ud800",
    "\udfff\ud800", "a\r\nb", "\r", "\n\n", "\t", "[red]x[/red]", "[/]", "../../x", "/dev/zero", "~", "-",
    "--help", "%s{0}{", "é\u0301", "🙂", "\ufeff", "\ufffe", "nan", "NaN", "-1", "1.0", "1e999", "0x10", "null",
    "true", "conflict", ",", ";", '"', '""', 'a "b" c', "'", "\\", "\\ud800", "[MASK]", "[CLS] [SEP]", "##ing",
    "(" * 200, "a" * 300, "x" * 20_000, "ab " * 3000, "\u0130\u1e9e", "ﬁ", "\u200b", "\u00ad", "한국어", "中文字",
    "A" + "\u0300" * 50, "utf-8", "text", "label",
)  # fmt: skip
"""Texts that have broken programs: controls, escapes, marks of direction, halves of pairs, markup, paths, numbers."""
WORDS = ("good", "bad", "film", "the", "fine")
NUMBERS = (
    0, 1, -1, 2, 7, 127, 128, 2**15, 2**31 - 1, 2**31, -(2**31) - 1, 2**32, 2**53 + 1, 2**63 - 1, 2**63,
    -(2**63), 2**64, 10**30, 10**400, -(10**400), 0.5, -0.5, 1.5, -0.0, 1e-320, 1e300, -1e300, float("nan"),
    float("inf"), float("-inf"),
)  # fmt: skip
DEEP = "@deep@"
"""Stands for a list in a list in a list, which ``dump`` writes: Python could not hold it."""
DEPTHS = (30, 300, 800, 950, 2500, 60_000)


class Pairs(dict):
    """An object of JSON whose first key is there twice, with another value."""

    def items(self):
        """Return the pairs, the first of them twice."""
        pairs = list(super().items())
        return [*pairs, *((key, None) for key, _ in pairs[:1])]


def text(rng: Random) -> str:
    """Return a hostile text, or several in a row with words between."""
    parts = [rng.choice(TEXTS) if rng.random() < 0.7 else rng.choice(WORDS) + " "
             for _ in range(rng.choice((1, 1, 1, 2, 5)))]  # fmt: skip
    return "".join(parts)


def leaf(rng: Random):
    """Return a hostile value of JSON, of any type."""
    kinds: tuple[Callable[[], object], ...] = (
        lambda: None, lambda: rng.random() < 0.5, lambda: rng.choice(NUMBERS), lambda: rng.choice(NUMBERS),
        lambda: text(rng), lambda: text(rng), list, dict, lambda: [text(rng)] * rng.choice((1, 3, 300)),
        lambda: [[rng.choice(NUMBERS)]], lambda: {text(rng): rng.choice(NUMBERS)}, lambda: {"0": text(rng)},
        lambda: DEEP,
    )  # fmt: skip
    return rng.choice(kinds)()


def places(value, path: tuple = ()) -> Iterator[tuple]:
    """Yield the path of every value in one of JSON, its own first."""
    yield path
    items = value.items() if type(value) is dict else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*path, key))


def changed(rng: Random, value, times: int | None = None):
    """Return a copy of a JSON value in which some places are hostile: swapped, gone, moved, wrapped, renamed, twice."""
    box = {"": json.loads(json.dumps(value))}
    for _ in range(rng.choice((1, 1, 1, 2, 4)) if times is None else times):
        _change_one(rng, box)
    return box.get("")


def _change_one(rng: Random, box: dict) -> None:
    all_places = [path for path in places(box) if path]
    path = rng.choice(all_places)
    owner, key = _at(box, path[:-1]), path[-1]
    kind = rng.choice(("leaf", "leaf", "leaf", "near", "near", "gone", "other", "wrap", "name", "twice"))
    if kind == "near":
        owner[key] = _near(rng, owner[key])
    elif kind == "gone" and len(path) > 1:
        del owner[key]
    elif kind == "other":
        owner[key] = json.loads(json.dumps(_at(box, rng.choice(all_places))))
    elif kind == "wrap":
        owner[key] = rng.choice(([owner[key]], {"x": owner[key]}, [owner[key]] * 3))
    elif kind == "name" and isinstance(owner, dict) and len(path) > 1:
        owner[text(rng)] = owner.pop(key)
    elif kind == "twice" and isinstance(owner[key], dict):
        owner[key] = Pairs(owner[key])
    else:
        owner[key] = leaf(rng)


def _near(rng: Random, value):
    """Return a value of the same type that is another."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return rng.choice(
            (
                value + 1,
                value - 1,
                -value,
                value * 1000,
                value + 0.5 if abs(value) < 2**60 else 0.5,
                str(value),
                *NUMBERS[:10],
            )
        )
    if isinstance(value, float):
        return rng.choice((-value, value * 1e9, value / 3, *NUMBERS[-8:]))
    if isinstance(value, str):
        return rng.choice((value + text(rng), text(rng) + value, value.upper(), value[1:], value * 50))
    if isinstance(value, list):
        return rng.choice((value[::-1], value * 2, value[1:], value * 40, []))
    return dict(reversed(value.items())) if isinstance(value, dict) else leaf(rng)


def _at(box, path: tuple):
    for key in path:
        box = box[key]
    return box


def dump(rng: Random, value, indent: int | None = None) -> bytes:
    """Return a value as JSON, sometimes damaged; halves of pairs are escaped, or are bytes that are not UTF-8."""
    escaped = rng.random() < 0.6
    written = json.dumps(value, indent=indent, ensure_ascii=escaped)
    depth = rng.choice(DEPTHS)
    opening, closing = rng.choice((("[", "]"), ('{"a":', "}")))
    middle = "1" if opening != "[" else ""
    written = written.replace(f'"{DEEP}"', opening * depth + middle + closing * depth)
    data = written.encode("utf-8", "surrogatepass")
    return damaged(rng, data) if rng.random() < 0.15 else data


PIECES = (
    b"\0", b"\xff", b"\xff\xfe", b"\xef\xbb\xbf", b"\n", b"\r\n", b"\r", b'"', b"'", b",", b"\t", b"{", b"[",
    b"]}", b"\\u", b"\xed\xa0\x80", b"\x80", b"\xc3", b"9" * 5000, b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f",
    b"\0" * 8, b"[" * 5000, b"\x1b[31m", b"NaN", b"-", b"1e999", b"=", b"#", b"PAR1",
)  # fmt: skip


def damaged(rng: Random, data: bytes) -> bytes:
    """Return bytes with bits turned, pieces gone, put in, doubled or moved, or cut off."""
    found = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 12))):
        start = rng.randrange(len(found) + 1)
        stop = min(len(found), start + rng.choice((1, 2, 8, 64, 512)))
        kind = rng.randrange(7)
        if kind == 0 and start < len(found):
            found[start] ^= 1 << rng.randrange(8)
        elif kind == 1 and start < len(found):
            found[start] = rng.choice((0, 1, 127, 128, 255, rng.randrange(256)))
        elif kind == 2:
            del found[start:stop]
        elif kind == 3:
            found[start:start] = rng.choice(PIECES)
        elif kind == 4:
            found[start:start] = found[start:stop] * rng.choice((1, 1, 3, 50))
        elif kind == 5 and rng.random() < 0.5:
            del found[start:]
        else:
            at = rng.randrange(len(found) + 1)
            found[at:at] = found[start:stop]
    return bytes(found)
