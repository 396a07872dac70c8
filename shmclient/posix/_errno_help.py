"""The meaning of each error of the memory calls, and what to do about it, by name.

Keyed by name, because the number of a code depends on the platform. Knows no function and no code.
The texts are our own. Where a text and the manual page of a call differ, the manual page is right.
"""

from __future__ import annotations

from typing import Final

HELP: Final[dict[str, str]] = {
    "EPERM": "A rule other than the permission bits forbids it. For a write, ftruncate, fchmod or shared "
    "writable mmap it is usually a seal; for F_ADD_SEALS it is F_SEAL_SEAL or a descriptor that is not "
    "writable. fchmod and fchown are for the owner or root; PROT_EXEC fails on a noexec mount; mlock fails "
    "where RLIMIT_MEMLOCK is 0; huge pages need vm.hugetlb_shm_group; addresses below vm.mmap_min_addr and "
    "ranges under mseal are closed. Read the seals with F_GET_SEALS; if they are the reason, make a new "
    "object, since a seal cannot be removed. Otherwise get the permission, or raise the limit (ulimit -l).",
    "ENOENT": "No shared memory object has this name, or no mount serves the page size that was asked for. "
    "Check the name (one leading slash, no other) and that both processes see the same /dev/shm: each "
    "container has its own unless they share it (docker --ipc). Pass O_CREAT to make the object. For huge "
    "pages, choose a size listed in /sys/kernel/mm/hugepages.",
    "ESRCH": "fcntl F_SETOWN was given a process or group that does not exist. It has probably ended: pass "
    "the id of a running one.",
    "EINTR": "A signal arrived before the call had done anything. Call again with the same arguments; only "
    "close must not be repeated, since on Linux the descriptor is gone already and its number may belong to "
    "another file.",
    "EIO": "The storage or the device behind the file failed, or a page could not be read from swap. Data "
    "written since the last successful msync may be lost. Read the kernel's log (dmesg), and check the "
    "data before you trust it; a retry seldom helps.",
    "ENXIO": "The descriptor has no device behind it at this offset: the device is gone, or the range lies "
    "outside of it. Check the offset and the length against the device's size, and open the device again.",
    "EBADF": "The descriptor is not open, or not open for this direction: readv needs a readable one, "
    "writev and ftruncate a writable one, F_SETPIPE_SZ a pipe, and O_PATH descriptors allow almost nothing. "
    "Look for a close that came too early, or for two owners of one number; /proc/self/fd lists what is "
    "open. For madvise: the advice is for mappings of files.",
    "EAGAIN": "The resource is temporarily unavailable. A non-blocking descriptor had no data or no room; a "
    "record lock is held by another process; mmap with MAP_LOCKED, or after mlockall, went over "
    "RLIMIT_MEMLOCK; or the kernel was short of a resource. Wait until the descriptor is ready (poll) or the "
    "lock is free; for locked memory, raise the limit (ulimit -l) or lock less.",
    "ENOMEM": "No memory or no address space: RLIMIT_AS (ulimit -v), the overcommit rule "
    "(vm.overcommit_memory), the number of mappings (vm.max_map_count, 65530 by default), or too few free "
    "huge pages (vm.nr_hugepages). For mlock: the range goes over RLIMIT_MEMLOCK (ulimit -l). For munmap, "
    "mprotect, mlock, msync and madvise also: part of the range is not mapped. Check the range in "
    "/proc/self/maps; then raise the limit that was reached, or map less and in fewer pieces. MAP_NORESERVE "
    "helps if you only reserve address space.",
    "EACCES": "The permission bits or the way the file was opened forbid it. MAP_SHARED with PROT_WRITE "
    "needs a descriptor opened O_RDWR, any mapping of a file needs a readable one, and mprotect cannot give "
    "more than the descriptor, a seal or a noexec mount allowed at mmap. shm_open: owner and mode of the "
    "object, or fs.protected_regular for another user's object. memfd_create: vm.memfd_noexec=2 refuses "
    "MFD_EXEC. Open with the access you need, or have the owner change the mode. From a fcntl lock on some "
    "systems: another process holds it, so try later.",
    "EFAULT": "An argument points to memory that this process has not mapped with the needed access. "
    "Check that the buffer is still alive and as long as stated, that it is writable if data goes into it, "
    "and that an address from another process is mapped here at the same address.",
    "EBUSY": "The object is still in use. F_SEAL_WRITE is refused while any process, including a forked "
    "child, has a writable shared mapping of it, or while its pages are pinned for I/O: unmap them all, "
    "then seal; or use F_SEAL_FUTURE_WRITE, which keeps existing mappings. msync with MS_INVALIDATE and "
    "some kinds of madvise: the pages are locked, so munlock them first. shm_unlink: the name is a mount "
    "point. F_SETPIPE_SZ: the pipe holds more than the new size.",
    "EEXIST": "The name or the address range is taken. shm_open with O_CREAT|O_EXCL: the name exists; open "
    "it without O_EXCL, or shm_unlink it if a dead process left it behind. mmap with MAP_FIXED_NOREPLACE: "
    "another mapping overlaps the range, see /proc/self/maps; choose another address, or map earlier.",
    "ENODEV": "This kind of file cannot be mapped, the file system has no mmap, or the kernel was built "
    "without the huge pages of the size asked for. Map a regular file, a memfd or a shared memory object; "
    "read pipes and sockets instead; for huge pages see /sys/kernel/mm/hugepages.",
    "ENOTDIR": "A part of the path is not a directory, or F_NOTIFY was used on a file. Check "
    "that /dev/shm is a mounted tmpfs (mount | grep shm).",
    "EISDIR": "The descriptor or the name is that of a directory, which cannot be read, written, resized or "
    "unlinked like a file. Name a file or a shared memory object.",
    "EINVAL": "An argument is out of range or contradicts another. Check: the length is not 0, the address "
    "and the offset are multiples of the page size (of the huge page size with MAP_HUGETLB), exactly one of "
    "MAP_SHARED and MAP_PRIVATE is set, and no flag or advice is newer than the kernel. ftruncate: the size "
    "is negative, or the object is not a file; on macOS an shm object is sized only once. F_ADD_SEALS, "
    "F_GET_SEALS: this kind of file has no seals, or the seal is unknown. memfd_create: over 249 bytes of "
    "name, or an unknown flag. readv, writev: over IOV_MAX buffers, or a sum of lengths over SSIZE_MAX. "
    "shm_open: a name with a second slash, or a long one. fchown: an id that the user namespace does not "
    "map.",
    "ENFILE": "The whole system is at its limit of open files. Close descriptors, or raise fs.file-max; "
    "cat /proc/sys/fs/file-nr shows the use and the limit.",
    "EMFILE": "This process is at its limit of open descriptors, or fcntl was asked for a number over "
    "that limit. Close descriptors (ls /proc/self/fd shows a leak), or raise RLIMIT_NOFILE (ulimit -n).",
    "ENOTTY": "The object behind the descriptor does not support this fcntl command. The command probably "
    "belongs to another system, or to another kind of file: check the descriptor with fstat.",
    "ETXTBSY": "The file is running as a program or serves as swap, so it cannot be written, resized or "
    "mapped for writing. Wait until it is no longer run, or write a new file and rename it into place.",
    "EFBIG": "The new size or the end of the write is over the largest file allowed: RLIMIT_FSIZE (ulimit "
    "-f, which also sends SIGXFSZ) or the limit of the file system. Check the number for a wrong unit, then "
    "raise the limit or use several objects.",
    "ENOSPC": "The file system is full, in bytes or in inodes. /dev/shm is a tmpfs of a fixed size, 64 MiB "
    "in a container by default: see df /dev/shm and df -i /dev/shm. Unlink old objects, enlarge it (docker "
    "--shm-size, or mount -o remount,size=) or use memfd_create, which does not count against it. A mapping "
    "of a full tmpfs gives SIGBUS, not this error: reserve the space by posix_fallocate.",
    "ESPIPE": "preadv and pwritev need an offset, and pipes, sockets and terminals have none. "
    "Use readv and writev.",
    "EROFS": "The file system is mounted read-only, as is usual for the root of a container. Mount a "
    "writable tmpfs there, or use memfd_create, which needs no mount.",
    "EPIPE": "The reading end of the pipe or socket is closed; SIGPIPE is sent too unless it is ignored. "
    "The peer is gone or stopped reading: close this end and connect again if needed.",
    "EDEADLK": "Waiting for this lock would be a deadlock: its holder waits for a lock of this process. "
    "Release all locks, then take them in the same order in every process.",
    "ENAMETOOLONG": "The name is too long: at most 255 bytes for a shared memory object on Linux with its "
    "leading slash not counted, 31 on macOS with it. Count bytes of UTF-8, not characters, and shorten it, "
    "for example to a hash.",
    "ENOLCK": "The kernel or the file server has no room for another record lock. Lock whole files instead "
    "of many ranges; on NFS check that the lock service runs.",
    "ENOSYS": "The kernel does not have this call, or a seccomp filter, such as that of a container, hides "
    "it. memfd_create needs Linux 3.17, preadv2 4.6; macOS has neither, and no mlockall. Use an older call "
    "(shm_open and shm_unlink at once instead of a memfd), or allow the call in the filter.",
    "ELOOP": "The name is a symbolic link, which shm_open never follows, or the links form a loop. "
    "Another user may have put it there: look at /dev/shm and remove it if it is not yours.",
    "EOVERFLOW": "A number does not fit its type: the size, inode or time of the file for fstat, offset "
    "plus length for mmap, a lock's range for fcntl. Check the offset; a 32-bit program must be built with "
    "_FILE_OFFSET_BITS=64.",
    "EOPNOTSUPP": "This file or file system does not support the request: MAP_SHARED_VALIDATE with a flag "
    "that it does not know (MAP_SYNC is for persistent memory), madvise MADV_REMOVE without support for "
    "holes, preadv2 or pwritev2 with an unknown flag such as RWF_NOWAIT, fchmod of an object without a mode. "
    "Omit the flag, or use a tmpfs or memfd.",
    "ENOTSUP": "The operation is not supported in this combination: on macOS, for example, a protection "
    "that the mapping may never have, such as writable code without MAP_JIT, or a fcntl command that the "
    "file system lacks. Ask for less access, or map again with the access that you need.",
    "EDQUOT": "The disk or tmpfs quota of this user or project is used up, in bytes or in inodes. Remove "
    "files, or have the quota raised (quota -s shows it). From close or msync: data written earlier was "
    "lost.",
    "EDESTADDRREQ": "The descriptor is a datagram socket without a peer, so writev has no destination. "
    "Connect it first, or use sendmsg with an address.",
    "EMSGSIZE": "The message is too large for this datagram or packet socket, which sends all or nothing. "
    "Check the total size, send fewer buffers at a time, or pass the descriptor of a region instead of its "
    "bytes.",
    "EPROTOTYPE": "On macOS: the socket was being torn down by its peer during the write. Treat it as a "
    "lost connection: try once more, which gives EPIPE, and connect again.",
    "ENETDOWN": "The network interface that the socket sends through is down. Bring it up (ip link) and "
    "call again.",
    "ENETUNREACH": "No route leads to the network of the socket's peer. Check the address and the routes "
    "(ip route), in a container those of its own namespace.",
    "EHOSTDOWN": "The peer's machine on the local network does not answer. Check that it runs, then connect "
    "again.",
    "EHOSTUNREACH": "A router or the local network reports that the peer's machine cannot be reached. Check "
    "its address, the firewall between, and that it is up.",
    "ECONNREFUSED": "No process listens at the address that the datagram socket is connected to; this call "
    "reports the refusal of an earlier message. Start the receiver, then send again.",
    "ECONNRESET": "The peer reset the connection, with data still unread or because it died. Data in flight "
    "is lost: close the socket, connect again and repeat the request if that is safe.",
    "ENOTCONN": "The socket has no peer yet, or no longer. Connect or accept first, and use that "
    "descriptor, not the listening one.",
    "ENOBUFS": "The network's queue or buffers are full. Wait briefly and send again, in smaller amounts.",
    "ETIMEDOUT": "The peer stopped acknowledging, and the connection was given up, or a lock or file server "
    "did not answer in time. Check the network and the other side, then connect again.",
    "ESTALE": "The file was removed or replaced on its server (such as NFS), so the descriptor is no longer "
    "valid. Close it and open the file by its name again.",
    "ECANCELED": "readv on a timerfd: the system's clock was set while the timer was waiting. Compute the "
    "remaining time and arm the timer again.",
    "EBADMSG": "The file system read a block whose checksum is wrong, or a device a broken message. The "
    "data cannot be trusted: check the file system (fsck) and restore from a copy.",
    "EUCLEAN": "The file system found its own structures damaged. Unmount it and repair it (fsck, "
    "xfs_repair) before you write to it again.",
    "EHWPOISON": "A page in the range sits on memory that the hardware reports as faulty, and its content "
    "is lost. Unmap the range and rebuild the data; replace the memory if dmesg shows more such reports.",
}
