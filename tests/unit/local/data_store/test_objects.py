"""Files as objects: order, safety, durability of what is written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.outbound.local.data_store import FileInputObjects, FileOutputObjects
from adapters.outbound.local.data_store.objects import UnsafeKey, check_key, copy_object

UNSAFE = ["..", "../x", "a/../../x", "/etc/passwd", "a//b", "./a", "a/.", "a\0b", "a\\..\\b"]


def put(root: Path, *keys: str) -> None:
    for key in keys:
        path = root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(key.encode())


def test_keys_are_listed_in_the_byte_order_of_whole_keys(tmp_path: Path) -> None:
    keys = ["a/b/1", "a.b", "a/b.1", "a/b-1", "ä/1", "a/c", "a0", "a-/x"]
    put(tmp_path, *keys)
    listed = [key for key, _ in FileInputObjects(tmp_path).list("")]
    assert listed == sorted(keys, key=str.encode)
    assert [key for key, _ in FileInputObjects(tmp_path).list("a/b")] == ["a/b-1", "a/b.1", "a/b/1"]
    assert list(FileInputObjects(tmp_path).list("a/b/")) == [("a/b/1", 5)]
    assert list(FileInputObjects(tmp_path).list("none/")) == []


def test_what_is_not_taken_is_not_listed(tmp_path: Path) -> None:
    put(tmp_path, "b/1.dcm", "b/1.tmp")
    objects = FileInputObjects(tmp_path, takes=lambda key: key.endswith(".dcm"))
    assert [key for key, _ in objects.list("b/")] == ["b/1.dcm"]


@pytest.mark.parametrize("key", UNSAFE)
def test_no_key_leaves_its_folder(tmp_path: Path, key: str) -> None:
    (tmp_path / "x").write_bytes(b"outside")
    root = tmp_path / "root"
    root.mkdir()
    with pytest.raises(UnsafeKey):
        FileInputObjects(root).open(key)
    with pytest.raises(UnsafeKey):
        list(FileInputObjects(root).list(key))
    with pytest.raises(UnsafeKey):
        with FileOutputObjects(root).writer(key):
            pass
    assert list(root.iterdir()) == []


def test_symbolic_links_lead_nowhere(tmp_path: Path) -> None:
    outside, root = tmp_path / "outside", tmp_path / "root"
    put(outside, "secret")
    put(root, "b/1")
    (root / "link").symlink_to(outside)
    (root / "b/2").symlink_to(outside / "secret")
    objects = FileInputObjects(root)
    assert [key for key, _ in objects.list("")] == ["b/1"]
    with pytest.raises(UnsafeKey):
        objects.open("link/secret")
    with pytest.raises(PermissionError):
        objects.open("b/2")
    with pytest.raises(UnsafeKey):
        with FileOutputObjects(root).writer("link/new"):
            pass
    assert sorted(path.name for path in outside.iterdir()) == ["secret"]


@given(st.text(alphabet="ab./\\\0", max_size=12))
def test_every_key_that_passes_stays_below_its_root(key: str) -> None:
    try:
        check_key(key)
    except UnsafeKey:
        return
    path = os.path.normpath(f"/root/{key}")
    assert path == "/root" or path.startswith("/root/")


def test_a_write_that_fails_leaves_the_old_content_and_nothing_else(tmp_path: Path) -> None:
    objects = FileOutputObjects(tmp_path)
    with objects.writer("a/b") as stream:
        stream.write(b"old")

    def fail() -> None:
        with objects.writer("a/b") as stream:
            stream.write(b"new")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert [(path.name, path.read_bytes()) for path in (tmp_path / "a").iterdir()] == [("b", b"old")]


def test_a_copy_is_the_data_stores_own(tmp_path: Path) -> None:
    put(tmp_path, "in/1")
    objects = FileInputObjects(tmp_path / "in")
    assert copy_object(objects, "1", tmp_path / "kept") == 4
    (tmp_path / "in/1").write_bytes(b"rewritten")
    assert (tmp_path / "kept").read_bytes() == b"in/1"


def test_a_link_survives_the_deletion_and_replacement_of_its_source(tmp_path: Path) -> None:
    put(tmp_path, "in/1", "new")
    objects = FileInputObjects(tmp_path / "in", never_rewritten=True)
    assert copy_object(objects, "1", tmp_path / "kept") == 4
    assert (tmp_path / "kept").stat().st_nlink == 2
    (tmp_path / "new").replace(tmp_path / "in/1")
    (tmp_path / "in/1").unlink()
    assert (tmp_path / "kept").read_bytes() == b"in/1"
    with pytest.raises(FileNotFoundError):
        copy_object(objects, "1", tmp_path / "again")
