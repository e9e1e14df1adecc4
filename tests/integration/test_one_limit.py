# SPDX-License-Identifier: Apache-2.0
"""Goal: one limit holds over two gateways on the real path: demand that moves between them, a gateway and a server that die, an
agreement that changes under load; and over gateways that two SLA processes control.
Method: the demo's device behind two gateways (tests/lib/twogateways.py), fio as clients. A limit is far below what any machine does,
and only ever looked at from above; no speed is asserted, so other tests may load the machine beside."""
import os
import signal
import unittest

import weirtest
from twogateways import LONG, PLUGIN, TwoGatewaysCase, fio


def cap(iops):
    return {"kind": "Agreement", "name": "cap", "appliesTo": {"volume": "part*"}, "limit": {"iops": iops}}


class OneLimit(TwoGatewaysCase):
    def test_a_limit_follows_the_demand_and_its_change_and_outlives_a_gateway_and_the_server(self):
        self.start()
        self.server.put("/agreements/cap", cap(300))
        one = fio(self.world, self.gateways[0], "part1", "--rw=randread", "--bs=4k", "--iodepth=8")
        weirtest.wait_until(lambda: self.stream("part1"), "the first stream to be seen")
        weirtest.wait_until(lambda: self.stream("part1")["iops"] > 200, "the whole limit where the demand is", LONG)
        self.assertLess(self.rate("part1"), 1.15 * 300)
        # The demand moves.
        two = fio(self.world, self.gateways[1], "part2", "--rw=randread", "--bs=4k", "--iodepth=8")
        one.stop(signal.SIGINT)
        weirtest.wait_until(lambda: (self.stream("part2") or {"iops": 0})["iops"] > 200, "the limit to move with the demand", LONG)
        self.assertLess(self.rate("part1", "part2"), 1.15 * 300)
        # Both at once: together no more.
        one = fio(self.world, self.gateways[0], "part1", "--rw=randread", "--bs=4k", "--iodepth=8")
        weirtest.wait_until(lambda: min(self.stream(v)["iops"] for v in ("part1", "part2")) > 100, "each to have its part", LONG)
        self.assertLess(self.rate("part1", "part2"), 1.15 * 300)
        # The agreement changes under load.
        self.server.put("/agreements/cap", cap(600))
        weirtest.wait_until(lambda: sum(self.stream(v)["iops"] for v in ("part1", "part2")) > 450, "the new limit to hold", LONG)
        self.assertLess(self.rate("part1", "part2"), 1.15 * 600)
        self.assertEqual(self.server.get("/agreements/cap")["status"]["version"], 2)
        # The server dies: what was agreed goes on.
        self.server.kill()
        before = self.done("part1")
        weirtest.wait_until(lambda: self.done("part1") > before + 100, "I/O to go on without the server", LONG)
        self.server = self.start_server(state_dir=self.server.state_dir, control=self.server.control)
        self.wait_admitted(2)
        self.assertLess(self.rate("part1", "part2"), 1.15 * 600)
        # A gateway dies: the other goes on with no more than its part and what the dead one leaves.
        self.gateways[1].kill()
        weirtest.wait_until(lambda: [g for g in self.server.items("/gateways") if g["state"] == "lost"], "the loss to be seen")
        self.assertLess(self.rate("part1"), 1.15 * 600)
        weirtest.wait_until(lambda: self.rate("part1", seconds=1) > 100, "the part of the one that is left", LONG)
        self.assertTrue(one.alive())
        two.stop(signal.SIGINT)


class TwoProcesses(unittest.TestCase):
    """Two storages, so that their gateways are at two SLA processes, and one limit over both."""

    def setUp(self):
        weirtest.need(PLUGIN)
        self.world = weirtest.World()
        self.world.__enter__()
        self.addCleanup(self.world.__exit__, None, None, None)
        self.config = self.world.path("server.conf")
        self.write(2)
        self.server = self.world.server("--config", self.config)
        self.gateways = []
        for n in (1, 2):
            storage = self.world.nbdkit("-t", "64", PLUGIN, "parallel=4", "service=2000", f"export=part{n}")
            self.gateways.append(self.world.gateway(target=storage.uri, server=self.server, name=f"gw{n}"))
        weirtest.wait_until(lambda: self.spread() == [1, 1], "a gateway at each process", LONG)

    def write(self, processes):
        with open(self.config, "w", encoding="ascii") as f:
            f.write(f"[server]\nsla-processes = {processes}\n")

    def spread(self):
        return [t["gateways"] for t in self.server.items("/debug/threads") if t["name"].startswith("services[")][:2]

    def look(self):
        """What each gateway holds of the agreement's limit, one asked after the other."""
        return [next((c["limit"]["iops"] for c in g.local(get="controls")["controls"] if c["id"] == "agreement/cap"), 0)
                for g in self.gateways]

    def limits(self):
        """The same at one time: one may shrink, and then another grow, while they are asked."""
        before, now = None, self.look()
        while now != before:
            before, now = now, self.look()
        return now

    def watch(self, condition, what, most):
        """Until @condition of the parts holds; at every look they add up to no more than @most (and a unit for each)."""
        def look():
            now = self.limits()
            self.assertLessEqual(sum(now), most + 2, now)
            return condition(*now)
        weirtest.wait_until(look, what, LONG)

    def load(self, n):
        return fio(self.world, self.gateways[n], f"part{n + 1}", "--rw=randread", "--bs=4k", "--iodepth=4")

    def test_one_limit_holds_over_gateways_of_two_processes_and_follows_the_demand(self):
        one = self.load(0)
        weirtest.wait_until(lambda: len(self.server.items("/streams")) == 1, "the first stream to be seen", LONG)
        self.server.put("/agreements/cap", cap(200))
        self.watch(lambda a, b: a == 200 and b == 0, "all of it where the only stream is", 200)
        two = self.load(1)
        self.watch(lambda a, b: min(a, b) > 60, "each to have its part", 200)
        one.stop(signal.SIGINT)
        self.watch(lambda a, b: b > 150, "the limit to go where the demand is", 200)
        one = self.load(0)
        self.watch(lambda a, b: min(a, b) > 60, "each to have its part again", 200)
        # All gateways move to one process, and back.
        for processes, spread in ((1, [2, 0]), (2, [1, 1])):
            self.write(processes)
            os.kill(self.server.pid, signal.SIGHUP)
            self.watch(lambda a, b: self.spread() in (spread, spread[:processes]), "the gateways to move", 200)
            self.watch(lambda a, b: min(a, b) > 60, "each to have its part after the move", 200)
        self.server.put("/agreements/cap", cap(400))
        self.watch(lambda a, b: a + b >= 398, "the new limit to be in force", 400)
        self.assertTrue(one.alive() and two.alive())


if __name__ == "__main__":
    weirtest.main()
