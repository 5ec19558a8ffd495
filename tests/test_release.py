"""What a release says of itself, and what its wheel holds."""

import re
import tomllib
from pathlib import Path
from zipfile import ZipFile

import yaml
from support.wheel_contents import expected_files, find_differences

import air_hf
from air_hf.dataset_builders.sudoku import SudokuExtreme
from air_hf.hub import model_card

ROOT = Path(__file__).parent.parent


def make_wheel(path: Path, names: set[str]) -> Path:
    with ZipFile(path, "w") as wheel:
        for name in names | {"air_hf-0.dist-info/licenses/LICENSE"}:
            wheel.writestr(name, "")
    return path


def test_a_wheel_is_held_against_the_source_tree(tmp_path):
    files = expected_files()
    assert {"air_hf/__init__.py", "air_hf/modeling/modeling_air.py", "air_hf/dataset_builders/builders.py"} <= files
    assert find_differences(make_wheel(tmp_path / "whole.whl", files)) == []
    changed = make_wheel(tmp_path / "changed.whl", files - {"air_hf/cli.py"} | {"tests/conftest.py"})
    assert find_differences(changed) == ["missing: air_hf/cli.py", "not in the source tree: tests/conftest.py"]


def test_one_version_everywhere():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert project["version"] == air_hf.__version__ == citation["version"]
    assert project["license"] == citation["license"]


def test_the_citation_names_the_papers_and_has_the_required_fields():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    for reference in citation["references"]:  # required by the schema of version 1.2.0
        assert {"type", "title", "authors"} <= reference.keys()
    urls = {reference["url"] for reference in citation["references"]}
    assert urls == {f"https://arxiv.org/abs/{number}" for number in ("2605.17811", "2510.04871", "2506.21734")}


def test_citations_agree():
    """The BibTeX of the cards with CITATION.cff, entry by entry: title, authors, year, number of the archive."""
    references = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))["references"]
    expected = {
        reference["url"]: (
            reference["title"],
            [f"{author['family-names']}, {author['given-names']}" for author in reference["authors"]],
            str(reference["year"]),
        )
        for reference in references
    }
    cards = [(ROOT / "checkpoints" / "sudoku-4x4" / "README.md").read_text(encoding="utf-8"), SudokuExtreme.CITATION]
    cards.append(model_card._TEXT.replace("{{", "{").replace("}}", "}"))
    found = [
        dict(re.findall(r"(\w+)\s*=\s*\{(.*?)\}(?=[,\n]|$)", entry, re.DOTALL))
        for card in cards
        for entry in re.findall(r"^@\w+\{\w+,(.*?)\n\}", card, re.DOTALL | re.MULTILINE)
    ]
    assert len(found) == 3 + 1 + 3
    for fields in found:
        number = fields.get("eprint") or re.search(r"\d{4}\.\d{5}", fields["journal"])[0]
        authors = re.split(r"\s+and\s+", fields["author"])
        assert (fields["title"], authors, fields["year"]) == expected[f"https://arxiv.org/abs/{number}"]


def test_issue_forms_have_what_github_asks_for():
    for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"):
        form = yaml.safe_load(path.read_text(encoding="utf-8"))
        if path.name == "config.yml":
            continue
        assert {"name", "description", "body"} <= form.keys()
        identifiers = [item["id"] for item in form["body"]]
        assert len(set(identifiers)) == len(identifiers)
