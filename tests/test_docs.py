"""The documents: every command is accounted for and takes its options, the quick start runs, links lead somewhere."""

import argparse
import importlib
import re
import shlex
import subprocess
import sys
from fnmatch import fnmatchcase
from pathlib import Path
from urllib.parse import unquote

import pytest
import torch
import yaml
from huggingface_hub.cli.hf import app as hf
from support.documents import ROOT, Command, commands, documents, links, python_blocks

from air_hf import cli

PAGES = documents()
COMMANDS = [command for page in PAGES for command in commands(page)]
ENTRIES = yaml.safe_load((ROOT / "tests" / "commands.yaml").read_text(encoding="utf-8"))
# Scripts that take the options of a command.
SCRIPTS = {"examples/train.py": "train", "examples/evaluate.py": "evaluate"}


def find_entry(command: Command) -> dict | None:
    return next((entry for entry in ENTRIES if fnmatchcase(command.text, entry["command"])), None)


def test_every_command_is_accounted_for():
    forgotten = [f"{command.document}: {command.text}" for command in COMMANDS if find_entry(command) is None]
    assert not forgotten, "say in tests/commands.yaml what becomes of them"


def test_no_entry_is_left_over():
    used = [find_entry(command) for command in COMMANDS]
    assert [entry["command"] for entry in ENTRIES if entry not in used] == []


@pytest.mark.parametrize("entry", ENTRIES, ids=[entry["command"] for entry in ENTRIES])
def test_an_entry_says_what_is_true(entry):
    (kind,) = entry.keys() - {"command"}
    assert kind in ("run", "tested", "not_run")
    if kind == "tested":
        path, _, name = entry["tested"].partition("::")
        text = (ROOT / path).read_text(encoding="utf-8")
        assert f"def {name}(" in text if name else re.search(rf"^{re.escape(entry['command'])}\b", text, re.MULTILINE)
    if kind == "not_run":
        assert len(entry["not_run"].split()) > 2


def parse_options(name: str, words: list[str]) -> None:
    """Reads words with the parser of an `air-hf` command; SystemExit if it does not take them."""
    parser = argparse.ArgumentParser(prog=f"air-hf {name}")
    importlib.import_module(f"air_hf.commands.{name.replace('-', '_')}").configure(parser)
    parser.parse_args(words)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.text[:60])
def test_commands_take_their_words(command, capsys):
    words = command.words
    script = next((word for word in words if word.endswith((".py", ".sh"))), None)
    try:
        if words[0] == "air-hf":
            assert words[1] in cli.COMMANDS
            parse_options(words[1], words[2:])
        elif words[0] == "make":
            assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        elif words[:3] == ["hf", "jobs", "run"]:
            context = hf.make_context("hf", [], resilient_parsing=True)
            parameters = hf.get_command(context, "jobs").get_command(context, "run").params
            known = {option for parameter in parameters for option in parameter.opts}
            assert {word for word in words if word.startswith("--")} <= known
        elif script in SCRIPTS:
            parse_options(SCRIPTS[script], words[words.index(script) + 1 :])
    except SystemExit:
        pytest.fail(f"{command.document}: {capsys.readouterr().err}")
    for word in words:  # files of the repository
        if re.match(r"(examples|tests|benchmarks)/", word) and "*" not in word:
            assert (ROOT / word).exists(), word


def test_the_commands_that_are_said_to_run_do(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    order = {entry["command"]: place for place, entry in enumerate(ENTRIES)}
    chosen = {command.text: find_entry(command) for command in COMMANDS}  # each once
    chosen = {text: entry for text, entry in chosen.items() if entry and "run" in entry}
    assert chosen
    for text, entry in sorted(chosen.items(), key=lambda item: order[item[1]["command"]]):
        words = Command("", text).words + shlex.split(entry["run"])
        assert words[0] == "air-hf"
        with pytest.raises(SystemExit) as end:
            cli.main(words[1:])
        # A model of two steps solves nothing, which `solve` says with status 1.
        assert end.value.code in ((0, 1) if words[1] == "solve" else (0,)), capsys.readouterr().err
    assert {path.name for path in (tmp_path / "runs" / "first").iterdir()} >= {"checkpoint", "metrics.jsonl"}
    assert (tmp_path / "solved.csv").read_text().count("\n") == 17  # 16 boards and the header
    capsys.readouterr()
    for code in python_blocks(ROOT / "docs" / "index.md"):
        exec(code, {})
    # A board; a model of two steps may answer with padding.
    assert len(capsys.readouterr().out.strip().replace("[PAD]", "0")) == 36


def test_the_code_of_the_concepts_prints_what_the_page_says(capsys):
    page = ROOT / "docs" / "concepts.md"
    names = {}
    with torch.no_grad():
        for code in python_blocks(page):
            exec(code, names)
    printed = re.findall(r"q_halt ([-+][\d.]+), cells that differ: (\d+)", capsys.readouterr().out)
    text = page.read_text(encoding="utf-8")
    assert ", ".join(differ for _, differ in printed) in text
    for q_halt, _ in printed:
        assert q_halt.replace("-", "−") in text
    assert names["rollout"].state.num_segments.tolist() == [8]


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as the site and GitHub make them."""
    headings = re.findall(r"^#+ +(.+?) *$", page.read_text(encoding="utf-8"), re.MULTILINE)
    plain = (re.sub(r"[`*\[\]]|\(.*?\)", "", heading).lower() for heading in headings)
    return {re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", heading).strip()) for heading in plain}


@pytest.mark.parametrize("page", PAGES, ids=[page.relative_to(ROOT).as_posix() for page in PAGES])
def test_links_lead_somewhere(page):
    for link in links(page):
        if re.match(r"https?:|mailto:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / unquote(path)).resolve() if path else page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


def test_every_page_is_in_the_navigation():
    """mkdocs says so, too, but only where the site is built."""
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    in_navigation = set(re.findall(r"[\w/.-]+\.md", text[text.index("\nnav:") :]))
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert in_navigation == {page for page in pages if not page.endswith("/table.md")}


@pytest.mark.slow
def test_the_parity_table_is_what_its_command_prints():
    done = subprocess.run(
        [sys.executable, "tests/parity_table.py"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    shown = re.findall(r"^\| `.*$", (ROOT / "docs" / "parity.md").read_text(encoding="utf-8"), re.MULTILINE)
    printed = re.findall(r"^\| `.*$", done.stdout, re.MULTILINE)
    # The errors themselves are rounding and change with the machine; variants, fields and tolerances do not.
    assert [_without_errors(row) for row in shown] == [_without_errors(row) for row in printed]


def _without_errors(row: str) -> str:
    return re.sub(r"\de-\d\d(?! ?\))", "", row)
