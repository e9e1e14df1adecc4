# SPDX-License-Identifier: Apache-2.0
"""What the tests of the relay share: configurations, and a case with hosts and targets by hand (rawnbd) around a real gateway."""
import fcntl
import struct
import termios
import unittest

import nbd
import weirtest
from rawnbd import Host, Target
from weirtest import wait_until

MIB = 1 << 20


def config(target, *limits, gateway="", listener="address = 127.0.0.1:0"):
    """A file with one listener and one target; limits as 'key = value' lines joined by ';'."""
    text = f"[gateway]\n{gateway}\n[listener l]\n{listener}\ntarget = t\n[target t]\nuri = {target}\n"
    for i, limit in enumerate(limits):
        text += f"[limit l{i}]\n" + limit.replace(";", "\n") + "\n"
    return text


def sanitized(process):
    """Whether it is built with ASan, as a library (gcc) or inside (clang)."""
    with open(f"/proc/{process.pid}/exe", "rb") as f:
        return b"__asan_init" in f.read()


def waiting(sock):
    """Bytes that lie in a socket's receive queue."""
    return struct.unpack("i", fcntl.ioctl(sock, termios.FIONREAD, bytes(4)))[0]


class RelayCase(unittest.TestCase):
    def setUp(self):
        self.world = self.enterContext(weirtest.World()) if hasattr(self, "enterContext") else self.enter()

    def enter(self):
        world = weirtest.World()
        world.__enter__()
        self.addCleanup(lambda: world.__exit__(None, None, None))
        return world

    def target(self, **kw):
        t = Target(**kw)
        self.addCleanup(t.__exit__)
        return t

    def host(self, gateway, **kw):
        h = Host(gateway.address, **kw)
        self.addCleanup(h.sock.close)
        return h

    def client(self, uri):
        h = nbd.NBD()
        h.connect_uri(uri)
        return h

    def status(self, gateway):
        return gateway.local(get="status")["status"]

    def closed(self, gateway, reason):
        return self.status(gateway)["connections"]["closed"][reason]

    def wait_reason(self, gateway, reason, n=1):
        wait_until(lambda: self.closed(gateway, reason) >= n, f"{n} connections closed as {reason}")

    def wait_idle(self, gateway):
        wait_until(lambda: self.status(gateway)["connections"]["active"] == 0, "no connection left")

    def stream(self, gateway, volume="default"):
        return next(s for s in gateway.local(get="streams")["streams"] if s["volume"] == volume)

    def assert_nothing_in_flight(self, gateway):
        for s in gateway.local(get="streams")["streams"]:
            for op, c in s["counters"].items():
                self.assertEqual(c["arrivals"], c["completions"] + c["dropped"], f"{s['key']} {op}: {c}")
            self.assertEqual(s["heldNow"], 0)
        for t in gateway.local(get="targets")["targets"]:
            self.assertEqual(t["inflight"], 0)
