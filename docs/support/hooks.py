"""MkDocs hooks for the API pages."""

import shutil
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ROOT / "build" / "packages"  # of links; mkdocs.yml names it


def on_startup(**kwargs) -> None:
    """Lays the package out as it is installed: `modeling/` is `air_hf.modeling`, where a reader of sources looks."""
    shutil.rmtree(PACKAGES, ignore_errors=True)
    folders = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["package-dir"]
    for package, folder in sorted(folders.items()):
        place = PACKAGES.joinpath(*package.split("."))
        place.mkdir(parents=True)
        for entry in (ROOT / folder).iterdir():
            (place / entry.name).symlink_to(entry)


def on_page_content(html: str, page, **kwargs) -> str:
    """A docstring may name what has no place on the site, as it is not public: that stays text."""
    return html.replace("<autoref ", "<autoref optional ") if page.file.src_uri.startswith("api/") else html
