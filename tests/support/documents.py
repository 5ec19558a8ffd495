"""What the documents hold: their console commands and their links."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
_FENCE = re.compile(r"^( *)(```+|~~~+) *(\S*)[^\n]*\n(.*?)^\1\2 *$", re.MULTILINE | re.DOTALL)
_SHELLS = ("console", "bash", "sh", "shell")
_LINK = re.compile(r"!?\[[^\]]*\]\(\s*<?([^)\s>]+)>?[^)]*\)")


class Command(NamedTuple):
    """A command as it is typed, on one line, and the document that shows it."""

    document: str
    text: str

    @property
    def words(self) -> list[str]:
        """Its words, without the settings of variables in front, up to what the shell does with its output."""
        lexer = shlex.shlex(self.text, posix=True, punctuation_chars="|&;<>")
        lexer.whitespace_split = True
        words = []
        for word in lexer:
            if set(word) <= set("|&;<>"):
                break
            if word != "…" and (words or not re.match(r"[A-Z_]+=", word)):
                words.append(word)
        return words


def documents() -> list[Path]:
    """Every page that a reader is sent to."""
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return [page for page in pages if page != ROOT / "docs" / "log.md"]  # the log says what was run then


def commands(page: Path) -> Iterator[Command]:
    """Commands of the shell blocks of a page: in a console block the lines after `$`, elsewhere every line."""
    name = page.relative_to(ROOT).as_posix()
    for _, _, language, text in _FENCE.findall(page.read_text(encoding="utf-8")):
        if language not in _SHELLS:
            continue
        lines = [line.strip() for line in text.replace("\\\n", " ").splitlines()]
        if any(line.startswith("$ ") for line in lines):
            lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
        for line in lines:
            line = " ".join(re.sub(r"(^|\s)#.*$", "", line).split())
            if line:
                yield Command(name, line)


def python_blocks(page: Path) -> list[str]:
    """The Python code of a page, block by block."""
    return [text for _, _, language, text in _FENCE.findall(page.read_text(encoding="utf-8")) if language == "python"]


def links(page: Path) -> Iterator[str]:
    """Targets of the links and pictures of a page, outside code."""
    text = re.sub(r"`[^`\n]+`", "", _FENCE.sub("", page.read_text(encoding="utf-8")))
    yield from _LINK.findall(text)
