"""One way to write files: whole or not at all, and known by their SHA-256."""

import errno
import hashlib
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

_KINDS = {
    stat.S_IFREG: "a file", stat.S_IFDIR: "a folder", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device",
    stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket",
}  # fmt: skip


def kind_of(path: str | Path) -> str | None:
    """What there is at a path, or at the end of a link there: "a file", "a folder", "a device", ...; None if nothing.

    Raises:
        OSError: it cannot be told.
    """
    try:
        return _KINDS[stat.S_IFMT(os.stat(path).st_mode)]
    except (FileNotFoundError, NotADirectoryError):
        return None


def check_place(path: str | Path, expected: str = "a file") -> None:
    """Checks that a file (or "a folder") may be written there: there is one, a link to one, or nothing.

    What else is there is a device or a pipe, say: written to, it has no end, and replaced, it is lost. Folders that are
    missing above it can be made.

    Raises:
        ValueError: there is something else, or what should be a folder above it is none; the message names both.
        PermissionError: nothing may be written there.
    """
    if (found := kind_of(path)) not in (expected, None):
        raise ValueError(f"{path} is {found}; expected {expected} to write, or nothing there yet")
    above = next(parent for parent in Path(path).absolute().parents if parent.exists())
    if not above.is_dir():
        raise ValueError(f"{path} cannot be written: {above} is {kind_of(above)}, not a folder")
    if not os.access(above, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(above))


@contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """Gives a place beside `path` to write to; when the block ends well the file is flushed and takes its name.

    Folders above it are made. If the block fails, what it wrote is removed and an old file stays as it was. A link is
    replaced; the file that it leads to, in a cache of the Hub, say, stays as it was.

    Raises:
        ValueError: there is something that is no file, see [`check_place`].
        OSError: the file cannot be written; its `filename` is `path`.
    """
    path = Path(path)
    check_place(path)
    unfinished = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield unfinished
        sync(unfinished)
        os.replace(unfinished, path)
        sync(path.parent)
    except OSError as error:
        if error.filename in (None, str(unfinished)):  # a full disk names no file; say which one was being written
            raise OSError(error.errno, error.strerror or str(error), str(path)) from error
        raise
    finally:
        unfinished.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Writes a whole file in UTF-8, see [`atomic_file`]."""
    with atomic_file(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def append_text(path: str | Path, text: str) -> None:
    """Adds to a file in UTF-8, the whole text or nothing of it.

    Raises:
        ValueError: there is something that is no file, see [`check_place`].
        OSError: it cannot be written; its `filename` is `path`.
    """
    check_place(path)
    with open(path, "ab", buffering=0) as file:
        before = file.tell()
        data = text.encode()
        try:
            if (written := file.write(data)) < len(data):  # the disk is full; the next write says so
                file.write(data[written:])
        except OSError as error:
            file.truncate(before)
            raise OSError(error.errno, error.strerror, str(path)) from error


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Gives an empty folder beside `path` to fill; when the block ends well it is flushed and replaces `path`.

    If the block fails, what it wrote is removed and an old folder stays as it was. A link to a folder stays, and the
    folder that it leads to is replaced.

    Raises:
        ValueError: there is something that is no folder, see [`check_place`], or another process writes it.
    """
    path = Path(path)
    check_place(path, "a folder")
    if path.is_symlink():
        path = path.resolve()
    unfinished, replaced = path.with_name(f".{path.name}.part"), _aside(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with sole_writer(path):
        recover_folder(path)
        for leftover in (unfinished, replaced):
            shutil.rmtree(leftover, ignore_errors=True)
        unfinished.mkdir()
        try:
            yield unfinished
            for entry in unfinished.rglob("*"):
                sync(entry)
            sync(unfinished)
            if path.exists():
                os.replace(path, replaced)
            os.replace(unfinished, path)
            sync(path.parent)
        finally:
            recover_folder(path)
            shutil.rmtree(unfinished, ignore_errors=True)
            shutil.rmtree(replaced, ignore_errors=True)


def recover_folder(path: Path) -> None:
    """Puts back an old folder that an [`atomic_folder`] had moved aside when it was killed."""
    if not path.exists() and _aside(path).exists():
        with suppress(FileNotFoundError):  # another process was quicker
            os.replace(_aside(path), path)


@contextmanager
def sole_writer(path: str | Path, wait: bool = False) -> Iterator[None]:
    """Keeps other processes that ask for it from writing `path` until the block ends, by a lock file beside it.

    Raises:
        ValueError: another process has it, and `wait` is False.
        OSError: there is no folder for it, or it cannot be written.
    """
    path = Path(path)
    lock = FileLock(path.with_name(f".{path.name}.lock"))
    try:
        lock.acquire(blocking=wait)
    except Timeout as error:
        raise ValueError(f"another process writes {path}; wait for it or stop it, or choose another place") from error
    try:
        yield
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)  # before others can have it
        lock.release()


def _aside(path: Path) -> Path:
    return path.with_name(f".{path.name}.old")


def sync(path: Path) -> None:
    """Flushes a file's content, or a folder's names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(path: str | Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
