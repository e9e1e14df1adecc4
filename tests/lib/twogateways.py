# SPDX-License-Identifier: Apache-2.0
"""One storage with one queue and bounded parallelism behind two gateways, one server with two SLA processes; fio as clients."""
import os
import time
import unittest

import weirtest

PLUGIN = os.path.join(weirtest.BUILD, "demo", "nbdkit-device-plugin.so")
LONG = 120


def fio(world, gateway, name, *args):
    weirtest.need("fio")
    return weirtest.Process(world, f"fio-{name}", [
        "fio", f"--name={name}", "--ioengine=nbd", f"--uri={gateway.uri(name)}", "--time_based", "--runtime=600",
        "--size=64m", "--norandommap", "--output-format=normal", *args])


class TwoGatewaysCase(unittest.TestCase):
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

    def stream(self, volume, gateway=None):
        return next((s for s in self.server.items("/streams") if s["volume"] == volume and
                     gateway in (None, s["gateway"])), None)

    def done(self, *volumes):
        """I/Os done by all streams of some volumes, by the counters of the gateways that live: the server's are those of a poll,
        which on a busy machine may be seconds old."""
        return sum(s["counters"]["read"]["completions"] for g in self.gateways if g.alive()
                   for s in g.local(get="streams")["streams"] if s["volume"] in volumes)

    def rate(self, *volumes, seconds=5):
        """I/Os a second of some volumes together: no more than there were, however long the looking takes."""
        begin, before = time.monotonic(), self.done(*volumes)
        time.sleep(seconds)
        return (self.done(*volumes) - before) / (time.monotonic() - begin)
