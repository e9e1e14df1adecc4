# SPDX-License-Identifier: Apache-2.0
"""Goal: on the real path, at a target that is busy, weights divide and a reservation is kept, without a server and without harm to
any I/O; and without shares nothing waits for its turn.
Method: the demo's device (a few servers, one queue) in nbdkit; a gateway that starts with agreed shares in its state folder, as an
earlier life would have left them, and whose server does not answer; hosts by hand, each keeping requests under way on a volume of
its own. What is compared are the hosts' own counts of some seconds. A machine that is busy with other things may not let hosts
ask enough in those; they go on until there were seconds in which what is promised is seen, and what is never kept is never seen."""
import bisect
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
            self.at.append(now)  # after the other: it says how many there are
            if self.depth and not self.ending.is_set():
                self.ask()

    def latest(self, seconds):
        """How long each took of those answered in the last seconds."""
        return self.took[bisect.bisect_left(self.at, time.monotonic() - seconds):len(self.at)]


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

    def play(self, loads, warm, seconds, what, judge):
        """All at work, until @judge of the last @seconds of each says yes for as long again (what was before @warm seconds does
        not count)."""
        for load in loads:
            load.start()
        begin = time.monotonic()

        def judged():
            if any(load.failed for load in loads):
                return True  # told when it ends
            seen[:] = [load.latest(seconds) for load in loads]
            now = time.monotonic()
            if now - begin <= warm + seconds or not all(seen) or not judge(*seen):
                since[0] = now
            return now - since[0] >= seconds
        seen, since = [], [begin]
        try:
            weirtest.wait_until(judged, what, patience=2 * weirtest.PATIENCE, step=0.25)
        except AssertionError as e:
            raise AssertionError(f"{e}; in the last {seconds} s there were {list(map(len, seen))}") from e
        for load in loads:  # all at once: what the others ask for meanwhile may leave one little
            load.ending.set()
        for load in loads:
            load.finish()
        print(f"{what}: {':'.join(str(len(x)) for x in seen)} in {seconds} s")
        return seen

    def test_a_slow_target_is_divided_by_weight(self):
        g = self.gateway({"a": dict(weight=100), "b": dict(weight=300)})
        self.play([Load(g, b"a", depth=32), Load(g, b"b", depth=32)], 2, 4, "weights of 1:3 to be followed",
                  lambda a, b: 2.5 < len(b) / len(a) < 3.5)

    def test_large_writes_and_small_reads_divide_the_time_and_not_the_count(self):
        g = self.gateway({"a": dict(weight=100), "b": dict(weight=100)})
        # A write of 256 KiB takes this device longer than a read of 4 KiB.
        self.play([Load(g, b"a", depth=32), Load(g, b"b", depth=32, kind=WRITE, size=256 << 10)], 2, 4,
                  "more small reads than large writes", lambda a, b: len(a) > len(b))

    def test_a_reservation_is_kept_beside_a_bully(self):
        g = self.gateway({"a": dict(weight=1, reserve_iops=300, latency_us=50000), "b": dict(weight=1000)})
        # In the device's own queue it would stand behind 128 others: 128 ms.
        a, _ = self.play([Load(g, b"a", every=0.005), Load(g, b"b", depth=128)], 2, 4, "a reservation kept within 50 ms",
                         lambda a, b: sum(a) / len(a) < 0.05)
        print(f"a mean of {sum(a) / len(a) * 1e3:.1f} ms")

    def test_what_is_reserved_for_reads_does_nothing_for_writes(self):
        g = self.gateway({"a": dict(weight=10, reserve_read_iops=300), "b": dict(weight=1000)})
        self.play([Load(g, b"a", depth=32), Load(g, b"a", depth=32, kind=WRITE), Load(g, b"b", depth=64)], 2, 3,
                  "thrice as many reads, which are reserved, as writes", lambda r, w, b: len(r) > 3 * len(w))

    def test_without_a_share_all_goes_to_the_target_at_once(self):
        g = self.gateway({})
        # The device's one queue gives most to whoever asks most.
        self.play([Load(g, b"a", depth=16), Load(g, b"b", depth=48)], 1, 3, "depths 16 and 48 to be followed",
                  lambda a, b: len(b) / len(a) > 2)


if __name__ == "__main__":
    weirtest.main()
