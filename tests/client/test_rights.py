"""What other users of the machine can reach and change."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import pytest

import shmclient
from support import (
    WatchedHost,
    as_nobody,
    needs_root,
)

# --- rights, between real users


@needs_root
def test_other_users_get_what_the_mode_gives_them(open_host: WatchedHost) -> None:
    def use_as_other() -> None:
        with shmclient.connect(open_host.socket_path) as other:
            assert bytes(other.get("public")) == b"for all"
            with pytest.raises(shmclient.RegionNotFound, match="uid 65534 may not read it"):
                other.get("private")
            for use in (
                lambda: other.put("public", b""),
                lambda: other.unlink("public"),
                lambda: other.chmod("public", 0o666),
            ):
                with pytest.raises(PermissionError, match="uid 65534"):
                    use()
            other.put("mine", b"by nobody").close()

    with shmclient.connect(open_host.socket_path) as shm:
        shm.put("private", b"1").close()
        shm.put("public", b"for all", mode=0o644).close()
        assert as_nobody(use_as_other) == 0
        assert shm.stat("mine").uid == 65534


@needs_root
def test_other_users_learn_nothing_of_names_that_they_may_not_read(open_host: WatchedHost) -> None:
    def look() -> None:
        with shmclient.connect(open_host.socket_path) as other:
            assert [info.name for info in other.list()] == ["public"]
            with pytest.raises(shmclient.RegionNotFound) as of_private:
                other.stat("private")
            with pytest.raises(shmclient.RegionNotFound) as of_nothing:
                other.stat("nothing")
            assert str(of_private.value).replace("private", "nothing") == str(of_nothing.value)
            with pytest.raises(shmclient.RegionTimeout):
                other.get("private", wait=0.01)
            with pytest.raises(shmclient.AccessDenied, match="another user has it") as refusal:
                other.put("private", b"")
            assert "uid 0" not in str(refusal.value)

    with shmclient.connect(open_host.socket_path) as shm:
        shm.put("private", b"1").close()
        shm.put("public", b"for all", mode=0o644).close()
        assert as_nobody(look) == 0


@needs_root
def test_other_users_cannot_reopen_a_region_for_writing(open_host: WatchedHost) -> None:
    def reopen() -> None:
        with shmclient.connect(open_host.socket_path) as other:
            region = other.open("public")
            with pytest.raises(PermissionError):
                os.open(f"/proc/self/fd/{region.fileno()}", os.O_RDWR)

    with shmclient.connect(open_host.socket_path) as shm:
        shm.put("public", b"for all", mode=0o644).close()
        assert as_nobody(reopen) == 0


@needs_root
def test_other_users_are_told_whose_the_socket_is(open_host: WatchedHost) -> None:
    def connect() -> None:
        with pytest.raises(shmclient.AccessDenied, match=r"belongs to uid 0.*this is uid 65534"):
            shmclient.connect(open_host.socket_path)

    os.chmod(open_host.socket_path, 0o660)
    assert as_nobody(connect) == 0


# --- descriptors of one region


@needs_root
def test_offset_of_a_descriptor_is_its_own_for_another_user(open_host: WatchedHost) -> None:
    with shmclient.connect(open_host.socket_path) as shm:
        region = shm.put("x", b"data", mode=0o604)

        def move() -> None:
            with shmclient.connect(open_host.socket_path) as other:
                mine = other.open("x")
                os.lseek(mine.fileno(), 777, os.SEEK_SET)

        assert as_nobody(move) == 0
        assert os.lseek(region.fileno(), 0, os.SEEK_CUR) == 0


@needs_root
def test_rights_are_asked_again_when_the_mode_changes(open_host: WatchedHost) -> None:
    to_child, from_child = os.pipe(), os.pipe()

    def read_on() -> None:
        with shmclient.connect(open_host.socket_path) as reader:
            value = reader.get("x")
            region = reader.open("x")
            reader.get("x")
            os.write(from_child[1], b".")
            os.read(to_child[0], 1)
            with pytest.raises(shmclient.RegionNotFound):
                reader.get("x")
            assert region.is_current()  # it is, though not for all
            assert bytes(value) == b"1"

    with shmclient.connect(open_host.socket_path) as shm, ThreadPoolExecutor() as pool:
        shm.put("x", b"1", mode=0o644).close()
        result = pool.submit(as_nobody, read_on)
        os.read(from_child[0], 1)
        shm.chmod("x", 0o600)
        os.write(to_child[1], b".")
        assert result.result(30) == 0
    for descriptor in (*to_child, *from_child):
        os.close(descriptor)
