#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Goal: what the performance monitor owes 200 gateways at once: none is missing from a view because it moves, those that flood, stop
reading or are half-open cost the others nothing, and in the end every counter is there once.

Method: gateways played by bench/gwload over real sockets before one server of two pairs and several SLA processes; it is reloaded with
other numbers of both while views are read as fast as they come.
"""
import concurrent.futures
import os
import signal
import sys
import threading
import unittest
import urllib.parse

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import played  # noqa: E402
import weirtest  # noqa: E402

HALF, STREAMS = 100, 2


class Crowd(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.world = weirtest.World()
        cls.addClassCleanup(lambda: cls.world.__exit__(None, None, None))
        cls.conf = cls.world.path("server.conf")
        cls.write(2, 2)
        cls.server = cls.world.server("--config", cls.conf)
        key = os.path.join(cls.server.state_dir, "gateway.key")
        cls.load = []
        for i in range(2):
            one = played.Played(cls.server.control, key, HALF, "--first", i * HALF, "--streams", STREAMS, "--active", 1, "--net", i + 1)
            cls.addClassCleanup(one.close)
            cls.load.append(one)
            one.do("dial")

    @classmethod
    def write(cls, pairs, processes):
        with open(cls.conf, "w", encoding="ascii") as f:
            f.write(f"[server]\npairs = {pairs}\nsla-processes = {processes}\n")

    def setUp(self):
        weirtest.wait_until(lambda: self.server.get("/status")["gateways"] == 2 * HALF, "all to be admitted")
        weirtest.wait_until(lambda: len(self.names("streams", "key")) == 2 * HALF * STREAMS, "all streams to be known")

    def names(self, kind, field):
        status, headers, body = self.server.request("GET", f"/api/v1/{kind}?limit=10000")
        self.assertEqual(status, 200, body)
        self.assertNotIn("Weir-Incomplete", headers)
        return [i[field] for i in body["items"]]

    def metric(self, name):
        text = self.server.request("GET", "/metrics", raw=True)[2]
        return int(next(line.split()[1] for line in text.splitlines() if line.startswith(f"weir_monitor_{name} ")))

    def reload(self, pairs, processes):
        self.write(pairs, processes)
        self.server.popen.send_signal(signal.SIGHUP)

    def look(self, all_of, over):
        """Read views until it is over; what they missed."""
        missed = []
        while not over.is_set():
            for kind, field in (("gateways", "name"), ("gateways", "name"), ("gateways", "name"), ("streams", "key")):
                lost = set(all_of[kind]).symmetric_difference(self.names(kind, field))
                missed += sorted(lost)[:3]
                self.views += 1
            one = all_of["gateways"][self.views % len(all_of["gateways"])]
            status = self.server.request("GET", f"/api/v1/gateways/{urllib.parse.quote(one)}")[0]
            missed += [f"{one}: {status}"] * (status != 200)
        return missed

    def test_a_gateway_that_moves_is_in_every_view(self):
        all_of = {"gateways": sorted(self.names("gateways", "name")), "streams": sorted(self.names("streams", "key"))}
        self.views, moves, over = 0, self.metric("moves_total"), threading.Event()
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            lookers = [pool.submit(self.look, all_of, over) for _ in range(2)]
            try:
                for pairs, processes in ((1, 1), (2, 3), (1, 2), (2, 1), (2, 2)) * 3:
                    before = self.metric("moves_total")
                    self.reload(pairs, processes)
                    weirtest.wait_until(lambda: self.metric("moves_total") > before, "gateways to move", step=0.002)
                    weirtest.wait_until(lambda: self.metric("moving_now") == 0, "them to arrive", step=0.002)
            finally:
                over.set()
            missed = [m for x in lookers for m in x.result()]
        self.assertEqual(missed, [], "what some view did not have")
        print(f"{self.views} views while {self.metric('moves_total') - moves} gateways moved", flush=True)

    def counted(self):
        low = sum(x.report()["ios"] for x in self.load)
        got = sum(s["counters"]["read"]["arrivals"] + s["counters"]["write"]["arrivals"] for s in self.server.items("/streams?limit=10000"))
        high = sum(x.report()["ios"] for x in self.load)
        return low - 2 * HALF * STREAMS * 100 <= got <= high

    def test_floods_half_open_peers_and_deaf_ones_cost_the_others_nothing(self):
        troubled, calm = self.load
        ended = self.metric("ended_protocol_total")
        calm.do("mark")
        troubled.do("deaf", 20)
        troubled.do("half", 10)
        troubled.do("flood", 30, 6000)  # more than a second's worth: those are ended, and come again
        weirtest.wait_until(lambda: self.metric("ended_protocol_total") > ended, "those that flood to be ended")
        troubled.do("flood", 30, 500)
        self.reload(1, 2)
        weirtest.wait_until(lambda: calm.report()["answers"] > 3 * HALF, "the others to be polled all the while")
        report = calm.report()
        self.assertEqual((report["up"], report["drops"], report["byes"], report["refusals"]), (HALF, 0, 0, 0), "the others stand")
        troubled.do("heal")
        troubled.do("dial")
        troubled.wait_up(patience=weirtest.PATIENCE * 2)
        weirtest.wait_until(lambda: self.server.get("/status")["gateways"] == 2 * HALF, "all to be admitted again")
        weirtest.wait_until(self.counted, "every counter to be there, once")


if __name__ == "__main__":
    weirtest.main()
