#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Goal: promises hold over two gateways on the real path: a bully behind the other one, demand that moves between them, a
storage that turns slow, a gateway and a server that die, an agreement that changes under load, and observing that changes
nothing; and one limit holds over gateways that two SLA processes control.
Method: the demo's device (one queue, bounded parallelism) in nbdkit behind two gateways, one server, fio as clients. Orders of
events and outcomes are looked at, with wide margins; no speed is asserted.
"""
import os
import signal
import time
import unittest

import weirtest

PLUGIN = os.path.join(weirtest.BUILD, "demo", "nbdkit-device-plugin.so")
GOLD = {"kind": "Agreement", "name": "gold", "appliesTo": {"volume": "db"}, "weight": 200,
        "objectives": [{"percentile": 99, "latency": "15ms", "whileIops": 600}], "reservation": {"iops": 200}}
LONG = 120


def cap(iops):
    return {"kind": "Agreement", "name": "cap", "appliesTo": {"volume": "part*"}, "limit": {"iops": iops}}


def fio(world, gateway, name, *args):
    weirtest.need("fio")
    return weirtest.Process(world, f"fio-{name}", [
        "fio", f"--name={name}", "--ioengine=nbd", f"--uri={gateway.uri(name)}", "--time_based", "--runtime=600",
        "--size=64m", "--norandommap", "--output-format=normal", *args])


class TwoGateways(unittest.TestCase):
    def setUp(self):
        weirtest.need(PLUGIN)
        self.world = weirtest.World()
        self.world.__enter__()
        self.addCleanup(self.leave)
        self.slow = self.world.path("slow")
        self.storage = self.world.nbdkit(
            "-t", "256", PLUGIN, "parallel=8", "service=2000", f"slow-file={self.slow}",
            *[f"export={name}" for name in ("db", "batch", "part1", "part2")])

    def leave(self):
        failed = self._outcome and any(e for _, e in getattr(self._outcome, "errors", []) if e)
        self.world.__exit__(AssertionError if failed else None, None, None)

    def start_server(self, **where):
        """Both gateways stand before one storage, so that one of the SLA processes decides over both."""
        config = self.world.path("server.conf")
        with open(config, "w", encoding="ascii") as f:
            f.write("[server]\nsla-processes = 2\n")
        return self.world.server("--config", config, *self.server_args, **where)

    def start(self, *server_args):
        self.server_args = server_args
        self.server = self.start_server()
        self.gateways = [self.world.gateway(target=self.storage.uri, server=self.server, name=f"gw{n}") for n in (1, 2)]
        self.wait_admitted(2)

    def wait_admitted(self, count):
        weirtest.wait_until(lambda: count == len([g for g in self.server.items("/gateways") if g["state"] == "admitted"]),
                            f"{count} gateways to be admitted")

    def start_story(self):
        """A victim behind the first gateway, its bully behind the second."""
        self.server.put("/agreements/gold", GOLD)
        self.victim = fio(self.world, self.gateways[0], "db", "--rw=randread", "--bs=8k", "--iodepth=16", "--rate_iops=300")
        self.bully = fio(self.world, self.gateways[1], "batch", "--rw=randread", "--bs=16k", "--iodepth=128")

    def stream(self, volume, gateway=None):
        return next((s for s in self.server.items("/streams") if s["volume"] == volume and
                     gateway in (None, s["gateway"])), None)

    def done(self, volume):
        """I/Os done by all streams of a volume."""
        return sum(s["counters"]["read"]["completions"] for s in self.server.items("/streams") if s["volume"] == volume)

    def rate(self, volumes, seconds=5):
        """I/Os a second of some volumes together, by their counters."""
        before, begin = sum(map(self.done, volumes)), time.monotonic()
        time.sleep(seconds)
        return (sum(map(self.done, volumes)) - before) / (time.monotonic() - begin)

    def wait_met(self, what):
        weirtest.wait_until(lambda: (s := self.stream("db")) and s["verdict"] == "met", what, LONG)

    def throttles(self):
        return [a for a in self.server.items("/actions?limit=500") if a["enforced"] and a["verb"] == "throttle"]

    def planned(self):
        return [c for g in self.gateways for c in g.local(get="controls")["controls"] if c.get("origin") == "planned"]

    def test_a_bully_behind_the_other_gateway_is_held_back_and_the_promise_survives_a_slow_storage(self):
        self.start()
        self.start_story()
        weirtest.wait_until(self.planned, "something to be planned", LONG)
        self.wait_met("the promise to be kept beside the bully")
        with open(self.slow, "w", encoding="ascii"):
            pass
        time.sleep(3)  # so that the slow storage is seen
        self.wait_met("the promise to be kept by a storage that is slower by 40 %")
        self.assertGreater(self.rate(["batch"]), 1)
        # What no share can keep, because the storage's own service takes longer, is tried by cutting the bully, and said.
        self.server.put("/agreements/gold", {**GOLD, "objectives": [{"percentile": 99, "latency": "500us", "whileIops": 600}]})
        [sent, *_] = weirtest.wait_until(lambda: [a for a in self.throttles() if a["agreementVersion"] == 2], "the bully to be cut", LONG)
        self.assertTrue(sent["victim"].endswith("/db") and sent["bully"].endswith("/batch"), sent)
        self.assertEqual((sent["gateway"], sent["agreement"]), ("gw2", "gold"))
        self.assertGreater(sent["victimLatencyUs"], sent["objectiveUs"])
        self.assertRegex(sent["reason"], r"batch.*IOPS.*db.*gold")
        said = self.world.cli(self.server, "explain", "stream", self.stream("batch")["key"], check=True).stdout
        self.assertRegex(said, r"Last actions\n(.*\n)*? .*throttled .*batch from \d+ to \d+ IOPS")
        self.assertTrue(self.victim.alive() and self.bully.alive())

    def test_a_limit_follows_the_demand_and_its_change_and_outlives_a_gateway_and_the_server(self):
        self.start()
        self.server.put("/agreements/cap", cap(300))
        one = fio(self.world, self.gateways[0], "part1", "--rw=randread", "--bs=4k", "--iodepth=8")
        weirtest.wait_until(lambda: self.stream("part1"), "the first stream to be seen")
        weirtest.wait_until(lambda: self.stream("part1")["iops"] > 200, "the whole limit where the demand is", LONG)
        self.assertLess(self.rate(["part1"]), 1.15 * 300)
        # The demand moves.
        two = fio(self.world, self.gateways[1], "part2", "--rw=randread", "--bs=4k", "--iodepth=8")
        one.stop(signal.SIGINT)
        weirtest.wait_until(lambda: (self.stream("part2") or {"iops": 0})["iops"] > 200, "the limit to move with the demand", LONG)
        self.assertLess(self.rate(["part1", "part2"]), 1.15 * 300)
        # Both at once: together no more.
        one = fio(self.world, self.gateways[0], "part1", "--rw=randread", "--bs=4k", "--iodepth=8")
        weirtest.wait_until(lambda: min(self.stream(v)["iops"] for v in ("part1", "part2")) > 100, "each to have its part", LONG)
        self.assertLess(self.rate(["part1", "part2"]), 1.15 * 300)
        # The agreement changes under load.
        self.server.put("/agreements/cap", cap(600))
        weirtest.wait_until(lambda: sum(self.stream(v)["iops"] for v in ("part1", "part2")) > 450, "the new limit to hold", LONG)
        self.assertLess(self.rate(["part1", "part2"]), 1.15 * 600)
        self.assertEqual(self.server.get("/agreements/cap")["status"]["version"], 2)
        # The server dies: what was agreed goes on.
        self.server.kill()
        before = self.gateways[0].local(get="streams")
        time.sleep(3)
        self.assertNotEqual(before, self.gateways[0].local(get="streams"), "I/O stood still without the server")
        self.server = self.start_server(state_dir=self.server.state_dir, control=self.server.control)
        self.wait_admitted(2)
        self.assertLess(self.rate(["part1", "part2"]), 1.15 * 600)
        # A gateway dies: the other goes on with no more than its part and what the dead one leaves.
        self.gateways[1].kill()
        weirtest.wait_until(lambda: [g for g in self.server.items("/gateways") if g["state"] == "lost"], "the loss to be seen")
        rate = self.rate(["part1"])
        self.assertGreater(rate, 100)
        self.assertLess(rate, 1.15 * 600)
        self.assertTrue(one.alive())
        two.stop(signal.SIGINT)

    def test_observing_changes_nothing_until_a_policy_enforces_one_target(self):
        self.start("--observe")
        self.start_story()
        found = weirtest.wait_until(lambda: [a for a in self.server.items("/actions?limit=50") if a["decision"] == "observe"],
                                    "an action that was observed only", LONG)
        self.assertFalse(found[0]["enforced"])
        time.sleep(3)
        self.assertEqual(self.planned(), [])
        self.assertFalse([c for g in self.gateways for c in g.local(get="controls")["controls"]])
        self.assertFalse([a for a in self.server.items("/actions?limit=500") if a["enforced"]])
        said = self.world.cli(self.server, "explain", "stream", self.stream("batch")["key"], check=True).stdout
        self.assertIn("The server observes", said)
        self.assertRegex(said, r"Wanted, and not sent\n .*would throttle .*batch")
        self.server.put("/policies/on", {"kind": "Policy", "name": "on", "appliesTo": {"target": "*"}, "enforce": True})
        weirtest.wait_until(self.planned, "something planned to be in force", LONG)
        self.wait_met("the promise to be kept once it is enforced")


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

    def limits(self):
        """What each gateway holds of the agreement's limit."""
        return [next((c["limit"]["iops"] for c in g.local(get="controls")["controls"] if c["id"] == "agreement/cap"), 0)
                for g in self.gateways]

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
