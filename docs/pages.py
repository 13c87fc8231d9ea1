"""What the site is made of (a hook of mkdocs): pages of the repository, and references made from the code itself."""

import inspect
import re
from dataclasses import Field, fields
from pathlib import Path

import click

import fastmask
from fastmask.cli import cli
from fastmask.core.config import ScoreConfig

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"\]\((?!https?:|#)([^)\s#]+)")
LOADED = re.compile(
    r"<(?:script|img|iframe|source)\b[^>]*\bsrc=[\"']?([^\s\"'>]+)|<link\b[^>]*\bhref=[\"']?([^\s\"'>]+)"
)


def repository_files() -> list[str]:
    """Return the paths of all pages, and of the files that they have links to."""
    found = ("*.md", "docs/*.md", "benchmarks/*.md", "benchmarks/evidence/*.md", "fastmask/**/*.md")
    pages = [page for pattern in found for page in ROOT.glob(pattern)]
    linked = {(page.parent / link).resolve() for page in pages for link in LINK.findall(page.read_text("utf-8"))}
    return sorted({str(path.relative_to(ROOT)) for path in {*pages, *linked} if path.is_file()})


def commands_page(commands: click.Group) -> str:
    """Return the reference of commands in Markdown: what ``--help`` says of each."""
    page = ["# Commands\n", "`fastmask COMMAND --help` prints the same.\n"]
    page += ["| command | does |", "|---|---|"]
    page += [
        f"| [{name}](#{name}) | {command.get_short_help_str(200)} |" for name, command in commands.commands.items()
    ]
    for name, command in commands.commands.items():
        context = click.Context(command, info_name=f"fastmask {name}", **commands.context_settings)
        page.append(f"\n## {name}\n\n{escaped(inspect.cleandoc(command.help or ''))}\n")
        page.append(f"```text\n{command.get_usage(context)}\n```")
        for group, options in grouped(command, context).items():
            page += [f"\n**{group}**\n", "| option | |", "|---|---|"]
            page += [f"| `{spelling}` | {escaped(text)} |" for spelling, text in options]
    return "\n".join(page) + "\n"


def grouped(command: click.Command, context: click.Context) -> dict[str, list[tuple[str, str]]]:
    """Return (spelling, help) of a command's options under the headings of its ``--help``."""
    groups: dict[str, list[tuple[str, str]]] = {}
    formatter = click.HelpFormatter()
    formatter.write_dl = lambda rows, *_, **__: groups[list(groups)[-1]].extend(rows)
    formatter.write_heading = lambda heading: groups.setdefault(heading, [])
    command.format_options(context, formatter)
    return {name: rows for name, rows in groups.items() if rows}


def escaped(text: str) -> str:
    """Return plain text as Markdown that may stand in a table."""
    return re.sub(r"([|<*_])", r"\\\1", text)


def api_page(homes: dict[str, str]) -> str:
    """Return the reference of names that the package exports, which mkdocstrings fills in."""
    page = ["# Python\n", "All that `import fastmask` gives. [Work from Python](python.md) shows it in use.\n"]
    for name, home in homes.items():
        page.append(f"::: fastmask.{home}.{name}\n    options:\n      heading: fastmask.{name}")
        if name == "ScoreConfig":  # its fields say all about themselves
            page += ["      show_signature: false\n      members: false\n", "| field | default | |", "|---|---|---|"]
            page += [field_row(field) for field in fields(ScoreConfig)]
        page.append("")
    return "\n".join(page)


def field_row(field: Field) -> str:
    """Return the table row of a setting: its name, its default, and what the command line says of it."""
    return f"| `{field.name}` | `{field.default!r}` | {escaped(field.metadata['help'])} |"


def on_files(files, config):
    """Return the files of the site: those of the repository by their own paths, and the references."""
    from mkdocs.structure.files import File

    made = {"docs/commands.md": commands_page(cli), "docs/api.md": api_page(fastmask._HOMES)}
    for file in [file for file in files if file.src_dir == config.docs_dir]:  # the others are the theme's
        files.remove(file)
    for path in repository_files():
        files.append(File.generated(config, path, abs_src_path=str(ROOT / path)))
    for path, content in made.items():
        files.append(File.generated(config, path, content=content))
    return files


def on_post_build(config):
    """Refuse pages that would load anything from elsewhere, or what is not there."""
    from mkdocs.exceptions import PluginError

    site = Path(config.site_dir)
    if faults := [
        f"{page.relative_to(site)}: loads {url}" for page in site.rglob("*.html") for url in faulty(page, site)
    ]:
        raise PluginError("\n".join(faults))


def faulty(page: Path, site: Path) -> list[str]:
    """Return what a page loads that is no file of the site."""
    loaded = [url for urls in LOADED.findall(page.read_text("utf-8")) for url in urls if url and url[:5] != "data:"]
    places = {url: site / url[1:] if url.startswith("/") else page.parent / url.split("?")[0] for url in loaded}
    return [url for url, place in places.items() if not place.exists()]  # nor is there a file of the name https:
