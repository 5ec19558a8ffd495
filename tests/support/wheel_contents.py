"""Holds a built wheel against the source tree: every tracked file of a package is in it, and nothing else is.

python tests/support/wheel_contents.py dist
"""

import subprocess
import sys
import tomllib
from pathlib import Path
from zipfile import ZipFile

ROOT = Path(__file__).parents[2]


def expected_files() -> set[str]:
    """Paths in the wheel of what git tracks in the folders that pyproject.toml installs."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    files = set()
    for package, folder in settings["package-dir"].items():
        tracked = subprocess.run(["git", "ls-files", folder], cwd=ROOT, check=True, capture_output=True, text=True)
        place = package.replace(".", "/")
        files |= {place + name.removeprefix(folder) for name in tracked.stdout.split()}
    return files


def find_differences(wheel: Path) -> list[str]:
    """What the wheel lacks or has too much; empty if it is as it should be."""
    names = {name for name in ZipFile(wheel).namelist() if not name.endswith("/")}
    metadata = {name for name in names if name.split("/")[0].endswith(".dist-info")}
    expected, found = expected_files(), names - metadata
    problems = [f"missing: {name}" for name in sorted(expected - found)]
    problems += [f"not in the source tree: {name}" for name in sorted(found - expected)]
    if not any(name.endswith("/LICENSE") for name in metadata):
        problems.append("missing: LICENSE")
    return problems


def main() -> None:
    wheels = sorted(Path(sys.argv[1]).glob("*.whl"))
    if len(wheels) != 1:
        raise SystemExit(f"{sys.argv[1]} holds {len(wheels)} wheels; expected one")
    problems = find_differences(wheels[0])
    for problem in problems:
        print(f"{wheels[0].name}: {problem}")
    if problems:
        raise SystemExit(1)
    print(f"{wheels[0].name}: {len(expected_files())} files, as in the source tree")


if __name__ == "__main__":
    main()
