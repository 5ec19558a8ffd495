"""MkDocs hook: lays the package out as it is installed, for the API pages.

`modeling/` is installed as `air_hf.modeling` (pyproject.toml, package-dir), where a tool that reads sources looks for it.
"""

import shutil
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ROOT / "build" / "packages"  # of links; mkdocs.yml names it


def on_startup(**kwargs) -> None:
    shutil.rmtree(PACKAGES, ignore_errors=True)
    folders = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["package-dir"]
    for package, folder in sorted(folders.items()):
        place = PACKAGES.joinpath(*package.split("."))
        place.mkdir(parents=True)
        for entry in (ROOT / folder).iterdir():
            (place / entry.name).symlink_to(entry)
