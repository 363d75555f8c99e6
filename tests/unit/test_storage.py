"""Where sinks write: a file appears once, complete and durable."""

import errno
import os
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured

from realtime.sinks.storage import FsspecStorage, LocalStorage, Storage, storage_of


@pytest.fixture(params=["a directory", "fsspec"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    """Each kind, empty."""
    if request.param == "a directory":
        return storage_of(tmp_path / "files")
    return storage_of(f"memory://{tmp_path.name}-{id(request)}")


def read(storage: Storage, path: str) -> bytes:
    if isinstance(storage, LocalStorage):
        return (storage._root / path).read_bytes()
    assert isinstance(storage, FsspecStorage)
    body: bytes = storage._files.cat_file(storage._full(path))
    return body


def test_a_file_is_created_once(storage: Storage) -> None:
    """The first one stays."""
    assert not storage.exist(["podium/a.json"])
    assert storage.create("podium/a.json", b"first") is True
    assert storage.create("podium/a.json", b"second") is False
    assert read(storage, "podium/a.json") == b"first"
    assert storage.exist(["podium/a.json"])
    assert not storage.exist(["podium/a.json", "podium/b.json"])


def test_of_many_writers_one_creates_the_file(tmp_path: Path) -> None:
    """It is never seen in part."""
    storage = storage_of(tmp_path)
    bodies = [bytes([letter]) * 100_000 for letter in b"abcdefgh"]
    created: list[bool] = []
    threads = [
        threading.Thread(target=lambda body=body: created.append(storage.create("x/y", body))) for body in bodies
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(created) == [False] * 7 + [True]
    assert read(storage, "x/y") in bodies
    assert [path.name for path in (tmp_path / "x").iterdir()] == ["y"], "no temporary file is left"


def test_a_file_is_synced_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And so is its directory afterwards: a power cut leaves a whole file or none."""
    done: list[str] = []
    fsync, link = os.fsync, os.link

    def noting_fsync(number: int) -> None:
        name = Path(os.readlink(f"/proc/self/fd/{number}")).name
        done.append(f"sync {name if name in ('top', 'kind', '.tmp') else 'file'}")
        fsync(number)

    def noting_link(source: Any, target: Any) -> None:
        done.append("link")
        link(source, target)

    monkeypatch.setattr(os, "fsync", noting_fsync)
    monkeypatch.setattr(os, "link", noting_link)
    (tmp_path / "top").mkdir()
    storage_of(tmp_path / "top").create("kind/a.gz", b"x")
    assert done == ["sync top", "sync top", "sync file", "link", "sync kind"]


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error propagates, and the next call creates the file."""
    storage = storage_of(tmp_path)
    fsync = os.fsync

    def full(number: int) -> None:
        if Path(os.readlink(f"/proc/self/fd/{number}")).parent.name == ".tmp":
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(number)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        storage.create("a", b"x")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    monkeypatch.undo()
    assert storage.create("a", b"x")


def test_only_old_temporary_files_are_removed(tmp_path: Path) -> None:
    """Another worker may still be writing a young one."""
    storage = storage_of(tmp_path)
    storage.create("kind/a", b"x")
    for name, age_seconds in (("old", 4_000), ("young", 10)):
        path = tmp_path / ".tmp" / name
        path.touch()
        then = path.stat().st_mtime - age_seconds
        os.utime(path, (then, then))
    storage.tidy()
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["a", "young"]


@pytest.mark.parametrize("url", ["{}", "file://{}", "local://{}"])
def test_directories_are_paths_or_urls(tmp_path: Path, url: str) -> None:
    """A URL may be one of a file. In a URL, a percent sign escapes."""
    storage = storage_of(url.format(f"{tmp_path}/the%20files" if "://" in url else f"{tmp_path}/the files"))
    storage.create("a", b"x")
    assert (tmp_path / "the files/a").read_bytes() == b"x"


def test_a_file_that_is_there_is_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process may have been killed after it had linked the file, and before it had synced the folder."""
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta/g1").write_bytes(b"x")
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda number: synced.append(os.fstat(number).st_ino))
    assert LocalStorage(tmp_path).exist(["meta/g1"])
    assert synced == [(tmp_path / "meta").stat().st_ino]


class OldFiles:
    """A file system of fsspec that cannot create exclusively."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}

    def makedirs(self, path: str, exist_ok: bool) -> None:
        raise NotImplementedError

    def pipe_file(self, path: str, value: bytes) -> None:
        self.files[path] = value

    def exists(self, path: str) -> bool:
        return path in self.files


@pytest.mark.parametrize("url", ["oss://key:secret@bucket/orders", "nothing://key:secret@bucket/orders"])
def test_a_storage_without_its_library_says_which(url: str) -> None:
    """Not with a traceback, nor with the secrets in a URL."""
    with pytest.raises(ImproperlyConfigured, match="cannot be used: ") as raised:
        storage_of(url)
    assert "secret" not in str(raised.value)


def test_a_file_system_that_cannot_create_exclusively_is_asked_first() -> None:
    """So an existing file stays there, too."""
    storage = storage_of("memory://old")
    assert isinstance(storage, FsspecStorage)
    storage._files = OldFiles()
    assert storage.create("a", b"first")
    assert not storage.create("a", b"second")
    assert [*storage._files.files.values()] == [b"first"]


def test_a_directory_is_checked_before_it_is_used(tmp_path: Path) -> None:
    """It is made, and nothing is left of the check."""
    storage = storage_of(tmp_path / "a/b")
    storage.check()
    assert [path for path in (tmp_path / "a/b").rglob("*") if path.is_file()] == []
    assert storage.create("x", b"x")


def test_a_file_system_without_hard_links_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some that are mounted over a network have none, and no file could ever get its name."""

    def refuse(source: object, target: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(ImproperlyConfigured, match=r"no file can be written in .*Operation not permitted"):
        storage_of(tmp_path).check()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.ESTALE])
def test_what_ends_by_itself_is_no_reason_to_refuse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """A full disk is waited for, as it is later."""

    def fail(source: object, target: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", fail)
    storage = storage_of(tmp_path)
    storage.check()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    monkeypatch.undo()
    assert storage.create("a", b"a")


@pytest.fixture
def other_disk(tmp_path: Path) -> Iterator[Path]:
    """A directory on another disk than `tmp_path`."""
    memory = Path("/dev/shm")  # noqa: S108 - a disk of its own
    if not memory.is_dir() or memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("this machine has one disk")
    with tempfile.TemporaryDirectory(dir=memory) as directory:
        yield Path(directory)


def test_a_folder_on_another_disk_is_refused(tmp_path: Path, other_disk: Path) -> None:
    """No file can be linked there: it would be waited for without end."""
    (tmp_path / "podium").symlink_to(other_disk)
    with pytest.raises(ImproperlyConfigured, match="podium is on another disk than"):
        storage_of(tmp_path).check()


def test_a_folder_that_comes_to_be_on_another_disk_is_told(tmp_path: Path, other_disk: Path) -> None:
    """The error says what is wrong, and no temporary file is left."""
    storage = storage_of(tmp_path)
    storage.check()
    (tmp_path / "podium").symlink_to(other_disk)
    with pytest.raises(OSError, match="podium is on another disk than"):
        storage.create("podium/a.json", b"body")
    assert not [*(tmp_path / ".tmp").iterdir()]
