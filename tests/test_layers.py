"""The house: who may import whom, who may print, how long a file may be. A new import is a change of ALLOWED."""

import ast
import subprocess
import sys
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted([*(ROOT / "fastmask").glob("*.py"), *(ROOT / "kernels").rglob("*.py")])
HEAVY = {"torch", "transformers", "tokenizers", "safetensors", "numpy", "numba", "pyarrow", "spacy", "rich", "triton"}
HEAVY |= {"huggingface_hub", "llvmlite", "scipy", "matplotlib", "h5py"}

ALLOWED = {
    # what every stage may know: records, settings, errors
    "errors": set(),
    "panics": {"errors"},
    "config": {"errors"},
    "config_train": {"config"},
    "records": set(),
    # text to ids
    "labels": {"errors"},
    "delimited": {"errors"},
    "streams": {"plain", "errors"},
    "formats": {"plain", "delimited", "errors", "labels", "streams"},
    "read": {"config", "errors", "formats", "labels", "records", "streams"},
    "segment": set(),
    "encode": {"errors", "panics", "labels", "records"},
    "ahead": set(),
    "frontend": {"ahead", "config", "encode", "labels", "read", "records", "segment", "streams"},
    "inputs": {"config", "errors", "formats", "read", "streams"},
    # ids to decisions
    "variants": {"records"},
    "template": {"errors", "family_rules", "panics", "variants"},
    "blocks": {"records", "variants"},
    "family_rules": set(),
    "families": {"family_rules"},
    "layers": {"families"},
    "generic": {"layers", "records"},
    "probe": {"errors", "records", "variants"},
    "lengths": {"errors", "family_rules", "template"},
    "encoder": {"device", "errors", "families", "family_rules", "generic", "layers", "memo", "records"},
    "device": {"certify", "errors", "families", "family_rules", "layers", "variants"},
    "certify": set(),
    "decide": {"plain", "errors"},
    "verdict": {"blocks", "certify", "decide", "pieces", "variants"},
    "memo": set(),
    "greedy": {"certify", "variants"},
    "scoring": {"blocks", "certify", "encoder", "errors", "greedy", "memo", "variants", "verdict"},
    "device_scoring": {"certify", "device", "scoring", "variants"},
    "backend": {"blocks", "config", "device", "device_scoring", "encoder", "errors", "families", "generic", "probe",
                "records", "scoring", "variants"},
    "engine": {"backend", "blocks", "certify", "config", "decide", "records", "scoring", "variants"},
    "masker": {"blocks", "certify", "decide", "engine", "pieces", "records", "scoring", "variants"},
    "sizes": {"plain", "errors"},
    "models": {"panics", "plain", "errors", "labels", "sizes"},
    "tokenizer": {"errors", "models"},
    "pieces": {"tokenizer"},
    # decisions to disk and back
    "durable": {"errors"},
    "directories": {"durable", "errors"},
    "locked": {"directories", "durable", "errors"},
    "plain": set(),
    "manifest": set(),
    "columns": set(),
    "sound": {"columns", "plain"},
    "schema": {"manifest", "plain", "columns", "errors", "records", "sound"},
    "journal": {"plain", "durable", "errors", "locked", "schema"},
    "shards": {"plain", "directories", "durable", "errors", "journal", "records", "schema"},
    "dataset": {"columns", "errors", "schema", "sound"},
    # shards to training sequences
    "corruption": {"errors"},
    "sequences": {"errors"},
    "corpus": {"columns", "dataset", "errors", "schema", "sequences"},
    "stream": {"corpus", "corruption", "errors", "sequences", "tokenizer"},
    "torch_stream": {"sequences", "stream"},
    "collator": {"corruption", "errors", "sequences", "tokenizer"},
    "remap": {"config", "dataset", "errors", "panics", "pieces", "read", "streams"},
    "remapped": {"", "dataset", "errors", "models", "records", "remap", "schema", "shards", "tokenizer"},
    "export": {"config", "corruption", "directories", "durable", "errors", "sequences", "stream"},
    # what puts stages together
    "control": {"plain", "config", "dataset", "decide", "errors", "records", "schema", "sequences"},
    "weights": {"errors", "families", "models", "sizes"},
    "loading": {"config", "decide", "engine", "errors", "lengths", "masker", "models", "pieces",
                "template", "weights"},
    "lookahead": {"certify", "records"},
    "fleet": {"backend", "certify", "config", "errors", "loading", "lookahead", "models", "records"},
    "scorer": {"certify", "config", "control", "decide", "encode", "fleet", "loading", "meter", "models", "records",
               "pieces", "tokenizer"},
    "pipeline": {"", "ahead", "certify", "config", "errors", "frontend", "inputs", "meter", "read", "records",
                 "schema", "scorer", "shards", "streams"},
    "api": {"config", "errors", "frontend", "panics", "records", "scorer", "tokenizer"},
    # the three stages, from a recipe
    "recipe": {"plain", "config", "config_train", "errors", "streams"},
    "steps": {"config", "config_train", "errors", "recipe"},
    "ledger": {"", "manifest", "plain", "config", "directories", "durable", "errors", "locked", "models", "read",
               "schema", "steps"},
    "run": {"durable", "errors", "ledger", "meter", "pipeline", "read", "recipe", "schema", "show", "steps", "train"},
    # what people see
    "meter": set(),
    "screen": {"errors"},
    "show": {"screen"},
    "options": {"config"},
    "startup": {"memo"},
    "cli": {"", "api", "config", "config_train", "dataset", "errors", "export", "inputs", "meter", "options",
            "pipeline", "remapped", "run", "screen", "shards", "show", "startup", "train"},
    "__main__": {"cli"},
    "__init__": {"api", "collator", "config", "corruption", "dataset", "errors", "pipeline", "remap",
                 "remapped", "stream", "torch_stream"},
}  # fmt: skip
"""Module -> the modules of fastmask it may import; "" is the package itself, for the version."""


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports_of(tree, *, top_level=False):
    """(dots, module, names) of each import statement; ``top_level``: only what runs when the module is imported."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found = [(0, alias.name, []) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found = [(node.level, node.module or "", [alias.name for alias in node.names])]
        else:
            continue
        if not (top_level and is_deferred(tree, node)):
            yield from found


def is_deferred(tree, node) -> bool:
    """Whether a statement is inside a function or under ``if TYPE_CHECKING``."""
    for outer in ast.walk(tree):
        deferred = isinstance(outer, ast.FunctionDef) or (
            isinstance(outer, ast.If) and ast.unparse(outer.test) == "TYPE_CHECKING"
        )
        if deferred and any(inner is node for inner in ast.walk(outer)):
            return True
    return False


def own_imports(path: Path) -> set[str]:
    """Modules of fastmask that a module of it imports anywhere."""
    found = set()
    for dots, module, names in imports_of(tree_of(path)):
        if dots == 1:
            found |= {module.partition(".")[0]} if module else {n if n in ALLOWED else "" for n in names}
        elif dots == 0 and module.partition(".")[0] == "fastmask":
            found.add(module.partition(".")[2].partition(".")[0])
    if path.stem == "__init__":  # the homes of its lazy names
        (homes,) = (node.value for node in tree_of(path).body if isinstance(node, ast.Assign) and "_HOMES" in
                    [getattr(target, "id", "") for target in node.targets])  # fmt: skip
        found |= set(ast.literal_eval(homes).values())
    return found


def host_files() -> list[Path]:
    return [path for path in FILES if path.parent.name == "fastmask"]


def kernel_files() -> list[Path]:
    return [path for path in FILES if "kernels" in path.parts[len(ROOT.parts)]]


def test_there_are_files():
    assert len(host_files()) > 20 and len(kernel_files()) > 3
    assert {path.stem for path in host_files()} == set(ALLOWED)


@pytest.mark.parametrize("path", host_files(), ids=lambda p: p.stem)
def test_imports_are_those_allowed(path):
    assert own_imports(path) - ALLOWED[path.stem] == set()


def test_allowances_are_used():
    """A list that permits more than there is would let a new import through."""
    used = {path.stem: own_imports(path) for path in host_files()}
    assert {name: ALLOWED[name] - used[name] for name in ALLOWED if ALLOWED[name] - used[name]} == {}


def test_no_cycles():
    TopologicalSorter({name: {n for n in ALLOWED[name] if n} for name in ALLOWED}).prepare()


def test_the_order_of_stages_is_known_to_one_file():
    assert {name for name in ALLOWED if "pipeline" in ALLOWED[name]} == {"cli", "__init__", "run"}


def test_training_knows_nothing_of_scoring():
    """The shard on disk is the only contract between the two."""
    scoring = {"engine", "scoring", "certify", "blocks", "variants", "verdict", "scorer", "pipeline", "api", "encoder",
               "loading", "lookahead", "fleet", "backend", "masker"}  # fmt: skip
    for path in (ROOT / "fastmask" / "train").glob("*.py"):
        for dots, module, names in imports_of(tree_of(path)):
            if dots == 2:
                assert not scoring & {module.partition(".")[0], *([] if module else names)}, path


@pytest.mark.parametrize("path", kernel_files(), ids=lambda p: p.stem)
def test_kernels_import_nothing_of_fastmask(path):
    for dots, module, _ in imports_of(tree_of(path)):
        assert dots <= 1 and module.partition(".")[0] != "fastmask"


def calls_of(path: Path) -> set[str]:
    return {ast.unparse(node.func) for node in ast.walk(tree_of(path)) if isinstance(node, ast.Call)}


@pytest.mark.parametrize("path", [p for p in FILES if p.name != "screen.py"], ids=lambda p: p.stem)
def test_only_one_module_prints(path):
    assert not calls_of(path) & {"print", "sys.stdout.write", "sys.stderr.write", "click.echo", "warnings.warn"}
    if path.name not in ("cli.py", "options.py"):
        assert "click" not in {module for _, module, _ in imports_of(tree_of(path))}


@pytest.mark.parametrize(
    "name",
    [
        "cli",
        "options",
        "config",
        "config_train",
        "errors",
        "__init__",
        "__main__",
        "meter",
    ],
)
def test_what_help_needs_is_light(name):
    tree = tree_of(ROOT / "fastmask" / f"{name}.py")
    assert not HEAVY & {module.partition(".")[0] for _, module, _ in imports_of(tree, top_level=True)}


def test_commands_import_inside():
    tree = tree_of(ROOT / "fastmask" / "cli.py")
    own = {module or "" for dots, module, _ in imports_of(tree, top_level=True) if dots}
    assert own == {"", "config", "config_train", "errors", "options", "screen"}


@pytest.mark.parametrize("arguments", [["--help"], ["score", "--help"], ["--version"]])
def test_help_imports_nothing_heavy(arguments):
    code = (
        "import sys\nfrom fastmask.cli import cli\n"
        f"try:\n    cli({arguments})\nexcept SystemExit as stop:\n    assert not stop.code\n"
        f"print(sorted({HEAVY!r} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]" and done.stderr == ""


def test_the_package_itself_is_light():
    code = (
        f"import sys, fastmask, fastmask.core.config, fastmask.core.errors; print(sorted({HEAVY!r} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_names_that_break_others():
    assert not (ROOT / "kernels" / "__init__.py").exists()
    assert not {path.name for path in (ROOT / "fastmask").rglob("*.py")} & {"types.py", "tokenize.py"}


@pytest.mark.parametrize(
    "path",
    sorted([*FILES, *(ROOT / "fastmask" / "train").glob("*.py"), *(ROOT / "tests").rglob("*.py")]),
    ids=lambda p: f"{p.parent.name}-{p.stem}",
)
def test_files_stay_short(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) < 350
