"""Files and folders appear whole or not at all, whatever fails on the way."""

import errno
import hashlib
import os
import signal
import socket
import subprocess
import sys

import pytest

from air_hf.files import (
    append_text,
    atomic_file,
    atomic_folder,
    check_place,
    recover_folder,
    sha256,
    sole_writer,
    write_text,
)


def write_half(path):
    with atomic_file(path) as unfinished:
        unfinished.write_text("new")
        raise ValueError("halfway")


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "a" / "b.txt"
    write_text(path, "old")
    with pytest.raises(ValueError, match="halfway"):
        write_half(path)
    assert path.read_text() == "old"
    assert [entry.name for entry in path.parent.iterdir()] == ["b.txt"]
    assert sha256(path) == hashlib.sha256(b"old").hexdigest()


def test_a_full_disk_names_the_file(tmp_path):
    with pytest.raises(OSError, match=r"b\.txt") as raised, atomic_file(tmp_path / "b.txt"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert raised.value.errno == errno.ENOSPC
    assert not list(tmp_path.iterdir())


def test_what_is_no_file_or_no_folder_stays(tmp_path):
    pipe, (socket_path, listening) = tmp_path / "pipe", (tmp_path / "socket", socket.socket(socket.AF_UNIX))
    os.mkfifo(pipe)
    listening.bind(str(socket_path))
    (tmp_path / "link").symlink_to(pipe)
    for path, kind in ((pipe, "a pipe"), (socket_path, "a socket"), (tmp_path / "link", "a pipe")):
        for write in (write_text, append_text):
            with pytest.raises(ValueError, match=f"{path} is {kind}; expected a file to write"):
                write(path, "new")
    (tmp_path / "file").write_text("old")
    with pytest.raises(ValueError, match="file is a file; expected a folder"), atomic_folder(tmp_path / "file"):
        raise AssertionError("never")
    listening.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "link", "pipe", "socket"]


def test_a_place_is_checked_to_the_folder_that_exists(tmp_path, monkeypatch):
    check_place(tmp_path / "new" / "newer" / "file")
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=rf"x\.json cannot be written: {tmp_path}/file is a file, not a folder"):
        check_place(tmp_path / "file" / "a" / "x.json")
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)  # root, who tests, may write anywhere
    with pytest.raises(PermissionError, match=rf"Permission denied: '{tmp_path}'"):
        check_place(tmp_path / "new" / "x.json")


def test_one_writer_at_a_time(tmp_path):
    path = tmp_path / "file"
    with (
        sole_writer(path),
        pytest.raises(ValueError, match=f"another process writes {path}; wait for it or stop it"),
        sole_writer(path),
    ):
        raise AssertionError("never")
    with sole_writer(path):
        path.touch()
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_is_replaced_and_its_file_stays(tmp_path):
    (tmp_path / "blob").write_text("old")
    (tmp_path / "link").symlink_to("blob")
    write_text(tmp_path / "link", "new")
    assert not (tmp_path / "link").is_symlink()
    assert [(tmp_path / name).read_text() for name in ("link", "blob")] == ["new", "old"]


def fill(folder, text):
    (folder / "inside").mkdir()
    (folder / "inside" / "file").write_text(text)


def fill_half(path):
    with atomic_folder(path) as unfinished:
        fill(unfinished, "new")
        raise KeyboardInterrupt


def test_a_failed_fill_leaves_the_old_folder(tmp_path):
    path = tmp_path / "folder"
    with atomic_folder(path) as unfinished:
        fill(unfinished, "old")
    with pytest.raises(KeyboardInterrupt):
        fill_half(path)
    assert (path / "inside" / "file").read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["folder"]


def test_an_old_folder_comes_back_if_the_new_one_cannot_take_its_place(tmp_path, monkeypatch):
    path = tmp_path / "folder"
    with atomic_folder(path) as unfinished:
        fill(unfinished, "old")
    replace = os.replace

    def fail_at_the_new_one(source, target):
        if os.fspath(source).endswith(".part"):
            raise OSError(errno.EIO, "Input/output error")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail_at_the_new_one)
    with pytest.raises(OSError, match="Input/output"), atomic_folder(path) as unfinished:
        fill(unfinished, "new")
    assert (path / "inside" / "file").read_text() == "old"


def test_one_process_fills_a_folder(tmp_path):
    path = tmp_path / "folder"
    with atomic_folder(path) as unfinished:
        fill(unfinished, "first")
        with pytest.raises(ValueError, match=f"another process writes {path}"), atomic_folder(path):
            raise AssertionError("never")
    assert (path / "inside" / "file").read_text() == "first"
    assert [entry.name for entry in tmp_path.iterdir()] == ["folder"]


def test_a_link_to_a_folder_stays_and_the_folder_is_replaced(tmp_path):
    path, link = tmp_path / "folder", tmp_path / "link"
    path.mkdir()
    link.symlink_to(path, target_is_directory=True)
    for text in ("one", "two"):
        with atomic_folder(link) as unfinished:
            fill(unfinished, text)
        assert link.is_symlink()
        assert (path / "inside" / "file").read_text() == text
    assert {entry.name for entry in tmp_path.iterdir()} == {"folder", "link"}


def test_a_kill_between_the_two_renames_costs_nothing(tmp_path):
    path = tmp_path / "folder"
    with atomic_folder(path) as unfinished:
        fill(unfinished, "old")
    code = f"""
import os, signal
from air_hf import files
replace = os.replace
def killed(source, target):
    if os.fspath(source).endswith(".part"):
        os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)
os.replace = killed
with files.atomic_folder({str(path)!r}) as unfinished:
    (unfinished / "file").write_text("new")
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == -signal.SIGKILL
    assert not path.exists()
    recover_folder(path)
    assert (path / "inside" / "file").read_text() == "old"
    with atomic_folder(path) as unfinished:
        fill(unfinished, "new")
    assert [entry.name for entry in tmp_path.iterdir()] == ["folder"]  # the lock of the killed process is gone, too
