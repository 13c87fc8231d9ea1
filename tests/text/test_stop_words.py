"""Lists of stop words: spaCy's by language, or a file."""

import pytest

from fastmask.core.errors import InputError
from fastmask.text.stop_words import stop_words

# looked up by hand in spaCy 3.8: language -> how many there are, some that are, some that are not
LISTS = {
    "en": (326, "the 's not", "film The"),
    "de": (543, "der und nicht", "film Der"),
    "fr": (507, "l' qu' qu’ est", "film"),
    "es": (521, "el la está", "cine"),
    "it": (624, "l' della che", "cinema"),
    "pt": (416, "não uma os", "filme"),
    "ru": (768, "не и что", "фильм"),
    "zh": (1891, "的 我们 如果", "电影"),
    "ja": (154, "これ から する", "映画"),
    "ar": (381, "في من على", "فيلم"),
    "hi": (230, "है और का", "फ़िल्म"),
    "tr": (551, "için ile işte", "film"),
    "ko": (58, "가 그", "영화"),
}


@pytest.mark.parametrize("language", LISTS)
def test_lists_of_languages(language):
    count, some, others = LISTS[language]
    words = stop_words("language", language)
    assert len(words) == count and words.issuperset(some.split()) and words.isdisjoint(others.split())


@pytest.mark.parametrize("language", ["fo", "nn", "xx"])
def test_languages_without_a_list(language):
    assert stop_words("language", language) == frozenset()


def test_lists_that_do_not_depend_on_the_language():
    assert stop_words("english", "de") == stop_words("language", "en") == stop_words("english")
    assert stop_words("none", "de") == frozenset()


def test_lists_are_spacys():
    from spacy.util import get_lang_class

    for language in ("de", "it", "zh", "tr", "gd", "nn"):
        assert stop_words("language", language) == get_lang_class(language).Defaults.stop_words


def test_stop_words_of_a_file(tmp_path):
    file = tmp_path / "stop.txt"
    file.write_bytes("\ufeffFilm\r\n\n  plot \nİç\rl'".encode())
    assert stop_words(str(file), "de") == {"film", "plot", "i̇ç", "l'"}


@pytest.mark.parametrize(
    ("content", "line"),
    [(None, ""), (b"\xff\xfe", ":1"), (b"film\nplot\ncaf\xe9\n", ":3"), (b"film\n\nthe plot\n", ":3"), (b"a\0b", ":1")],
)
def test_stop_words_that_cannot_be_read(tmp_path, content, line):
    file = tmp_path / "stop.txt"
    if content:
        file.write_bytes(content)
    with pytest.raises(InputError, match=rf"stop\.txt{line}: cannot read stop words"):
        stop_words(str(file))
