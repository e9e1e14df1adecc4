# SPDX-License-Identifier: Apache-2.0
"""One storage with one queue and bounded parallelism, one gateway, one server; fio as a victim with a promise and its bully."""
import os
import unittest

import weirtest

PLUGIN = os.path.join(weirtest.BUILD, "demo", "nbdkit-device-plugin.so")
AGREEMENT = {"kind": "Agreement", "name": "gold", "appliesTo": {"volume": "db"},
             "objectives": [{"percentile": 99, "latency": "24ms", "whileIops": 1000}], "reservation": {"iops": 500}}


def fio(world, gateway, name, *args):
    weirtest.need("fio")
    return weirtest.Process(world, f"fio-{name}", [
        "fio", f"--name={name}", "--ioengine=nbd", f"--uri={gateway.uri(name)}", "--time_based", "--runtime=600",
        "--size=64m", "--norandommap", "--output-format=normal", *args])


def victim(world, gateway):
    return fio(world, gateway, "db", "--rw=randread", "--bs=8k", "--iodepth=16", "--rate_iops=500")


def bully(world, gateway, depth=128):
    return fio(world, gateway, "batch", "--rw=randread", "--bs=16k", f"--iodepth={depth}")


def stream(server, volume):
    return next((s for s in server.items("/streams") if s["volume"] == volume), None)


def throttles(server):
    return [a for a in server.items("/actions?limit=500") if a["enforced"] and a["verb"] in ("throttle", "tighten")]


def applied(server, volume="batch"):
    s = stream(server, volume)
    return s and s["control"]["applied"]["iops"]


class StoryCase(unittest.TestCase):
    def setUp(self):
        weirtest.need(PLUGIN)
        self.world = weirtest.World()
        self.world.__enter__()
        self.addCleanup(self.leave)
        self.storage = self.world.nbdkit("-t", "256", PLUGIN, "parallel=8", "service=3000", "export=db", "export=batch",
                                         "export=other")

    def leave(self):
        failed = self._outcome and any(e for _, e in getattr(self._outcome, "errors", []) if e)
        self.world.__exit__(AssertionError if failed else None, None, None)

    def start(self, *server_args, **gateway):
        self.server = self.world.server(*server_args)
        self.gateway = self.world.gateway(target=self.storage.uri, server=self.server, name="gw", **gateway)
        weirtest.wait_until(lambda: [g for g in self.server.items("/gateways") if g["state"] == "admitted"],
                            "the gateway to be admitted by itself")

    def start_story(self):
        self.start()
        self.server.put("/agreements/gold", AGREEMENT)
        self.victim, self.bully = victim(self.world, self.gateway), bully(self.world, self.gateway)

    def planned(self):
        return [c for c in self.gateway.local(get="controls")["controls"] if c.get("origin") == "planned"]

    def wait_planned(self):
        return weirtest.wait_until(self.planned, "what was planned to be in force at the gateway", 60)
