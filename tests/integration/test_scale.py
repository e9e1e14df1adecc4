# SPDX-License-Identifier: Apache-2.0
"""Goal: thousands of connections that come and go, and a thousand that stay and do nothing beside two hundred that work, leave the
gateway's memory and descriptors as they were, and cost little while they stay; a want of descriptors neither ends it nor makes it
spin.
Method: the real gateway before nbdkit with one thread a connection; hosts by hand, ended in every manner there is; resident memory
and descriptors of the worker before, between and after. WEIR_SCALE: how many come and go (make soak: 10,000)."""
import os
import random
import resource
import socket
import struct
import time
import unittest

import rawnbd
import weirtest
from rawnbd import DISC, READ
from weirtest import wait_until

KIB = 1 << 10
IDLE, BUSY = 1000, 200
WARM, COMING = 500, int(os.environ.get("WEIR_SCALE", 3000))


def descriptors_of_ours(n):
    """Room for so many sockets in this process, where the system gives it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < n:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(n, hard), hard))
    if resource.getrlimit(resource.RLIMIT_NOFILE)[0] < n:
        raise unittest.SkipTest(f"{n} descriptors are not allowed here")


class Scale(unittest.TestCase):
    def setUp(self):
        self.world = weirtest.World()
        self.world.__enter__()
        self.addCleanup(self.world.__exit__, None, None, None)
        self.storage = self.world.nbdkit("-t", "1", "memory", "64M")

    def gateway(self, more=""):
        return self.world.gateway(config=f"[gateway]\nmax-connections = 2000\nmax-connections-per-host = 2000\n{more}"
                                         f"[listener l]\naddress = 127.0.0.1:0\ntarget = t\n[target t]\nuri = {self.storage.uri}\n")

    def active(self, gateway):
        return gateway.local(get="status")["status"]["connections"]["active"]

    def end(self, host, manner):
        if manner == "disc":
            host.send(DISC, 9)
        elif manner == "reset":
            host.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        elif manner == "unanswered":
            host.send(READ, 9, 0, 4096)
        host.sock.close()

    def test_thousands_of_connections_come_and_go(self):
        g, rng = self.gateway(), random.Random(4711)

        def some(count):
            for _ in range(count // 50):
                hosts = []
                for _ in range(50):
                    speaks = rng.random() < 0.5
                    hosts.append((rawnbd.Host(g.address, handshake=speaks), speaks))
                for h, speaks in hosts:
                    if speaks and rng.random() < 0.5:
                        h.send(READ, 1, 0, 4096)
                        h.reply(4096)
                    self.end(h, rng.choice(["disc", "reset", "close", "unanswered"] if speaks else ["reset", "close"]))
            wait_until(lambda: self.active(g) == 0, "every connection to end")
        some(WARM)
        descriptors, memory = g.descriptors(), g.rss_kib()
        some(COMING - WARM)
        self.assertLessEqual(g.descriptors(), descriptors + 2)
        self.assertLess(g.rss_kib() - memory, 2 * KIB)
        c = g.local(get="status")["status"]["connections"]
        self.assertEqual(c["accepted"], COMING)
        self.assertEqual(sum(c["closed"].values()), COMING)
        target = g.local(get="targets")["targets"][0]
        self.assertEqual((target["connections"], target["inflight"]), (0, 0))
        self.assertEqual(target["connects"], target["disconnects"])

    def test_a_thousand_idle_beside_two_hundred_busy_cost_little_and_give_it_all_back(self):
        descriptors_of_ours(IDLE + BUSY + 100)
        g = self.gateway()
        self.end(rawnbd.Host(g.address), "disc")
        wait_until(lambda: self.active(g) == 0, "the first to end")
        descriptors, empty = g.descriptors(), g.rss_kib()
        idle = []
        for _ in range(IDLE):
            h = rawnbd.Host(g.address)
            h.send(READ, 1, 0, 65536)
            h.reply(65536)
            idle.append(h)
        quiet = g.rss_kib()
        each = (quiet - empty) / IDLE
        print(f"an idle connection takes {each:.1f} KiB")
        self.assertLess(each, 48)
        busy = [rawnbd.Host(g.address) for _ in range(BUSY)]
        for turn in range(20):
            for i, h in enumerate(busy):
                for k in range(4):
                    h.send(READ, k, 4096 * i, 4096)
            for h in busy:
                for k in range(4):
                    h.reply(4096)
        self.assertLess(g.rss_kib() - quiet, BUSY * 128)
        for h in idle + busy:
            self.end(h, "close")
        wait_until(lambda: self.active(g) == 0, "every connection to end")
        self.assertLessEqual(g.descriptors(), descriptors + 2)
        # What 32 connections leave warm for the next ones.
        self.assertLess(g.rss_kib() - empty, 6 * KIB)

    def test_a_want_of_descriptors_neither_ends_nor_spins(self):
        g = self.gateway()
        first = rawnbd.Host(g.address)
        pid = g.pid
        limit = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (len(os.listdir(f"/proc/{pid}/fd")) + 1, limit[1]))
        waiting = [socket.create_connection(("127.0.0.1", g.port)) for _ in range(20)]

        def cpu():
            with open(f"/proc/{pid}/stat") as f:
                return sum(int(x) for x in f.read().rsplit(")", 1)[1].split()[11:13]) / os.sysconf("SC_CLK_TCK")
        before = cpu()
        end = time.monotonic() + 2
        while time.monotonic() < end:
            first.send(READ, 1, 0, 4096)
            first.reply(4096)
            time.sleep(0.05)
        self.assertLess(cpu() - before, 0.5, "a quarter of the time was spent on hosts that cannot be taken")
        resource.prlimit(pid, resource.RLIMIT_NOFILE, limit)
        h = rawnbd.Host(g.address)
        h.send(READ, 1, 0, 4096)
        self.assertEqual(h.reply(4096)[0], 1)
        for s in waiting:
            s.close()
        self.assertEqual(g.pid, pid)


if __name__ == "__main__":
    weirtest.main()
