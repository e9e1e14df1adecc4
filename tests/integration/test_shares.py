# SPDX-License-Identifier: Apache-2.0
"""Goal: on the real path, at a target that is busy, weights divide and a reservation is kept, without a server and without harm to
any I/O; and without shares nothing waits for its turn.
Method: the demo's device (a few servers, one queue) in nbdkit; a gateway that starts with agreed shares in its state folder, as an
earlier life would have left them, and whose server does not answer; hosts by hand, each keeping requests under way on a volume of
its own. What is compared are the hosts' own counts, with room for a machine that is busy with other things."""
import hashlib
import os
import threading
import time
import unittest

import controlwire
import loads
import rawnbd
import weirtest
from rawnbd import READ, WRITE

PLUGIN = os.path.join(weirtest.BUILD, "demo", "nbdkit-device-plugin.so")
BLOCK = 4096


class Load(loads.Load):
    """Keeps `depth` requests under way, or sends one each `every` seconds; notes when each was answered and how long it took."""

    def __init__(self, gateway, volume, depth=0, every=0.0, kind=READ, size=BLOCK):
        super().__init__(gateway, volume)
        self.kind, self.size, self.depth, self.every = kind, size, depth, every
        self.asked, self.took, self.at = {}, [], []
        self.last, self.cookie = threading.Event(), 0

    def ask(self, last=False):
        self.cookie += 1
        self.asked[self.cookie] = time.monotonic()
        if last:  # nothing is asked for any more once what is asked for was answered
            self.last.set()
        payload = bytes([self.cookie % 256]) * self.size if self.kind == WRITE else b""
        self.host.send(self.kind, self.cookie, self.cookie * self.size % (16 << 20), self.size, payload=payload)

    def pace(self):
        while not self.ending.is_set():
            self.ask()
            time.sleep(self.every)
        self.ask(last=True)  # so that who waits for an answer gets one

    def play(self):
        for _ in range(self.depth):
            self.ask()
        if self.every:
            threading.Thread(target=self.pace, daemon=True).start()
        while not (self.ending.is_set() and not self.asked and self.last.is_set() == (self.every > 0)):
            cookie, error, _ = self.host.reply(self.size if self.kind == READ else 0)
            now = time.monotonic()
            if error:
                raise AssertionError(f"request {cookie} failed with {error}")
            self.took.append(now - self.asked.pop(cookie))  # KeyError: answered twice, or never asked
            self.at.append(now)
            if self.depth and not self.ending.is_set():
                self.ask()

    def between(self, begin, end):
        return [t for t, at in zip(self.took, self.at) if begin <= at < end]


class Shares(unittest.TestCase):
    def setUp(self):
        self.world = weirtest.World()
        self.world.__enter__()
        self.addCleanup(self.world.__exit__, None, None, None)

    def gateway(self, shares, parallel=4):
        """A device of `parallel` servers at 4 ms each, and a gateway before it with agreed shares by volume."""
        weirtest.need("nbdkit")
        storage = self.world.nbdkit("-t", "256", PLUGIN, f"parallel={parallel}", "service=4000", "jitter=30", "export=a", "export=b",
                                    "size=64M")
        state = self.world.path("state")
        os.makedirs(state, mode=0o700)
        controls = [dict(id=f"agreement/{volume}", members=[f"127.0.0.1/{volume}"], share=share) for volume, share in shares.items()]
        frames = controlwire.frame("set_controls", dict(epoch=1, controls=controls)) if controls else b""
        with open(os.path.join(state, "controls"), "wb") as f:
            f.write(b"WEIRCTL1" + hashlib.blake2b(frames, digest_size=32).digest() + frames)
        key = self.world.path("key")
        with open(key, "w") as f:
            f.write("00" * 32)
        os.chmod(key, 0o600)
        return self.world.gateway("--server", f"127.0.0.1:{weirtest.free_port()}", "--key-file", key,
                                  target=storage.uri, state_dir=state)

    def run_loads(self, loads, warm, seconds):
        for load in loads:
            load.start()
        time.sleep(warm)
        begin = time.monotonic()
        time.sleep(seconds)
        end = time.monotonic()
        for load in loads:  # all at once: what the others ask for meanwhile may leave one little
            load.ending.set()
        for load in loads:
            load.finish()
        return [load.between(begin, end) for load in loads]

    def test_a_slow_target_is_divided_by_weight(self):
        g = self.gateway({"a": dict(weight=100), "b": dict(weight=300)})
        a, b = self.run_loads([Load(g, b"a", depth=32), Load(g, b"b", depth=32)], 2, 6)
        print(f"weights 1:3 got {len(a)}:{len(b)}, a ratio of {len(b) / len(a):.2f}")
        self.assertGreater(len(b) / len(a), 2.5)
        self.assertLess(len(b) / len(a), 3.5)

    def test_large_writes_and_small_reads_divide_the_time_and_not_the_count(self):
        g = self.gateway({"a": dict(weight=100), "b": dict(weight=100)})
        a, b = self.run_loads([Load(g, b"a", depth=32), Load(g, b"b", depth=32, kind=WRITE, size=256 << 10)], 2, 4)
        print(f"reads of 4 KiB and writes of 256 KiB got {len(a)} and {len(b)}")
        self.assertGreater(len(a), len(b))  # a write of 256 KiB takes this device longer
        self.assertGreater(len(b), 0)

    def test_a_reservation_is_kept_beside_a_bully(self):
        g = self.gateway({"a": dict(weight=1, reserve_iops=300, latency_us=50000), "b": dict(weight=1000)})
        a, b = self.run_loads([Load(g, b"a", every=0.005), Load(g, b"b", depth=128)], 2, 6)
        mean = sum(a) / len(a)
        print(f"some 200 a second asked for, {len(a) / 6:.0f} got, mean {mean * 1e3:.1f} ms beside {len(b) / 6:.0f} of the bully")
        # In the device's own queue it would stand behind 128 others: 128 ms.
        self.assertLess(mean, 0.05)
        self.assertGreater(len(b), 0)

    def test_what_is_reserved_for_reads_does_nothing_for_writes(self):
        g = self.gateway({"a": dict(weight=10, reserve_read_iops=300), "b": dict(weight=1000)})
        r, w, b = self.run_loads([Load(g, b"a", depth=32), Load(g, b"a", depth=32, kind=WRITE), Load(g, b"b", depth=64)], 2, 3)
        print(f"{len(r) / 3:.0f} reads and {len(w) / 3:.0f} writes a second of one stream beside {len(b) / 3:.0f} of the bully")
        self.assertGreater(len(r), 3 * len(w))
        self.assertGreater(len(b), 0)

    def test_without_a_share_all_goes_to_the_target_at_once(self):
        g = self.gateway({})
        a, b = self.run_loads([Load(g, b"a", depth=16), Load(g, b"b", depth=48)], 1, 3)
        print(f"depths 16 and 48 without shares got {len(a)}:{len(b)}")
        self.assertGreater(len(b) / len(a), 2)  # the device's one queue gives most to whoever asks most


if __name__ == "__main__":
    weirtest.main()
