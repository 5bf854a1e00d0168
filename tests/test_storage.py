import os
import pickle
from pathlib import Path

import pytest

from raygan.storage import Folder, StorageError, split_file


def test_writes_reads_and_lists(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "study")
    assert not folder.exists()
    assert folder.files() == []
    folder.write("b.txt", "text")
    folder.write("a/c.bin", b"\x00\x01")
    folder.write("b.txt", "new text")
    assert folder.files() == ["a/c.bin", "b.txt"]
    assert folder.read("b.txt") == b"new text"
    assert folder.child("a").read("c.bin") == b"\x00\x01"
    assert folder.exists("a/c.bin")
    assert not folder.exists("a/d")
    with pytest.raises(FileNotFoundError):
        folder.read("absent")


def test_a_failed_write_leaves_the_old_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Folder(tmp_path)
    folder.write("file", "old")

    def full_disk(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="no space left"):
        folder.write("file", "new")
    assert folder.read("file") == b"old"
    assert folder.files() == ["file"]


def test_folders_are_listed_once_and_odd_names_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "one.png").write_text("1")
    (tmp_path / "a" / "b" / "parent").symlink_to("..")
    (tmp_path / "again.png").symlink_to("a/one.png")
    (tmp_path / "nowhere.png").symlink_to("absent")
    os.mkfifo(tmp_path / "pipe")
    (Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.png"))).write_text("2")
    names = Folder(tmp_path).files()
    # Several noisy shots may be linked to one clean photo.
    assert names == ["a/one.png", "again.png", "nowhere.png"]
    assert "left out 1 files whose names are not UTF-8" in caplog.text


def test_only_addresses_of_buckets_have_options(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "what?now")
    assert folder.child("v1").path == f"{tmp_path}/what?now/v1"
    bucket = Folder("s3://bucket/studies?region=eu-west-1")
    assert bucket.address("v1/study.json") == "s3://bucket/studies/v1/study.json?region=eu-west-1"
    (parent, name), (here, file) = split_file("s3://bucket/a/b.png?region=eu-west-1"), split_file("what?.png")
    assert (str(parent), name) == ("s3://bucket/a?region=eu-west-1", "b.png")
    assert (here.path, file) == (str(Path.cwd()), "what?.png")


@pytest.mark.parametrize("location", ["~nobody-of-that-name/x", "https://example.org/x", "C://x", "\0"])
def test_what_is_no_place_is_refused(location: str) -> None:
    with pytest.raises(StorageError, match=r"is no (path|s3://)"):
        Folder(location)


def test_relative_locations_are_made_absolute_and_travel_to_other_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = Folder("here")
    assert str(folder) == str(tmp_path / "here")
    monkeypatch.chdir("/")
    copy = pickle.loads(pickle.dumps(folder))
    copy.write("file", "content")
    assert (tmp_path / "here" / "file").read_text() == "content"


def test_bucket_locations_are_understood() -> None:
    folder = Folder("s3://bucket/prefix?region=us-east-1&endpoint_override=localhost:1")
    assert not folder.is_local
    assert folder.path == "bucket/prefix"
    assert folder.child("a").child("b").path == "bucket/prefix/a/b"
    assert folder.child("a").location.endswith("/a?region=us-east-1&endpoint_override=localhost:1")


def test_a_folder_that_cannot_be_written_to_is_refused(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "new")
    folder.require_writable()
    assert folder.exists()
    assert folder.files() == []
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"nothing can be written in .*file/new: "):
        Folder(tmp_path / "file" / "new").require_writable()


@pytest.mark.parametrize("location", ["s3://KEY:secret@bucket/x", "s3://bucket/x?access_key=KEY&secret_key=secret"])
def test_keys_in_an_address_are_refused_and_not_shown(location: str) -> None:
    with pytest.raises(StorageError, match="has keys in it") as refused:
        Folder(location)
    assert "secret@" not in str(refused.value)
    assert "=secret" not in str(refused.value)
