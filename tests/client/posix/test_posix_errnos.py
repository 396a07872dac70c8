"""Names, texts and help of the system's error codes, against what Python and the C library say."""

from __future__ import annotations

import errno
import os
import sys

import pytest

from shmclient.posix._errno_help import HELP
from shmclient.posix._errnos import errno_help, errno_name, errno_names, errno_string

# What each call can raise on Linux or macOS, as far as we know.
_OFFSETLESS = (
    "EAGAIN EBADF EBADMSG ECANCELED ECONNREFUSED ECONNRESET EDESTADDRREQ EDQUOT EFAULT EFBIG EHOSTDOWN "
    "EHOSTUNREACH EINTR EINVAL EIO EISDIR EMSGSIZE ENETDOWN ENETUNREACH ENOBUFS ENOMEM ENOSPC ENOTCONN ENXIO "
    "EOPNOTSUPP EPERM EPIPE EPROTOTYPE ESTALE ETIMEDOUT ETXTBSY EUCLEAN"
)
CALLS = {
    "shm_open": "EACCES EDQUOT EEXIST EINTR EINVAL EISDIR ELOOP EMFILE ENAMETOOLONG ENFILE ENOENT ENOMEM "
    "ENOSPC ENOSYS ENOTDIR EPERM EROFS",
    "shm_unlink": "EACCES EBUSY EINVAL EISDIR ENAMETOOLONG ENOENT ENOTDIR EPERM EROFS",
    "memfd_create": "EACCES EFAULT EINVAL EMFILE ENFILE ENODEV ENOENT ENOMEM ENOSYS EPERM",
    "ftruncate": "EACCES EBADF EDQUOT EFBIG EINTR EINVAL EIO EISDIR ENOMEM ENOSPC EPERM EROFS ETXTBSY",
    "close": "EBADF EDQUOT EINTR EIO ENOSPC",
    "fstat": "EBADF EFAULT EIO ENOMEM EOVERFLOW ESTALE",
    "fchown": "EBADF EDQUOT EINTR EINVAL EIO ENOENT ENOSYS EPERM EROFS",
    "fchmod": "EBADF EINTR EINVAL EIO ENOENT EOPNOTSUPP EPERM EROFS",
    "fcntl": "EACCES EAGAIN EBADF EBUSY EDEADLK EFAULT EINTR EINVAL EMFILE ENOLCK ENOTDIR ENOTSUP ENOTTY "
    "EOVERFLOW EPERM ESRCH",
    "mmap": "EACCES EAGAIN EBADF EEXIST EINVAL EMFILE ENFILE ENODEV ENOMEM ENOTSUP ENXIO EOPNOTSUPP "
    "EOVERFLOW EPERM ETXTBSY",
    "munmap": "EINVAL ENOMEM EPERM",
    "mprotect": "EACCES EAGAIN EINVAL ENOMEM ENOTSUP EPERM",
    "msync": "EBUSY EDQUOT EINVAL EIO ENOMEM ENOSPC",
    "madvise": "EACCES EAGAIN EBADF EBUSY EFAULT EHWPOISON EINTR EINVAL EIO ENOMEM EOPNOTSUPP EPERM",
    "mlock": "EAGAIN EINVAL ENOMEM EPERM",
    "munlock": "EAGAIN EINVAL ENOMEM EPERM",
    "mlockall": "EAGAIN EINVAL ENOMEM ENOSYS EPERM",
    "munlockall": "ENOSYS EPERM",
    "readv": _OFFSETLESS,
    "writev": _OFFSETLESS,
    "preadv": _OFFSETLESS + " ENOSYS ESPIPE EOVERFLOW",
    "pwritev": _OFFSETLESS + " ENOSYS ESPIPE EOVERFLOW",
}
CODES = sorted(errno.errorcode)
UNKNOWN = [-1, 0, 5000]


@pytest.mark.parametrize("code", CODES)
def test_names_are_those_of_python(code: int) -> None:
    named = {name for name in dir(errno) if name.startswith("E") and getattr(errno, name) == code}
    assert errno.errorcode[code] in errno_names(code)
    assert set(errno_names(code)) == named
    assert errno_name(code) == errno_names(code)[0]


@pytest.mark.parametrize("code", CODES)
def test_string_is_that_of_the_c_library(code: int) -> None:
    assert errno_string(code) == os.strerror(code)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems give the aliases their own numbers")
def test_usual_name_comes_first() -> None:
    assert errno_names(11) == ("EAGAIN", "EWOULDBLOCK")
    assert errno_names(95) == ("EOPNOTSUPP", "ENOTSUP")
    assert errno_names(35) == ("EDEADLK", "EDEADLOCK")
    assert errno_names(2) == ("ENOENT",)


@pytest.mark.skipif(sys.platform != "linux", reason="a code of Linux alone")
def test_poisoned_page_has_name_text_and_help_where_python_lacks_its_code() -> None:
    assert errno_name(133) == "EHWPOISON"
    assert errno_string(133) == os.strerror(133)
    assert errno_help(133).split() == HELP["EHWPOISON"].split()


@pytest.mark.parametrize("code", UNKNOWN)
@pytest.mark.parametrize("function", [errno_name, errno_names, errno_string, errno_help])
def test_unknown_code_is_refused_with_value_and_advice(function: object, code: int) -> None:
    assert callable(function)
    with pytest.raises(ValueError, match=rf"^{code} is not an error code .*: pass the errno of an OSError$"):
        function(code)


@pytest.mark.parametrize("call", CALLS)
def test_help_has_a_text_for_each_code_of_a_call(call: str) -> None:
    assert [name for name in CALLS[call].split() if name not in HELP] == []


def test_help_has_no_text_for_a_code_that_no_call_raises() -> None:
    raised = {name for names in CALLS.values() for name in names.split()}
    assert set(HELP) - raised == set()


@pytest.mark.parametrize("code", CODES)
def test_help_has_lines_of_at_most_78_columns(code: int) -> None:
    assert 0 < max(map(len, errno_help(code).splitlines())) <= 78


@pytest.mark.parametrize("code", CODES)
def test_help_is_the_text_of_a_name_or_says_that_there_is_none(code: int) -> None:
    texts = [HELP[name].split() for name in errno_names(code) if name in HELP]
    text = errno_help(code)
    if texts:
        assert text.split() == texts[0]
    else:
        assert text.startswith(f"{os.strerror(code)}. None of the calls")


def test_help_is_never_the_same_for_two_codes() -> None:
    texts = [errno_help(code) for code in CODES]
    assert len(set(texts)) == len(CODES)
    assert len(set(HELP.values())) == len(HELP)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("ENOMEM", ["RLIMIT_MEMLOCK", "RLIMIT_AS", "vm.max_map_count", "overcommit"]),
        ("ENOSPC", ["/dev/shm", "container"]),
        ("EPERM", ["seal", "noexec"]),
        ("EBUSY", ["F_SEAL_WRITE", "fork"]),
        ("EEXIST", ["MAP_FIXED_NOREPLACE"]),
    ],
)
def test_help_names_the_limit_to_look_at(name: str, words: list[str]) -> None:
    text = errno_help(getattr(errno, name))
    assert [word for word in words if word not in text] == []
