"""What is published: a wheel with everything in it, which scores two lines where nothing else of the project is."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from fastmask import __version__

ROOT = Path(__file__).parents[1]
SOURCES = {"fastmask": ROOT / "fastmask", "fastmask_kernels": ROOT / "kernels" / "fastmask_kernels"}
NOT_BUILT = shutil.ignore_patterns("__pycache__")


def run(*command, **options) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=300, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy: a build leaves its own files where it runs."""
    root = tmp_path_factory.mktemp("wheel")
    for name in ("fastmask", "kernels"):
        shutil.copytree(ROOT / name, root / "source" / name, ignore=NOT_BUILT)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, root / "source")
    # the build's own requirements are among the tests': nothing is downloaded
    pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "wheel")
    run(*pip, "--no-deps", "--no-build-isolation", "--wheel-dir", root, root / "source")
    (found,) = root.glob("*.whl")
    return found


def test_every_file_is_in_it(wheel):
    assert wheel.name == f"fastmask-{__version__}-py3-none-any.whl"
    names = set(zipfile.ZipFile(wheel).namelist())
    for package, folder in SOURCES.items():
        files = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
        expected = {f"{package}/{path.as_posix()}" for path in files if "__pycache__" not in path.parts}
        assert len(expected) > 15 and expected <= names


def test_it_scores_in_an_environment_of_its_own(wheel, tmp_path):
    venv.create(tmp_path / "venv", symlinks=True)
    python = tmp_path / "venv" / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "--quiet", "--disable-pip-version-check", "install",
        "--no-deps", "--no-index", wheel)  # fmt: skip
    # the other packages are those of the tests; a checkout that is installed there comes last
    (site,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    (site / "tests.pth").write_text(sysconfig.get_path("purelib") + "\n")
    (tmp_path / "corpus.txt").write_text("I love this place.\nAwful coffee, terrible parking.\n")
    alone = {"cwd": tmp_path, "env": {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}}
    run(tmp_path / "venv" / "bin" / "fastmask", "score", "corpus.txt", "--method", "random", "-q", **alone)
    assert (tmp_path / "corpus.masks" / "_manifest.json").is_file()
    place = run(python, "-c", "import fastmask, fastmask_kernels as k; print(fastmask.__file__, k.__file__)", **alone)
    assert all(Path(file).is_relative_to(site) for file in place.split())
