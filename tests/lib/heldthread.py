# SPDX-License-Identifier: Apache-2.0
"""One thread of a program stands still, and no other: by ptrace, as a debugger does it."""
import contextlib
import ctypes
import os
import unittest

SEIZE, INTERRUPT, DETACH = 0x4206, 0x4207, 17
WAIT_ALL = 0x40000000  # __WALL: threads too


def ptrace(request, tid):
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.ptrace(request, tid, None, None) < 0:
        raise OSError(ctypes.get_errno(), "ptrace")


def thread_of(pid, name):
    for tid in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{tid}/comm", encoding="ascii") as f:
            if f.read().strip() == name:
                return int(tid)
    raise LookupError(name)


@contextlib.contextmanager
def held(pid, name):
    """While it lasts the thread @name of @pid does nothing. The test is left out where the kernel forbids it."""
    tid = thread_of(pid, name)
    try:
        ptrace(SEIZE, tid)
    except PermissionError as e:
        raise unittest.SkipTest("ptrace is not allowed here") from e
    try:
        ptrace(INTERRUPT, tid)
        os.waitpid(tid, WAIT_ALL)
        yield
    finally:
        ptrace(DETACH, tid)
