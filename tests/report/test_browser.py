"""The page in a browser: both widths, light and dark; nothing loaded, nothing run, nothing too wide; accessible."""

import shutil

import pytest
from page_samples import HOSTILE, toy_model, write_sentences
from run_samples import some_run

from fastmask.report.page import page
from fastmask.report.run_page import run_page
from fastmask.scoring.overview import overview

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on the path (apt install chromium)")


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """An ordinary page beside another run, and a hostile one, as files."""
    folder = tmp_path_factory.mktemp("pages")
    words = ["good", "film", "dull", "plot", "unbelievably", "long", "."]
    model, hostile = toy_model(folder / "model", words), toy_model(folder / "hostile", HOSTILE, ("<script>", "</p>"))
    sentences = [[(k * k + n) % 7 for n in range(2 + k % 7)] for k in range(14)]
    masked = [[n for n, w in enumerate(s) if w in (0, 2)] if k % 5 else [] for k, s in enumerate(sentences)]
    importance = [[(w - 3) / 5 + n / 99 for n, w in enumerate(s)] if k % 4 else None for k, s in enumerate(sentences)]
    known = {"label": [k % 3 for k in range(14)], "prob": [0.5 + k / 30 for k in range(14)]}
    out = write_sentences(folder / "out", model, sentences, masked, importance, **known)
    other = write_sentences(folder / "other", model, sentences, [[0] for _ in sentences], importance)
    all_words = list(range(len(HOSTILE)))
    evil = write_sentences(folder / "<b>out", hostile, [all_words] * 2, [all_words] * 2, label=[0, 1])
    for name, told in {"plain": overview(out, other), "hostile": overview(evil, evil)}.items():
        (folder / f"{name}.html").write_text(page(told), "utf-8")
    (folder / "run.html").write_text(run_page(some_run(name="<b>run</b>")), "utf-8")
    return folder


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def axe() -> str:
    """The source of axe-core."""
    from importlib.resources import files

    pytest.importorskip("axe_playwright_python")
    return (files("axe_playwright_python") / "axe.min.js").read_text("utf-8")


@pytest.mark.parametrize(("name", "width", "scheme"), [
    ("plain", 375, "light"), ("plain", 375, "dark"), ("plain", 1280, "light"), ("plain", 1280, "dark"),
    ("hostile", 375, "light"), ("hostile", 1280, "dark"), ("run", 375, "light"), ("run", 1280, "dark"),
])  # fmt: skip
def test_in_a_browser(pages, browser, axe, name, width, scheme):
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme, bypass_csp=True)
    view, said, asked = context.new_page(), [], []
    for event in ("console", "pageerror", "dialog"):
        view.on(event, lambda what: said.append(str(getattr(what, "text", what))))
    view.on("request", lambda request: asked.append(request.url))
    view.goto((pages / f"{name}.html").as_uri())
    view.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert view.evaluate("document.documentElement.scrollWidth") <= width
    # the file itself, and the empty icon inside it
    assert said == [] and [url for url in asked[1:] if not url.startswith("data:")] == []
    assert view.evaluate("document.scripts.length + document.images.length") == 0
    colours = [view.evaluate(f"getComputedStyle(document.body).{part}") for part in ("backgroundColor", "color")]
    assert (sum(map(int, colours[0][4:-1].split(", "))) < 300) == (scheme == "dark")
    if name != "hostile" and (width, scheme) in ((375, "light"), (1280, "dark")):
        view.evaluate(axe)
        found = view.evaluate("axe.run()")["violations"]
        assert [(one["id"], [node["html"][:120] for node in one["nodes"][:3]]) for one in found] == []
    if name == "hostile":
        text = view.inner_text("#words")
        assert all(word in text for word in HOSTILE[:5]) and "\u202e" not in text
    context.close()


def test_its_own_policy_forbids_whatever_is_not_in_it(pages, browser, tmp_path):
    """A script, a style or a picture that got into the page would not run or load; its own style applies."""
    source = (pages / "plain.html").read_text("utf-8")
    evil = (
        '<script>document.title="run"</script><p id="evil" style="color:red">x</p><img src="http://127.0.0.1:9/x.png">'
    )
    (tmp_path / "evil.html").write_text(source.replace("<main", evil + "<main"), "utf-8")
    view, failed = browser.new_page(), []
    view.on("requestfailed", lambda request: failed.append(request.failure))
    view.goto((tmp_path / "evil.html").as_uri())
    assert "masked" in view.title() and failed == ["csp"]
    assert view.evaluate("getComputedStyle(evil).color") != "rgb(255, 0, 0)"
    assert view.evaluate("getComputedStyle(document.querySelector('section')).borderRadius") != "0px"
