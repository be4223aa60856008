"""The home and its slots: who gets which, who may look in, and where a home cannot be."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from carpool._stores import slots
from carpool._stores.slots import filesystem_of, find_slots, is_free, take_slot
from carpool.errors import ConfigurationError, StoreCorrupt, StoreError, StoreFull, StoreLocked

PATIENCE_S = 30.0
"""For which a child lives at most, should its parent have died."""
MOUNTS = r"""
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
25 22 0:22 / /proc rw,nosuid - proc proc rw
30 22 0:30 / /home rw shared:9 master:2 - nfs4 server:/export/home rw,vers=4.2
31 30 0:31 / /home/me/local rw - xfs /dev/vdb rw
32 22 0:32 / /mnt/with\040space\134x rw - cifs //server/share rw
33 22 0:33 / /over rw - nfs a:/b rw
34 22 0:34 / /over rw - tmpfs tmpfs rw
35 22 0:35 / /homestead rw - btrfs /dev/vdc rw
a line without what it should have
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "ext4"),
        ("/var/lib/carpool", "ext4"),
        ("/home", "nfs4"),
        ("/home/you/state", "nfs4"),
        ("/home/me/local/state", "xfs"),
        ("/homestead/x", "btrfs"),
        ("/homes", "ext4"),
        ("/mnt/with space\\x/y", "cifs"),
        ("/over/x", "tmpfs"),
    ],
)
def test_the_file_system_is_that_of_the_nearest_mount(path: str, kind: str) -> None:
    assert filesystem_of(Path(path), MOUNTS) == kind


def test_without_a_list_of_mounts_the_file_system_is_not_known() -> None:
    assert filesystem_of(Path("/home"), "") == ""


@pytest.mark.parametrize(
    "kind",
    [
        *("nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "ncpfs", "ceph", "lustre", "gpfs", "beegfs", "glusterfs"),
        *("fuse.sshfs", "fuse.glusterfs", "fuse.s3fs", "fuse.gcsfuse", "fuse.rclone", "fuse.juicefs", "fuse.ceph-fuse"),
    ],
)
def test_a_home_on_the_network_is_refused(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(f"1 1 0:1 / / rw - {kind} server rw\n")
    monkeypatch.setattr(slots, "_MOUNTS", mounts)
    with pytest.raises(ConfigurationError, match=rf"network file system \({kind}\).*CARPOOL_HOME"):
        take_slot(tmp_path / "home")


@pytest.mark.parametrize(
    "kind", ["ext4", "overlay", "tmpfs", "9p", "fuse.gvfs", "fuse.gocryptfs", "fuseblk", "virtiofs", "zfs", "apfs"]
)
def test_a_home_on_what_containers_have_is_not(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(f"1 1 0:1 / / rw - {kind} x rw\n")
    monkeypatch.setattr(slots, "_MOUNTS", mounts)
    take_slot(tmp_path / "home").release()


def test_the_lowest_free_slot_is_taken(tmp_path: Path) -> None:
    first, second, third = (take_slot(tmp_path / "home") for _ in range(3))
    assert [slot.path.name for slot in (first, second, third)] == ["slot-0", "slot-1", "slot-2"]
    second.release()
    again = take_slot(tmp_path / "home")
    assert again.path.name == "slot-1"
    for slot in (first, again, third):
        slot.release()


def test_when_all_slots_are_taken_it_says_what_to_do(tmp_path: Path) -> None:
    taken = [take_slot(tmp_path / "home", 2) for _ in range(2)]
    with pytest.raises(StoreLocked, match=r"all 2 slots of .* end one of them, or name another home"):
        take_slot(tmp_path / "home", 2)
    for slot in taken:
        slot.release()
    take_slot(tmp_path / "home", 2).release()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_what_is_made_is_private(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        slot = take_slot(tmp_path / "a" / "home")
        slot.write_store_id("abcdefgh")
        slot.mark_clean()
        slot.keep_ballast(1_000)
    finally:
        os.umask(before)
    slot.release()
    assert mode(tmp_path / "a" / "home") == 0o700
    assert mode(slot.path) == 0o700
    files = {path.name: mode(path) for path in slot.path.iterdir()}
    assert files == dict.fromkeys(["ballast", "clean", "lock", "store-id"], 0o600)


def test_a_folder_that_is_nothing_but_a_home_is_made_private(tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / "slot-0").mkdir(parents=True)
    home.chmod(0o755)
    (home / "slot-0").chmod(0o755)
    take_slot(home).release()
    assert (mode(home), mode(home / "slot-0")) == (0o700, 0o700)


def test_a_folder_with_other_things_in_it_stays_as_it_is(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "thesis.tex").touch()
    home.chmod(0o755)
    take_slot(home).release()
    assert (mode(home), mode(home / "slot-0")) == (0o755, 0o700)


@pytest.mark.parametrize("name", ["file", "file/below", "file/below/that"])
def test_a_home_that_is_or_lies_under_a_file_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ConfigurationError, match=r"not a folder\. Name a folder that you may write to.*CARPOOL_HOME"):
        take_slot(tmp_path / name)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_home_that_cannot_be_made_is_refused() -> None:
    # Not even root may make a folder there.
    with pytest.raises(ConfigurationError, match="cannot be used"):
        take_slot(Path("/proc/carpool/home"))


def test_a_path_that_would_be_read_as_something_else_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ELSEWHERE", "other")
    with pytest.raises(ConfigurationError, match="plain path"):
        take_slot(tmp_path / "$ELSEWHERE")
    assert list(tmp_path.iterdir()) == []


def test_marks_of_a_slot_can_be_set_and_taken_back(tmp_path: Path) -> None:
    slot = take_slot(tmp_path / "home")
    assert (slot.is_clean, slot.read_store_id()) == (False, None)
    slot.mark_clean()
    slot.write_store_id("abcd1234")
    assert (slot.is_clean, slot.read_store_id()) == (True, "abcd1234")
    slot.mark_in_use()
    slot.mark_in_use()
    assert slot.is_clean is False
    slot.release()
    slot.release()


@pytest.mark.parametrize("text", ["", "abcd", "ABCDEFGH", "abcd123é", "abcd1234abcd1234"])
def test_a_damaged_store_id_is_noticed(text: str, tmp_path: Path) -> None:
    slot = take_slot(tmp_path / "home")
    (slot.path / "store-id").write_text(text)
    with pytest.raises(StoreCorrupt, match="store-id is damaged"):
        slot.read_store_id()
    slot.release()


def test_ballast_takes_what_room_there_is(tmp_path: Path) -> None:
    slot = take_slot(tmp_path / "home")
    (slot.path / "ballast").symlink_to("/dev/full")
    slot.keep_ballast(100_000)
    assert slot.drop_ballast() is True
    slot.release()


def test_a_full_disk_is_told_from_a_broken_one(tmp_path: Path) -> None:
    slot = take_slot(tmp_path / "home")
    (slot.path / "store-id.new").symlink_to("/dev/full")
    with pytest.raises(StoreFull, match=r"the disk under .* is full"):
        slot.write_store_id("abcdefgh")
    for name in ("ballast", "clean", "store-id"):
        (slot.path / name).mkdir()
    with pytest.raises(StoreError, match="cannot be used: Is a directory"):
        slot.keep_ballast(1_000)
    with pytest.raises(StoreError, match="cannot be used: Is a directory"):
        slot.mark_clean()
    with pytest.raises(StoreError, match="cannot be used: Is a directory"):
        slot.read_store_id()
    slot.release()


@pytest.mark.parametrize(("code", "kind"), [(errno.ENOLCK, ConfigurationError), (errno.ENOSPC, StoreFull)])
def test_a_slot_that_cannot_be_locked_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, kind: type[Exception]
) -> None:
    def flock(handle: int, operation: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", flock)
    before = len(list(Path("/dev/fd").iterdir()))
    with pytest.raises(kind):
        take_slot(tmp_path / "home")
    assert len(list(Path("/dev/fd").iterdir())) == before


def test_a_folder_that_is_made_is_made_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[Path] = []
    monkeypatch.setattr(slots, "_sync_folder", synced.append)
    take_slot(tmp_path / "a" / "b" / "home").release()
    assert set(synced) == {tmp_path, tmp_path / "a", tmp_path / "a" / "b", tmp_path / "a" / "b" / "home"}


def test_ballast_takes_room_once_and_gives_it_back(tmp_path: Path) -> None:
    slot = take_slot(tmp_path / "home")
    assert slot.drop_ballast() is False
    slot.keep_ballast(100_000)
    before = (slot.path / "ballast").read_bytes()
    assert len(before) == 100_000
    slot.keep_ballast(50_000)
    assert (slot.path / "ballast").read_bytes() == before
    slot.keep_ballast(200_000)
    assert (slot.path / "ballast").stat().st_size == 200_000
    assert slot.drop_ballast() is True
    assert not (slot.path / "ballast").exists()
    slot.release()


def test_slots_are_found_lowest_first_and_nothing_else_is(tmp_path: Path) -> None:
    home = tmp_path / "home"
    assert find_slots(home) == []
    for name in ("slot-10", "slot-2", "slot-0", "slot-x", "slot-02", "slot-010", "slot-٣", "slot-", "other"):
        (home / name).mkdir(parents=True)
    assert find_slots(home) == [home / "slot-0", home / "slot-2", home / "slot-10"]
    assert not (tmp_path / "elsewhere").exists()
    assert find_slots(tmp_path / "elsewhere") == []


# -- the lock


def test_slots_that_are_taken_are_passed_over_without_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = [take_slot(tmp_path) for _ in range(5)]
    monkeypatch.setattr(time, "sleep", lambda _: pytest.fail("it waited"))
    last = take_slot(tmp_path)
    assert last.path.name == "slot-5"
    for slot in (*taken, last):
        slot.release()


def test_a_slot_at_which_somebody_looks_all_the_time_is_taken_for_a_taken_one(tmp_path: Path) -> None:
    take_slot(tmp_path).release()
    looking = os.open(tmp_path / "slot-0" / "lock", os.O_RDWR)
    fcntl.flock(looking, fcntl.LOCK_SH)
    other = take_slot(tmp_path)
    assert other.path.name == "slot-1"
    other.release()
    os.close(looking)


def test_a_slot_without_its_lock_is_free(tmp_path: Path) -> None:
    # As in a copy that was made of what has bytes in it.
    slot = take_slot(tmp_path)
    slot.release()
    (slot.path / "lock").unlink()
    assert is_free(slot.path)
    assert take_slot(tmp_path).path == slot.path


def test_a_lock_that_is_deleted_while_it_is_taken_locks_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    true_flock = fcntl.flock

    def flock(handle: int, operation: int) -> None:
        (tmp_path / "slot-0" / "lock").unlink(missing_ok=True)
        true_flock(handle, operation)

    before = len(list(Path("/dev/fd").iterdir()))
    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(StoreLocked):
        take_slot(tmp_path, number=0)
    monkeypatch.undo()
    assert len(list(Path("/dev/fd").iterdir())) == before
    take_slot(tmp_path, number=0).release()


@contextmanager
def children(count: int) -> Iterator[list[int]]:
    """Fork children that do nothing until the block is left."""
    reader, writer = os.pipe()
    pids: list[int] = []
    try:
        for _ in range(count):
            pid = os.fork()
            if pid == 0:
                os.close(writer)
                os.read(reader, 1)
                os._exit(0)
            pids.append(pid)
        yield pids
    finally:
        os.close(writer)
        os.close(reader)
        for pid in pids:
            os.waitpid(pid, 0)


def can_be_taken(path: Path) -> bool:
    try:
        take_slot(path.parent, number=0).release()
    except StoreLocked:
        return False
    return True


@pytest.mark.parametrize(
    "use", [is_free, lambda path: take_slot(path.parent, number=0).release()], ids=["look", "take"]
)
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_that_is_forked_while_a_slot_is_locked_does_not_keep_it_locked(
    use: Callable[[Path], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slot = take_slot(tmp_path)
    slot.release()
    path = slot.path
    locked, true_flock = threading.Event(), fcntl.flock

    def flock(handle: int, operation: int) -> None:
        true_flock(handle, operation)
        locked.set()
        time.sleep(0.1)  # long enough for a fork, if nothing keeps it back

    monkeypatch.setattr(fcntl, "flock", flock)
    thread = threading.Thread(target=use, args=(path,))
    thread.start()
    assert locked.wait(PATIENCE_S)
    with children(1):
        monkeypatch.undo()
        thread.join()
        # The child lives; it lets go of what its parent had with the first lines that it runs.
        give_up_at = time.monotonic() + PATIENCE_S
        while not can_be_taken(path):
            assert time.monotonic() < give_up_at, "the child has the lock"
            time.sleep(0.01)


def test_processes_that_start_together_get_slots_of_their_own(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    go_reader, go_writer = os.pipe()
    pids = []
    for _ in range(12):
        pid = os.fork()
        if pid == 0:
            os.close(go_writer)
            os.read(go_reader, 1)
            slot = take_slot(tmp_path / "home")
            os.write(writer, f"{slot.path.name}\n".encode())
            time.sleep(PATIENCE_S)
            os._exit(0)
        pids.append(pid)
    os.close(go_writer)
    got = b""
    while got.count(b"\n") < 12:
        got += os.read(reader, 4_096)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    for handle in (reader, writer, go_reader):
        os.close(handle)
    assert len(set(got.split())) == 12
    taken = [take_slot(tmp_path / "home") for _ in range(3)]
    assert [slot.path.name for slot in taken] == ["slot-0", "slot-1", "slot-2"]
    for slot in taken:
        slot.release()
