"""The house: which room may import which, who may print, how long a file may be."""

import ast
import re
import subprocess
import sys
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import fastmask

ROOT = Path(__file__).parents[1]
FILES = sorted([*(ROOT / "fastmask").rglob("*.py"), *(ROOT / "kernels").rglob("*.py")])
HEAVY = {"torch", "transformers", "tokenizers", "safetensors", "numpy", "numba", "pyarrow", "spacy", "rich", "triton"}
HEAVY |= {"huggingface_hub", "ray", "llvmlite", "scipy", "matplotlib", "h5py"}

ROOMS = {
    "core": set(),
    "text": {"core"},
    "models": {"core"},
    "shards": {"core"},
    "report": {"core"},
    "data": {"core", "text", "models", "shards"},
    "scoring": {"core", "text", "models", "shards", "report"},
    "train": {"core", "text", "models", "shards", "report", "data"},
    "pipeline": {"core", "text", "models", "shards", "report", "data", "scoring"},
    "experiment": {"core", "text", "models", "shards", "report", "data", "scoring", "train", "pipeline"},
    "commands": {"core", "text", "models", "shards", "report", "data", "scoring", "train", "pipeline", "experiment"},
}
"""Room -> the rooms it may import; the door ``pipeline`` is one. The other doors may import all of them."""
DOORS = {"cli", "__init__", "__main__"}


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


def name_of(path: Path) -> str:
    """``core.errors`` of fastmask/core/errors.py."""
    return ".".join(path.relative_to(ROOT / "fastmask").with_suffix("").parts)


MODULES = {name_of(path): path for path in FILES if path.is_relative_to(ROOT / "fastmask")}


def own_imports(name: str) -> set[str]:
    """Modules of fastmask that a module of it imports anywhere; the package itself, for its version, is no module."""
    found, package = set(), name.split(".")[:-1]
    for dots, module, names in imports_of(tree_of(MODULES[name])):
        if dots:
            base = package[: len(package) - dots + 1]
        elif module.partition(".")[0] == "fastmask":
            base, module = [], module.partition(".")[2]
        else:
            continue
        target = ".".join([*base, *filter(None, [module])])
        found |= {target} if target in MODULES else {f"{target}.{one}".lstrip(".") for one in names}
    if name == "__init__":  # the homes of its lazy names
        found |= set(fastmask._HOMES.values())
    return found & MODULES.keys()


IMPORTS = {name: own_imports(name) for name in MODULES}


def room_of(name: str) -> str:
    return name.partition(".")[0]


def kernel_files() -> list[Path]:
    return [path for path in FILES if "kernels" in path.parts[len(ROOT.parts)]]


def test_what_stands_at_the_top():
    assert len(MODULES) > 60 and len(kernel_files()) > 3
    assert {room_of(name) for name in MODULES} == {*ROOMS, *DOORS, "assets"}
    top = {path.name for path in (ROOT / "fastmask").iterdir()} - {"__pycache__"}
    files = {f"{door}.py" for door in {*DOORS, "pipeline"}}
    assert top - {"py.typed"} == {*ROOMS, *files, "assets"} - {"pipeline"}


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_import_only_what_lies_below(room):
    above = {(name, other) for name in MODULES if room_of(name) == room for other in IMPORTS[name]
             if room_of(other) not in {*ROOMS[room], room}}  # fmt: skip
    assert above == set()


def test_architecture_has_the_same_table():
    rows = re.findall(r"^\| `(\w+)` \|.*\|([\w, ]*)\|$", (ROOT / "ARCHITECTURE.md").read_text("utf-8"), re.MULTILINE)
    assert {room: set(re.findall(r"\w+", allowed)) for room, allowed in rows} == ROOMS


def test_there_is_a_lowest_module():
    """No module imports itself through others, and rooms stand on at most eight floors."""
    TopologicalSorter(IMPORTS).prepare()
    floors = {}
    for room in TopologicalSorter(ROOMS).static_order():
        floors[room] = 1 + max((floors[other] for other in ROOMS[room]), default=0)
    assert max(floors.values()) + len(["cli", "__main__"]) <= 8


def test_the_order_of_stages_is_known_to_one_file():
    assert {name for name in MODULES if "pipeline" in IMPORTS[name]} == {
        "commands.masks", "commands.shards", "__init__", "experiment.doing"}  # fmt: skip


@pytest.mark.parametrize("path", kernel_files(), ids=lambda p: p.stem)
def test_kernels_import_nothing_of_fastmask(path):
    for dots, module, _ in imports_of(tree_of(path)):
        assert dots <= 1 and module.partition(".")[0] != "fastmask"


def calls_of(path: Path) -> set[str]:
    return {ast.unparse(node.func) for node in ast.walk(tree_of(path)) if isinstance(node, ast.Call)}


@pytest.mark.parametrize("path", [p for p in FILES if p.name != "screen.py"], ids=lambda p: p.stem)
def test_only_one_module_prints(path):
    assert not calls_of(path) & {"print", "sys.stdout.write", "sys.stderr.write", "click.echo", "warnings.warn"}
    if path.parent.name != "commands" and path.name != "options.py":
        assert "click" not in {module for _, module, _ in imports_of(tree_of(path))}


COMMANDS = ["commands.group", "commands.masks", "commands.shards", "commands.training"]
LIGHT = "cli core.options core.config core.config_train core.errors __init__ __main__ report.progress"


@pytest.mark.parametrize("name", [*LIGHT.split(), *COMMANDS])
def test_what_help_needs_is_light(name):
    tree = tree_of(MODULES[name])
    assert not HEAVY & {module.partition(".")[0] for _, module, _ in imports_of(tree, top_level=True)}


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_import_inside(name):
    own = {module for dots, module, _ in imports_of(tree_of(MODULES[name]), top_level=True) if dots == 2}
    assert {room_of(module) for module in own} <= {"", "core", "report"}


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
    names = "sys, fastmask, fastmask.core.config, fastmask.core.errors"
    code = f"import {names}; print(sorted({HEAVY!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_ray_is_known_to_two_modules():
    users = {name for name, path in MODULES.items() for _, module, _ in imports_of(tree_of(path))
             if module.partition(".")[0] == "ray"}  # fmt: skip
    assert users == {"scoring.ray_executor", "scoring.ray_workers"}


def test_names_that_break_others():
    assert not (ROOT / "kernels" / "__init__.py").exists()
    assert not {path.name for path in (ROOT / "fastmask").rglob("*.py")} & {"types.py", "tokenize.py"}


def test_files_of_tests_have_names_of_their_own():
    """pytest imports them by name alone."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    "path",
    sorted([*FILES, *(ROOT / "tests").rglob("*.py")]),
    ids=lambda p: f"{p.parent.name}-{p.stem}",
)
def test_files_stay_short(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) < 350
