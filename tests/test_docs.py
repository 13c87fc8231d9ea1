"""What the pages say in their prose, against the code; and what the site is made of."""

import importlib.util
import re
from pathlib import Path

import click
import pytest

import fastmask
from fastmask.cli import cli

ROOT = Path(__file__).parents[1]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]
OF_OTHERS = {"--nproc-per-node", "--standalone", "--array", "--numprocesses", "--logdir"}


@pytest.fixture(scope="module")
def site():
    spec = importlib.util.spec_from_file_location("pages", ROOT / "docs/pages.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def options_of(name: str) -> set[str]:
    params = [param for param in cli.commands[name].params if isinstance(param, click.Option)]
    return {spelling for param in params for spelling in (*param.opts, *param.secondary_opts)} | {"--help", "-h"}


EVERY = set.union(*map(options_of, cli.commands))


def code_in_prose(page: Path) -> list[str]:
    """Everything between backticks outside of blocks, and where a line ends in it, as one line."""
    text = re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", text)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_options_in_the_prose_are_there(page):
    """Of a command with its options, these ones; of an option alone, that some command or benchmark has it."""
    for code in code_in_prose(page):
        spelled = {word.split("=")[0] for word in re.findall(r"(?<!\S)--?[a-z][\w=-]*", code)}
        if words := re.match(r"(?:python -m )?fastmask ([a-z][\w-]*)(?!\S)", code):
            assert words[1] in cli.commands, code
            assert spelled <= options_of(words[1]), code
        elif not re.match(r"pip|git|python|torchrun|make|bench|ray|srun|sbatch|kubectl|\./", code):
            assert {word for word in spelled if word.startswith("--")} <= EVERY | OF_OTHERS, code


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_names_in_the_prose_are_there(page):
    """Those that are reached from the package itself, as in ``fastmask.score``."""
    for name in re.findall(r"`fastmask\.(\w+)\(?", page.read_text("utf-8")):
        assert name in fastmask.__all__ or importlib.util.find_spec(f"fastmask.{name}"), name


def test_the_walk_of_concepts_is_what_explain_computes():
    """Every number of the table and of the picture, the buffer of each step, and what becomes of each token."""
    page = (ROOT / "docs/concepts.md").read_text("utf-8")
    picture = re.findall(r">([^<>\n]+)<", (ROOT / "docs/greedy.svg").read_text("utf-8"))
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in re.findall(r"^\| \d .*$", page, re.MULTILINE)]
    (text,) = re.findall(r'^fastmask explain "(.*)"$', page, re.MULTILINE)
    (record,) = fastmask.score([text], precision="float32")
    buffer, masked, drawn = [], set(record.mask_index.tolist()), []
    for n, ((start, end), small) in enumerate(zip(record.spans, record.importance, strict=True)):
        token, p, s = text[start:end], f"{record.prob - small:.4f}", f"{small:.4f}"
        kept = "is masked" if n in masked else "joins the buffer"
        assert rows[n] == [str(n + 1), " ".join(buffer), token, p, s, kept]
        drawn += [" ".join(buffer) or "(empty)", token, p, s + ("  important: left out, masked" if n in masked else "")]
        buffer += [token] * (n not in masked)
    assert len(rows) == len(record.tokens) and f"P = {record.prob:.4f}" in page
    assert picture[-len(drawn) - 1 : -1] == drawn and f"S = {record.prob:.4f} - P" in picture


def test_the_reference_has_every_command_and_option(site):
    page = site.commands_page(cli)
    sections = dict(zip(*[iter(re.split(r"^## (\S+)$", page, flags=re.MULTILINE)[1:])] * 2, strict=True))
    assert list(sections) == list(cli.commands)
    for name, section in sections.items():
        spelled = " ".join(re.findall(r"^\| `([^`]+)`", section, re.MULTILINE))
        assert set(re.findall(r"(?<!\S)(--?[a-z][\w-]*)", spelled)) == options_of(name), name
        arguments = [param for param in cli.commands[name].params if isinstance(param, click.Argument)]
        assert all(param.make_metavar(click.Context(cli)) in section for param in arguments), name


def test_the_reference_has_every_name_of_the_package(site):
    page = site.api_page(fastmask._HOMES)
    named = re.findall(r"^::: (fastmask\.[\w.]+)\.(\w+)$", page, re.MULTILINE)
    assert [name for _, name in named] == [name for name in fastmask.__all__ if name != "__version__"]
    assert all(hasattr(importlib.import_module(home), name) for home, name in named)
    assert all(f"| `{name}` |" in page for name in fastmask.ScoreConfig.__dataclass_fields__)


def test_every_page_and_what_it_links_to_is_on_the_site(site):
    """And in its navigation, of which a missing page would only be told when the site is built."""
    files = site.repository_files()
    assert {str(path.relative_to(ROOT)) for path in PAGES} | {"recipes/demo.toml", "docs/greedy.svg"} <= set(files)
    in_navigation = set(re.findall(r": (\S+\.md)$", (ROOT / "mkdocs.yml").read_text("utf-8"), re.MULTILINE))
    assert in_navigation == {name for name in files if name.endswith(".md")} | {"docs/commands.md", "docs/api.md"}


@pytest.mark.parametrize("tag, wrong", [
    ('<script src="https://unpkg.com/x.js"></script>', True),
    ('<link rel="preconnect" href="https://fonts.gstatic.com">', True),
    ('<img alt="a" src="http://x/y.png">', True),
    ('<link rel="icon" href=gone.png>', True),
    ('<a href="https://arxiv.org">', False),
    ('<img src="data:image/png;base64,AA">', False),
    ('<script src="../x.js?v=1"></script>', False),
])  # fmt: skip
def test_a_page_that_loads_what_the_site_has_not_is_seen(site, tmp_path, tag, wrong):
    (tmp_path / "x.js").touch()
    page = tmp_path / "docs" / "page.html"
    page.parent.mkdir()
    page.write_text(f"<p>{tag}</p>", "utf-8")
    assert bool(site.faulty(page, tmp_path)) is wrong
