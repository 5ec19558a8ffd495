"""What is installed: every import is declared, every package and data file is in the wheel, and the wheel is enough."""

import ast
import os
import subprocess
import sys
import tomllib
import venv
from importlib.metadata import packages_distributions
from pathlib import Path
from zipfile import ZipFile

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from support.training import TINY_RUN, make_csv

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SOURCES = [path for folder in ("air_hf", "modeling", "dataset_builders") for path in (ROOT / folder).rglob("*.py")]


def declared(*extras: str) -> set[str]:
    optional = PROJECT["project"]["optional-dependencies"]
    lists = [PROJECT["project"]["dependencies"], *(optional[extra] for extra in extras)]
    return {canonicalize_name(Requirement(text).name) for texts in lists for text in texts}


def imported(path: Path) -> set[tuple[str, bool]]:
    """The modules that a file imports, and whether it does so when it is imported itself."""
    tree = ast.parse(path.read_text())
    scopes = [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.Try))]
    inside = {id(node) for scope in scopes for node in ast.walk(scope)}
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {(alias.name, id(node) not in inside) for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add((node.module, id(node) not in inside))
    return found


IMPORTS = {path: imported(path) for path in SOURCES}


def test_every_import_is_declared():
    """What importing the package imports is a dependency; what is imported where it is needed may be an extra.

    A module that nobody imports at once may import an extra at once: its callers say so if that is missing.
    """
    distributions = packages_distributions()
    extras = PROJECT["project"]["optional-dependencies"].keys()
    at_once = {name for imports in IMPORTS.values() for name, is_at_once in imports if is_at_once}
    for path, imports in IMPORTS.items():
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        name = name if name.startswith("air_hf.") else f"air_hf.{name}"
        is_lazy = name not in at_once and not name.startswith(("air_hf.commands.", "air_hf.modeling."))
        for name, is_at_once in imports:
            top = name.split(".")[0]
            if top in (*sys.stdlib_module_names, "air_hf"):
                continue
            known = declared(*extras) if is_lazy or not is_at_once else declared()
            owners = {canonicalize_name(owner) for owner in distributions.get(top, [top])}
            assert owners & known, f"{path} imports {name}, which pyproject.toml does not declare"


def test_every_package_is_listed():
    listed = set(PROJECT["tool"]["setuptools"]["packages"])
    places = PROJECT["tool"]["setuptools"]["package-dir"].keys() - {"air_hf"}
    found = {path.parent.relative_to(ROOT).as_posix().replace("/", ".") for path in ROOT.glob("air_hf/**/__init__.py")}
    assert listed == found | places


def test_no_function_is_longer_than_a_screen():
    """60 lines, signature and docstring included."""
    for path in (
        path
        for folder in ("air_hf", "modeling", "dataset_builders", "examples")
        for path in ROOT.glob(f"{folder}/**/*.py")
    ):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < 60, f"{path.name}: {node.name}"


def test_the_script_is_short():
    assert len((ROOT / "examples" / "train.py").read_text().splitlines()) <= 80


@pytest.mark.slow
def test_a_wheel_is_enough(tmp_path):
    """Installed into an empty environment and run in an empty folder, it trains, resumes, evaluates and sweeps."""
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", tmp_path, ROOT]
    subprocess.run(list(map(str, build)), check=True)
    wheel = next(tmp_path.glob("*.whl"))
    assert {"air_hf/recipes.yaml", "air_hf/runs/paper.yaml", "air_hf/__main__.py"} <= set(ZipFile(wheel).namelist())
    venv.create(tmp_path / "venv")
    site = next((tmp_path / "venv" / "lib").glob("python*/site-packages"))
    ZipFile(wheel).extractall(site)
    # The dependencies are there already; this checkout's package, which is found by a hook, is not.
    others = [path for path in sys.path if path.endswith("-packages")]
    (site / "others.pth").write_text("\n".join(others))
    folder = tmp_path / "empty"
    folder.mkdir()
    make_csv(folder / "data")
    words = [word for word in TINY_RUN if word not in ("--config", "examples/configs/sudoku-6x6.yaml")]
    words += ["--halting", "halt_only", "--train_data", "data", "--eval_every", "0"]

    def air_hf(*words, program="air_hf") -> str:
        command = [tmp_path / "venv" / "bin" / "python", "-m", program, *words]
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        done = subprocess.run(list(map(str, command)), cwd=folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    where = "import air_hf; print(air_hf.__file__)"
    python = [tmp_path / "venv" / "bin" / "python", "-c", where]
    assert str(site) in subprocess.run(python, cwd=folder, capture_output=True, text=True).stdout
    air_hf("train", *words, "--output_dir", "run", "--max_steps", "2")
    assert "checkpoint: run/checkpoint" in air_hf(
        "train", *words, "--output_dir", "run", "--max_steps", "4", "--resume_from", "latest"
    )
    assert "20 of sudoku-4x4, test.csv" in air_hf("evaluate", "--checkpoint", "run/checkpoint", "--data", "data")
    (folder / "recipe.yaml").write_text("train_data: data\n")
    extra = " ".join([*words, "--max_steps", "2"])
    table = air_hf("sweep", "--variants", "Lx_H", "--seeds", "0", "--config", "recipe.yaml", "--output", "sweep",
                   "--extra", extra)  # fmt: skip
    assert "| Lx_H |" in table
