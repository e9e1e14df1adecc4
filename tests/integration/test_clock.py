#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Goal: the wall clock may step, forwards and back, at any time: no I/O waits longer or less for it, no promise, control or sample is
lost, and what the server wrote stays readable.

Method: libfaketime moves the wall clock of both daemons, which read it from a file; the monotonic clock goes on by itself. The
sandbox is off, since it knows nothing of that library's files.
"""

import glob
import json
import os
import sys
import threading
import time
import unittest

import nbd

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import weirtest  # noqa: E402
from weirtest import wait_until  # noqa: E402

STEPS = ("+3600", "-3600", "+90000", "-31536000", "+0")


class Steps(unittest.TestCase):
    def setUp(self):
        found = glob.glob("/usr/lib/*/faketime/libfaketimeMT.so.1")
        self.assertTrue(found, "libfaketime is not installed")
        self.world = weirtest.World()
        self.addCleanup(self.world.__exit__, None, None, None)
        self.clock = self.world.path("clock")
        self.step("+0")
        self.fake = {"LD_PRELOAD": found[0], "FAKETIME_TIMESTAMP_FILE": self.clock, "FAKETIME_NO_CACHE": "1",
                     "DONT_FAKE_MONOTONIC": "1", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
        self.storage = self.world.nbdkit("memory", "16M")

    def step(self, offset):
        new = self.clock + ".new"
        with open(new, "w") as f:
            f.write(offset + "\n")
        os.rename(new, self.clock)

    def under_fake_time(self, start):
        """What @start starts lives by the clock of this test."""
        kept = {k: os.environ.get(k) for k in self.fake}
        os.environ.update(self.fake)
        try:
            return start()
        finally:
            for k, v in kept.items():
                os.environ.pop(k) if v is None else os.environ.__setitem__(k, v)

    def start_server(self, **kw):
        return self.under_fake_time(lambda: self.world.server("--no-sandbox", **kw))

    def start_gateway(self, **kw):
        return self.under_fake_time(lambda: self.world.gateway("--no-sandbox", **kw))

    def host(self, gateway):
        h = nbd.NBD()
        h.connect_uri(gateway.uri())
        return h

    def test_io_held_for_a_limit_waits_neither_longer_nor_less(self):
        g = self.start_gateway(config=(
            "[gateway]\nmax-hold = 60s\n[listener l]\naddress = 127.0.0.1:0\ntarget = t\n"
            f"[target t]\nuri = {self.storage.uri}\n[limit slow]\niops = 20\nburst-iops = 21\nburst-for = 1s\n"))
        h, done, failed = self.host(g), [], []

        def write():
            """Four under way, so that one is held however long an answer takes on this machine."""
            flying = []
            try:
                for i in range(100):
                    flying.append((i, h.aio_pwrite(nbd.Buffer.from_bytearray(bytearray([i]) * 4096), i * 4096)))
                    while len(flying) > (3 if i < 99 else 0):
                        h.poll(-1)
                        ended = [x for x in flying if h.aio_command_completed(x[1])]
                        flying = [x for x in flying if x not in ended]
                        done.extend(x[0] for x in ended)
            except nbd.Error as e:
                failed.append(e)
        began = time.monotonic()
        writer = threading.Thread(target=write)
        writer.start()
        for n, offset in enumerate(STEPS):
            wait_until(lambda n=n: failed or len(done) > 15 * n, "I/O to go on")
            self.step(offset)
        writer.join(weirtest.PATIENCE * 2)
        took = time.monotonic() - began
        self.assertEqual((failed, len(done)), ([], 100))
        # 100 at 20 a second, some of them saved up: no clock makes a limit let more through.
        self.assertGreater(took, 3.5)
        for i in range(100):
            self.assertEqual(h.pread(4096, i * 4096), bytes([i]) * 4096)
        s = g.local(get="streams")["streams"][0]
        self.assertGreater(s["counters"]["write"]["held"], 50)
        self.assertEqual(s["counters"]["write"]["errors"], 0)
        self.assertLess(s["latency"]["held"]["maxUs"], 60e6)
        self.assertLess(s["latency"]["total"]["maxUs"], 120e6)
        h.shutdown()

    def reports(self, server):
        lines = server.request("GET", "/metrics", raw=True)[2].splitlines()
        return sum(int(float(line.rsplit(" ", 1)[1])) for line in lines
                   if line.startswith("weir_monitor_reports_total"))

    def limit(self, server, iops):
        server.put("/agreements/slow", {"kind": "Agreement", "name": "slow", "appliesTo": {"volume": "*"}, "limit": {"iops": iops}})

    def in_force(self, gateway, iops):
        return any(c.get("iops") == iops or f'"iops": {iops}' in json.dumps(c)
                   for c in gateway.local(get="controls")["controls"])

    def wait_limit(self, server, gateway, iops):
        self.limit(server, iops)
        wait_until(lambda: self.in_force(gateway, iops), f"{iops} IOPS in force at the gateway", weirtest.PATIENCE * 2)

    def test_the_server_polls_decides_and_keeps_what_it_saw(self):
        port = f"127.0.0.1:{weirtest.free_port()}"
        server = self.start_server(control=port)
        g = self.start_gateway(target=self.storage.uri, server=server, name="gw")
        h = self.host(g)
        h.pwrite(bytes(4096), 0)
        self.wait_limit(server, g, 1000)
        for n, offset in enumerate(STEPS):
            self.step(offset)
            seen = self.reports(server)
            wait_until(lambda seen=seen: self.reports(server) >= seen + 3, f"polls to go on after a step to {offset}")
            h.pwrite(bytes([n]) * 4096, 0)
            self.wait_limit(server, g, 2000 + n)
            self.assertEqual([x["state"] for x in server.items("/gateways")], ["admitted"])
        # The server ends, its clock is a year behind when it comes back, and it is still the one that says what holds.
        self.assertEqual(server.stop(), 0)
        self.step("-31536000")
        server = self.start_server(state_dir=server.state_dir, control=port)
        wait_until(lambda: [x["state"] for x in server.items("/gateways")] == ["admitted"], "the gateway to come back")
        self.wait_limit(server, g, 3000)
        self.assertEqual(bytes(h.pread(4096, 0)), bytes([len(STEPS) - 1]) * 4096)
        kinds = [e["kind"] for e in server.items("/events?limit=500")]
        self.assertIn("gateway-admitted", kinds)
        self.assertEqual(g.stop(), 0)
        self.assertEqual(server.stop(), 0)


if __name__ == "__main__":
    weirtest.main()
