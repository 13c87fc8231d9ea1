"""Other languages than English: where sentences end, by texts written for this test and by spaCy itself."""

import hashlib
import json
import subprocess
import sys

import pytest
from helpers import fastmask, refusal
from hypothesis import given, settings
from hypothesis import strategies as st

import fastmask as package
from fastmask.core.config import ScoreConfig
from fastmask.core.errors import FastmaskError
from fastmask.text.affixes import change_affixes
from fastmask.text.sentences import Segmenter
from fastmask.text.stop_words import stop_words

# language -> documents of some sentences each; abbreviations and numbers end none
TEXTS = {
    "de": [
        ["Der Film ist z. B. für Kinder gut.", "Dr. Müller lachte sehr!", "War er am 3. Mai im Kino?"],
        ["„Das war nichts.“", "Er ging ca. 20 Minuten früher, d. h. er sah das Ende nicht."],
    ],
    "fr": [
        ["M. Dupont n'a pas aimé le film.", "Qu'est-ce qu'il a dit ?", "Il a dit « rien. »", "C'est tout…"],
        ["L'actrice joue bien, cf. la scène av. l'entracte.", "Bravo !"],
    ],
    "es": [
        ["¿Te gustó la película?", "Sí, mucho!", "La Sra. García vive en EE. UU. desde 1990."],
        ["El guion es flojo, p.ej. al final.", "No la veas."],
    ],
    "it": [["L'attore è bravo.", "Il prof. Rossi non l'ha visto.", "Perché no?"]],
    "pt": [["O filme é ótimo.", "A Sra. Silva não gostou!", "Custa 3.50 euros."]],
    "pl": [["Film jest dla dzieci.", "Nowak wyszedł!", "Dlaczego?"]],
    "ru": [["Фильм снят в 1990 г. в Москве.", "Это, т.е. сюжет, скучно!", "А финал?", "Понравился."]],
    "el": [["Η ταινία είναι καλή.", "Ο κ. Παπάς έφυγε!", "Κρίμα."]],
    "tr": [["İyi bir film.", "Dr. Yılmaz beğenmedi!", "Neden beğenmedi?"]],
    "zh": [
        ["这部电影很好看。", "演员呢？", "太棒了！", "他看了《英雄。》", "不好。"],
        ["他说：“我喜欢。”", "然后走了。"],
    ],
    "ja": [
        ["この映画は面白い。", "でも、長すぎる！", "彼は「はい。」", "と言った。"],
        ["3.5点です。", "Mr.Xも見た？", "見た。"],
    ],
    "ar": [["الفيلم رائع.", "هل شاهدته؟", "نعم، مرتين!", "القصة ضعيفة."]],
    "fa": [["فیلم خوب بود.", "آن را دیدی؟", "بله!"]],
    "ur": [["فلم اچھی ہے۔", "کیا آپ نے دیکھی؟", "ہاں۔"]],
    "he": [["הסרט טוב.", "ראית אותו?", "כן!"]],
    "hi": [["फ़िल्म अच्छी है।", "क्या तुमने देखी?", "हाँ, दो बार।"]],
    "bn": [["ছবিটি ভালো।", "তুমি কি দেখেছ?", "হ্যাঁ!"]],
    "am": [["ፊልሙ ጥሩ ነው።", "አይተኸዋል፧", "አዎ።"]],
    # spaCy leaves these full stops on the word before
    "sa": [["रामः वनं गच्छति॥", "सीता अपि गच्छति॥"]],
    "hy": [["Ֆիլմը լավն է։", "Դու տեսա՞ր այն։", "Այո։"]],
    "gu": [["ફિલ્મ સારી છે.", "તમે જોઈ?", "હા."]],
    "ml": [["സിനിമ നല്ലതാണ്.", "നിങ്ങൾ കണ്ടോ?", "അതെ."]],
}
DOCUMENTS = [(language, sentences) for language, documents in TEXTS.items() for sentences in documents]


def split(language: str, text: str) -> list[str]:
    return [text[a:b] for a, b in Segmenter("sentence", language).split(text).tolist()]


@pytest.mark.parametrize(("language", "sentences"), DOCUMENTS, ids=lambda one: one if isinstance(one, str) else "")
def test_sentences_of_a_language(language, sentences):
    gap = "" if language in ("zh", "ja") else " "
    assert split(language, gap.join(sentences)) == sentences


def test_english_rules_are_not_those_of_others():
    assert len(split("en", "".join(TEXTS["zh"][1]))) == 1 and len(split("zh", "".join(TEXTS["zh"][1]))) == 2
    assert split("en", "Vive en EE. UU. desde 1990.") == ["Vive en EE.", "UU.", "desde 1990."]


def test_an_opening_mark_stays_with_the_sentence_before_as_in_spacy():
    text = "¿La viste? ¡Sí!"
    assert split("es", text) == ["¿La viste? ¡", "Sí!"] == [text[a:b] for a, b in spacy_splitter("es")(text)]
    assert split("zh", "好。《英雄》") == ["好。《", "英雄》"]


def test_chinese_is_split_as_spacy_splits_it_even_at_a_decimal_point():
    assert split("zh", "涨了3.5元。好") == ["涨了3.", "5元。", "好"]


@pytest.mark.parametrize("language", ["zh", "ja", "ar", "hi", "de"])
def test_mixed_scripts_and_empty_lines(language):
    text = "\n\nGood film!  很好。\n\n \nХорошо. 「좋다!」\nअच्छा।\n\n؟ ok \n"
    good, *others = split(language, text)
    assert good == "Good film!" and "".join([good, *others]).replace(" ", "") == "".join(text.split())
    assert split(language, " \n\t\n") == []


def spacy_splitter(language: str):
    import spacy

    nlp = spacy.blank(language)
    nlp.add_pipe("sentencizer")

    def sentences(text: str) -> list[tuple[int, int]]:
        pieces = [(s.start_char, text[s.start_char : s.end_char]) for s in nlp(text).sents]
        spans = [(start + len(p) - len(p.lstrip()), start + len(p.rstrip())) for start, p in pieces]
        return [span for span in spans if span[0] < span[1]]

    return sentences


EXACT = ["de", "es", "ru", "zh", "el", "tr", "hu", "ar", "xx"]
MARKS = [*".!?,;:\"'()-/…»«”’%$=<>[]+*&@#°X5", "...", "。", "！", "؟", "।", "3.5", "<a b>", "A.", "\n", *"    ", "  "]
PARTS = ["z.B.", "Dr.", "EE. UU.", "т.е.", "д-р мед. наук", "好", "Αα'", "12'", "κ.", "3. Mai", "ب. م", "Wort", "слово"]
RUNS = st.lists(st.sampled_from([*MARKS, *PARTS]), max_size=30).map("".join)


@pytest.fixture(scope="module", params=EXACT)
def both(request):
    return Segmenter("sentence", request.param), spacy_splitter(request.param)


@settings(max_examples=60, deadline=None)
@given(text=RUNS.filter(str.strip))
def test_sentences_are_spacys_in_other_languages(both, text):
    segmenter, sentences = both
    assert [tuple(span) for span in segmenter.split(text).tolist()] == sentences(text)


def test_no_block_ends_inside_what_spacy_knows_as_a_whole():
    segmenter, sentences = Segmenter("sentence", "es"), spacy_splitter("es")
    for shift in range(26):
        text = "x" * shift + " vive en EE. UU. desde ayer" * 200 + ". Sí."
        spans = [tuple(span) for span in segmenter.split(text).tolist()]
        assert spans == sentences(text) and len(spans) == 2
    text = "EE. UU." * 700 + " Sí."  # where a block could end nowhere else
    assert "".join(split("es", text)).replace(" ", "") == text.replace(" ", "")


@pytest.mark.parametrize(
    ("language", "run"),
    [
        ("el", "="),
        ("el", "αβ'"),
        ("el", "α-β"),
        ("el", "12'"),
        ("hu", "["),
        ("ms", ">"),
        ("ms", "<a"),
        ("ms", "x<a b>"),
    ],
)
def test_affixes_of_a_long_run_are_those_that_spacy_finds(language, run):
    from spacy.tokenizer import Tokenizer
    from spacy.util import compile_prefix_regex, compile_suffix_regex, get_lang_class
    from spacy.vocab import Vocab

    defaults, text = get_lang_class(language).Defaults, run * 300
    prefixes, suffixes = compile_prefix_regex(defaults.prefixes), compile_suffix_regex(defaults.suffixes)
    tokenizer = Tokenizer(Vocab(), prefix_search=prefixes.search, suffix_search=suffixes.search)
    expected = [str(prefixes.search(text)), str(suffixes.search(text))]
    change_affixes(tokenizer, language)
    assert [str(tokenizer.prefix_search(text)), str(tokenizer.suffix_search(text))] == expected


def test_japanese_and_chinese_do_without_spacy():
    code = (
        "import sys; from fastmask.text.sentences import Segmenter\n"
        "assert all(len(Segmenter('sentence', one).split('好。好。')) == 2 for one in ('zh', 'ja'))\n"
        "assert 'spacy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_unknown_language(tmp_path):
    (tmp_path / "a.txt").write_text("Hallo.\n")
    for language in ("klingon", "DE", "de-AT", "", "../en"):
        line = refusal(fastmask("score", tmp_path / "a.txt", "-o", tmp_path / "out", "--language", language))
        assert "--language" in line and (not language or ("choose one of af, am, ar" in line and "yo, zh" in line))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("language", "needed"), [("th", "pythainlp"), ("vi", "pyvi"), ("ko", "natto-py")])
def test_languages_whose_tokenizer_is_not_there(language, needed, monkeypatch):
    monkeypatch.setitem(sys.modules, needed.partition("-")[0], None)
    with pytest.raises(FastmaskError, match=f"--language {language}: .*{needed}; --segment line does without"):
        ScoreConfig(language=language)
    assert ScoreConfig(language=language, segment="line").language == language
    # it is there, but not what it needs itself
    with pytest.raises(FastmaskError, match=f"--language {language}: its tokenizer .*; --segment line does without"):
        Segmenter("sentence", language)


def test_the_function_and_explain_split_by_language(mr_tiny):
    options = {"model": mr_tiny, "language": "zh", "precision": "float32", "threads": 1}
    records = list(package.score(["好。坏。很好！"], **options))
    assert [record.spans[0][0] for record in records] == [0, 2, 4]
    shown = fastmask("explain", "好。坏。", "--model", mr_tiny, "--language", "zh", "--precision", "float32")
    assert shown.stdout.count("class ") == 2, shown.stderr


def test_a_run_is_resumed_in_its_own_language_only(mr_tiny, tmp_path):
    corpus, out = tmp_path / "a.txt", tmp_path / "out"
    corpus.write_text("Guter Film. Sehr z. B. gut!\n", encoding="utf-8")
    options = ("-o", out, "--method", "random", "--model", mr_tiny, "-q")
    assert fastmask("score", corpus, *options, "--language", "de").exit_code == 0
    plan, manifest = (json.loads((out / name).read_text()) for name in ("_plan.json", "_manifest.json"))
    assert plan["config"]["language"] == manifest["config"]["language"] == "de"
    german = hashlib.sha256("\n".join(sorted(stop_words("language", "de"))).encode()).hexdigest()
    assert plan["stop_words_sha256"] == manifest["stop_words_sha256"] == german
    assert "language" in refusal(fastmask("score", corpus, *options, "--language", "fr"))
    assert "stop_words" in refusal(fastmask("score", corpus, *options, "--language", "de", "--stop-words", "none"))
    assert fastmask("verify", out).exit_code == 0


def test_a_language_without_stop_words_is_told(mr_tiny, tmp_path):
    (tmp_path / "a.txt").write_text("Ein fin film.\n")
    command = ("score", tmp_path / "a.txt", "-o", tmp_path / "out", "--model", mr_tiny, "--language", "nn")
    result = fastmask(*command, "--precision", "float32")
    assert result.exit_code == 0 and "--language nn: spaCy has no stop words of it" in result.stderr
