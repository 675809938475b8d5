"""The process in which a model's program runs. It first takes away from itself all that a program does not need.

Resource limits bound time, memory, file sizes and open files. A seccomp filter answers EPERM to sockets, new processes,
programs, signals to others, tracing, mounts and namespaces. Landlock, where the kernel has it, forbids writing outside
the working folder; where it has not and we are root, we become nobody, who may write almost nowhere.
"""

import ctypes
import io
import json
import os
import platform
import resource
import struct
import sys

_MEMORY = 1 << 30
_FILE = 1 << 20
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _FILTER_MODE = 38, 22, 2
_ALLOW, _EPERM, _ENOSYS, _KILL = 0x7FFF0000, 0x00050001, 0x00050026, 0x80000000
_LOAD, _EQUAL, _RETURN, _AND = 0x20, 0x15, 0x06, 0x54
_CLONE_THREAD = 0x00010000
_CLONE3 = 435  # refused as unknown: then threads are made by clone, whose flags a filter can see
# Numbers of the calls that are refused: socket, connect, bind, fork, vfork, execve, execveat, kill, tkill,
# tgkill, ptrace, mount, unshare, setns, process_vm_writev, bpf, io_uring_setup, keyctl, pidfd_send_signal.
_REFUSED = {
    "x86_64": (
        0xC000003E,
        56,
        (41, 42, 49, 57, 58, 59, 322, 62, 200, 234, 101, 165, 272, 308, 311, 321, 425, 250, 424),
    ),
    "aarch64": (0xC00000B7, 220, (198, 203, 200, 221, 281, 129, 130, 131, 117, 40, 97, 268, 271, 280, 425, 219, 424)),
}
_LANDLOCK_WRITE = 0b1111111111110010 & ~0b1100  # all rights of ABI 3 but executing and reading files and folders


def _limit(seconds: int) -> None:
    for what, most in (
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_AS, _MEMORY),
        (resource.RLIMIT_FSIZE, _FILE),
        (resource.RLIMIT_NOFILE, 32),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(what, (most, most))


def _check(result: int, what: str) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), what)
    return result


def _confine_writes(libc: ctypes.CDLL) -> bool:
    """Landlock: write only below the working folder. False where the kernel has none."""
    handled = ctypes.create_string_buffer(struct.pack("=Q", _LANDLOCK_WRITE & 0x1FFF))
    ruleset = libc.syscall(444, handled, 8, 0)
    if ruleset < 0:
        return False
    folder = os.open(".", os.O_PATH | os.O_DIRECTORY)
    rule = ctypes.create_string_buffer(struct.pack("=Qi", _LANDLOCK_WRITE & 0x1FFF, folder))
    _check(libc.syscall(445, ruleset, 1, rule, 0), "landlock_add_rule")
    _check(libc.syscall(446, ruleset, 0), "landlock_restrict_self")
    return True


def _become_nobody() -> None:
    if os.getuid() != 0:
        raise OSError("writing could not be confined: the kernel has no Landlock, and we are not root")
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)


def _refuse_calls(libc: ctypes.CDLL) -> None:
    machine, clone, numbers = _REFUSED[platform.machine()]
    program = [(_LOAD, 0, 0, 4), (_EQUAL, 1, 0, machine), (_RETURN, 0, 0, _KILL), (_LOAD, 0, 0, 0)]
    for number in numbers:
        program += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _EPERM)]
    program += [(_EQUAL, 0, 1, _CLONE3), (_RETURN, 0, 0, _ENOSYS)]
    # clone without CLONE_THREAD makes a process; its flags are the first argument, at byte 16.
    program += [(_EQUAL, 0, 4, clone), (_LOAD, 0, 0, 16), (_AND, 0, 0, _CLONE_THREAD), (_EQUAL, 0, 1, 0)]
    program += [(_RETURN, 0, 0, _EPERM), (_RETURN, 0, 0, _ALLOW)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *line) for line in program))
    header = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(program), ctypes.addressof(code)))
    _check(libc.prctl(_PR_SET_SECCOMP, _FILTER_MODE, header, 0, 0), "seccomp")


def main() -> None:
    """Read one job, lock the door, run it; exit status 3: the door could not be locked."""
    job = json.loads(sys.stdin.buffer.read())
    answers = os.dup(1)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        _check(libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
        if not _confine_writes(libc):
            _become_nobody()
        _limit(job["seconds"])
        _refuse_calls(libc)
    except Exception as error:  # noqa: BLE001 - any failure means: do not run
        os.write(answers, repr(error).encode())
        os._exit(3)
    sys.stdin = io.StringIO(job["stdin"])
    namespace: dict[str, object] = {"__name__": "__main__"}
    exec(compile(job["program"], "<program>", "exec"), namespace)  # noqa: S102 - what all this is for
    if job["tests"]:
        exec(compile(job["tests"], "<tests>", "exec"), namespace)  # noqa: S102
    sys.stdout.flush()
    # The program's namespace does not hold the token; one that climbs the stack for it could still take it.
    os.write(answers, f"\n{job['token']}\n".encode())


if __name__ == "__main__":
    main()
