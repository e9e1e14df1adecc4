# SPDX-License-Identifier: Apache-2.0
"""Goal: a client that reconnects by itself never learns that the gateway's worker died: no error, no byte lost or altered.
Method: qemu's NBD driver with reconnect-delay and nbdkit's retry filter before the real gateway; a writer on each that verifies
what it wrote, while the worker is killed and stopped again and again."""
import os
import random
import signal
import threading
import time
import unittest

import nbd
import weirtest

BLOCK, BLOCKS = 16384, 128  # of each client
# Kill, or hang till the manager finds out; another worker serves before the next.
BLOWS = (signal.SIGKILL, signal.SIGSTOP, signal.SIGKILL, signal.SIGKILL, signal.SIGSTOP)

CONF = """
[gateway]
name = gw
worker-timeout = 2s
[listener l]
address = 127.0.0.1:0
target = t
[target t]
uri = {uri}
"""


class Writer(threading.Thread):
    """Writes blocks that name their place and version, and reads others back, till told to end; then verifies every block."""

    def __init__(self, name, socket_path, first, seed):
        super().__init__(name=name, daemon=True)
        self.socket_path, self.first, self.rng = socket_path, first, random.Random(seed)
        self.version = [0] * BLOCKS
        self.done, self.error, self.end = 0, None, threading.Event()

    def block(self, i):
        if self.version[i] == 0:
            return bytes(BLOCK)
        return (self.at(i) << 32 | self.version[i]).to_bytes(16, "big") * (BLOCK // 16)

    def at(self, i):
        return (self.first + i) * BLOCK

    def verify(self, h, i):
        if h.pread(BLOCK, self.at(i)) != self.block(i):
            raise AssertionError(f"block {i} is not what was written, version {self.version[i]}")

    def run(self):
        try:
            h = nbd.NBD()
            h.connect_unix(self.socket_path)
            while not self.end.is_set():
                i = self.rng.randrange(BLOCKS)
                self.version[i] += 1
                h.pwrite(self.block(i), self.at(i))
                self.verify(h, self.rng.choice((i, self.rng.randrange(BLOCKS))))
                self.done += 1
            h.flush()
            for i in range(BLOCKS):
                self.verify(h, i)
            h.shutdown()
        except (nbd.Error, AssertionError) as e:
            self.error = e


class Reconnect(unittest.TestCase):
    def setUp(self):
        weirtest.need("qemu-storage-daemon", "nbdkit")
        self.world = weirtest.World()
        self.world.__enter__()
        self.addCleanup(self.world.__exit__, None, None, None)
        self.target = self.world.nbdkit("memory", str(2 * BLOCK * BLOCKS))
        self.gateway = self.world.gateway(config=CONF.format(uri=self.target.uri))

    def start(self, name, *argv):
        p, path = weirtest.Process(self.world, name, argv), self.world.path(name + ".sock")
        weirtest.wait_until(lambda: os.path.exists(path) or not p.alive(), f"{name}'s socket")
        return path

    def qemu(self):
        return self.start(
            "qemu", "qemu-storage-daemon",
            "--blockdev", f"driver=nbd,node-name=n,server.type=inet,server.host=127.0.0.1,server.port={self.gateway.port},"
                          "export=qemu,reconnect-delay=60",
            "--nbd-server", f"addr.type=unix,addr.path={self.world.path('qemu.sock')}",
            "--export", "type=nbd,id=e,node-name=n,name=,writable=on")

    def nbdkit(self):
        return self.start(
            "retry", "nbdkit", "-f", "-U", self.world.path("retry.sock"), "--filter=retry", "nbd",
            f"uri={self.gateway.uri('retry')}", "retries=60", "retry-delay=1", "retry-exponential=no")

    def strike(self, blow):
        g = self.gateway
        if blow == signal.SIGKILL:
            g.kill_worker()
            return
        g.deaths_expected, old = True, g.pid
        os.kill(old, signal.SIGSTOP)
        g.wait_worker(old)

    def go_on(self, writers):
        """Each is to get on by so many blocks: all of them have live connections then."""
        for w, begin in [(w, w.done) for w in writers]:
            weirtest.wait_until(lambda: w.done >= begin + 50 or w.error, f"{w.name} to go on, seed {self.seed}", step=0.01)
            self.assertIsNone(w.error, f"{w.name} after {w.done} blocks, seed {self.seed}")

    def test_clients_that_reconnect_see_no_death(self):
        self.seed = random.randrange(1 << 31)
        writers = [Writer("qemu", self.qemu(), 0, self.seed), Writer("nbdkit", self.nbdkit(), BLOCKS, self.seed + 1)]
        for w in writers:
            w.start()
        self.go_on(writers)
        rng = random.Random(self.seed + 2)
        for blow in BLOWS:
            time.sleep(rng.uniform(0, 0.1))  # anywhere in an I/O
            self.strike(blow)
            self.go_on(writers)
        for w in writers:
            w.end.set()
        for w in writers:
            w.join(weirtest.PATIENCE)
            self.assertFalse(w.is_alive(), f"{w.name} hangs, seed {self.seed}")
            self.assertIsNone(w.error, f"{w.name} after {w.done} blocks, seed {self.seed}")
        status = self.gateway.local(get="status")["status"]
        # More only where the machine itself kept a worker from running for that long.
        self.assertGreaterEqual(status["manager"]["deaths"], len(BLOWS))
        self.assertGreaterEqual(status["manager"]["hangs"], BLOWS.count(signal.SIGSTOP))
        self.assertGreaterEqual(status["connections"]["closed"]["worker-lost"], len(BLOWS) * len(writers),
                                "each blow met a live connection of each")


if __name__ == "__main__":
    weirtest.main()
