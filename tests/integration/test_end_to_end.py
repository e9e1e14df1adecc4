# SPDX-License-Identifier: Apache-2.0
"""Goal: a promise broken by a neighbour is kept again by Weir, and goes on being kept when parts of Weir fail.
Method: the demo's device (one queue, bounded parallelism) in nbdkit, one gateway, one server, fio as victim and bully; what is
checked is what Weir decided and what the gateway applied, read through the API and the local socket. Nothing here asserts a
speed of this machine: waits are bounds on polling loops."""
import contextlib
import os
import re
import signal
import sqlite3
import subprocess
import time
import unittest

import nbd
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


class EndToEnd(unittest.TestCase):
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

    def enforce(self, on):
        status, _, _ = self.server.request("PUT", "/api/v1/enforcement", {"on": on})
        self.assertEqual(status, 200)

    def start_story(self):
        self.start()
        self.server.put("/agreements/gold", AGREEMENT)
        self.victim, self.bully = victim(self.world, self.gateway), bully(self.world, self.gateway)

    def planned(self):
        return [c for c in self.gateway.local(get="controls")["controls"] if c.get("origin") == "planned"]

    def wait_planned(self):
        return weirtest.wait_until(self.planned, "what was planned to be in force at the gateway", 60)

    def wait_met(self):
        weirtest.wait_until(lambda: (s := stream(self.server, "db")) and s["verdict"] == "met", "the promise to be kept", 90)

    def test_a_bully_is_held_back_and_let_go(self):
        self.start_story()
        self.wait_planned()
        # The gateway really holds: the held histogram of the bully is no longer empty.
        weirtest.wait_until(lambda: (s := stream(self.server, "batch")) and s["latency"]["held"]["p99Us"] > 0,
                            "I/O of the bully to be held")
        self.wait_met()
        self.bully.stop(signal.SIGINT)
        weirtest.wait_until(lambda: not applied(self.server), "no throttle to stay when the bully is gone", 90)
        self.wait_met()

    def test_observe_mode_names_the_bully_and_touches_nobody(self):
        self.start("--observe")
        self.server.put("/agreements/gold", AGREEMENT)
        self.clients = victim(self.world, self.gateway), bully(self.world, self.gateway)
        found = weirtest.wait_until(lambda: self.server.items("/actions?limit=50"), "an observed action", 60)
        time.sleep(3)
        self.assertTrue(all(not a["enforced"] and a["decision"] == "observe" for a in self.server.items("/actions")), found)
        self.assertIsNone(applied(self.server))
        self.assertEqual([], [c for c in self.gateway.local(get="controls")["controls"] if c.get("origin") == "planned"])

    def test_enforcement_off_lifts_every_planned_throttle_at_once(self):
        self.start_story()
        self.wait_planned()
        self.enforce(False)
        weirtest.wait_until(lambda: not self.planned(), "everything planned to be lifted")
        self.assertFalse(applied(self.server))
        self.enforce(True)
        self.wait_planned()

    def test_a_protected_bully_is_not_throttled(self):
        self.start()
        self.server.put("/policies/hands-off", {"kind": "Policy", "name": "hands-off", "appliesTo": {"volume": "batch"},
                                                "protect": True})
        self.server.put("/agreements/gold", AGREEMENT)
        self.clients = victim(self.world, self.gateway), bully(self.world, self.gateway)
        self.wait_planned()
        self.wait_met()
        self.assertIsNone(applied(self.server))
        self.assertEqual([], throttles(self.server))

    def test_io_goes_on_while_the_server_is_dead_and_controls_return_with_it(self):
        self.start_story()
        self.server.put("/agreements/cap", {"kind": "Agreement", "name": "cap", "appliesTo": {"volume": "other"},
                                            "limit": {"iops": 200}})
        self.other = fio(self.world, self.gateway, "other", "--rw=randread", "--bs=4k", "--iodepth=4")
        self.wait_planned()

        def origins():
            return {c["origin"] for c in self.gateway.local(get="controls")["controls"]}
        weirtest.wait_until(lambda: origins() == {"agreement", "planned"}, "both kinds of control at the gateway")
        control, http = self.server.control, self.server.http.removeprefix("http://")
        self.server.kill()
        before = {s["volume"]: s["counters"]["read"]["completions"] for s in self.gateway.local(get="streams")["streams"]}
        # The lease ends: what planning added goes, what agreements say stays.
        weirtest.wait_until(lambda: origins() == {"agreement"}, "planned controls to end with their lease", 60)
        after = {s["volume"]: s["counters"]["read"]["completions"] for s in self.gateway.local(get="streams")["streams"]}
        for volume in ("db", "batch", "other"):
            self.assertGreater(after[volume], before[volume], f"{volume} goes on without a server")
        self.server = self.world.server(http=http, control=control)
        self.wait_planned()
        self.assertEqual([d["name"] for d in self.server.items("/agreements")], ["cap", "gold"])
        for p in (self.victim, self.bully, self.other):
            self.assertTrue(p.alive(), f"{p.name} saw no I/O error:\n{p.output()}")
        self.assertEqual(0, sum(c["errors"] for s in self.gateway.local(get="streams")["streams"]
                                for c in s["counters"].values()))

    def test_control_goes_on_while_the_database_is_locked_and_nothing_is_lost(self):
        self.start()
        self.server.put("/agreements/gold", AGREEMENT)
        locks = []
        for name in ("state.db", "samples.db"):
            c = sqlite3.connect(os.path.join(self.server.state_dir, name), isolation_level=None, timeout=10)
            c.execute("BEGIN EXCLUSIVE")
            locks.append(c)
        began = time.monotonic()
        self.clients = victim(self.world, self.gateway), bully(self.world, self.gateway)
        self.wait_planned()  # seen, decided and applied with both databases locked
        time.sleep(max(0, began + 10 - time.monotonic()))
        seen = stream(self.server, "batch")["counters"]["read"]["completions"]
        for c in locks:
            c.execute("ROLLBACK")
            c.close()
        with contextlib.closing(sqlite3.connect(os.path.join(self.server.state_dir, "samples.db"), timeout=10)) as db:
            weirtest.wait_until(lambda: db.execute("SELECT count(*) FROM samples_1s").fetchone()[0], "that time's samples to be stored")
        status = self.server.get("/status")
        self.assertEqual(0, status["store"].get("dropped", 0), status)
        self.assertGreater(stream(self.server, "batch")["counters"]["read"]["completions"], 0)
        self.assertGreater(seen, 0)

    def test_a_lost_and_returned_gateway_keeps_its_identity_and_its_counts(self):
        self.start()
        h = nbd.NBD()
        h.connect_uri(self.gateway.uri("db"))
        for i in range(100):
            h.pread(4096, i * 4096)
        weirtest.wait_until(lambda: (stream(self.server, "db") or {"counters": {"read": {"completions": 0}}})
                            ["counters"]["read"]["completions"] == 100, "all 100 reads to be counted")
        ident = self.server.items("/gateways")[0]["id"]
        worker = self.gateway.pid
        self.gateway.tell(signal.SIGSTOP)  # first, lest it replace the worker
        os.kill(worker, signal.SIGSTOP)
        weirtest.wait_until(lambda: self.server.items("/gateways")[0]["state"] == "lost", "the silent gateway to be lost", 60)
        os.kill(worker, signal.SIGCONT)
        self.gateway.tell(signal.SIGCONT)
        weirtest.wait_until(lambda: self.server.items("/gateways")[0]["state"] == "admitted", "it to return")
        for i in range(50):
            h.pread(4096, i * 4096)
        weirtest.wait_until(lambda: stream(self.server, "db")["counters"]["read"]["completions"] == 150,
                            "counts to go on where they were")
        self.assertEqual(len(self.server.items("/gateways")), 1)
        self.assertEqual(self.server.items("/gateways")[0]["id"], ident)
        kinds = [e["kind"] for e in self.server.items("/events?limit=100")]
        self.assertIn("gateway-lost", kinds)
        self.assertIn("gateway-discovered", kinds)
        h.shutdown()

    def test_the_servers_view_of_a_target_stands_beside_the_gateways(self):
        self.start()
        t = weirtest.wait_until(lambda: [t for t in self.server.items("/targets") if t.get("probe")], "a probe of the target", 60)
        self.assertTrue(t[0]["probe"]["reachable"], t)
        self.assertEqual(t[0]["probe"]["size"], 256 << 20)
        self.assertGreater(t[0]["probe"]["latencyUs"], 0)

    def test_debug_threads_shows_every_thread_and_none_stuck(self):
        self.start_story()
        time.sleep(3)
        out = self.world.cli(self.server, "debug", "threads", check=True).stdout
        for name in ("acceptor", "inbound[0]", "outbound[0]", "services[0]", "services[1]", "store.writer",
                     "store.reader[0]", "store.reader[1]", "app", "resource", "main"):
            self.assertIn(name, out)
        self.assertTrue(re.search(r"report|view|store", out), out)


class Filesystem(unittest.TestCase):
    def test_ext4_through_the_gateway_is_clean_after_work(self):
        weirtest.need("nbdfuse", "mkfs.ext4", "fusermount3", "losetup")
        if os.geteuid() != 0 or not os.path.exists("/dev/fuse"):
            self.skipTest("needs root and /dev/fuse")
        with weirtest.World() as w:
            g = w.gateway(target=w.nbdkit("memory", "128M").uri)
            point, mount = w.path("fuse"), w.path("mnt")
            open(point, "w").close()
            os.mkdir(mount)
            fuse = weirtest.Process(w, "nbdfuse", ["nbdfuse", point, g.uri()])
            try:
                weirtest.wait_until(lambda: os.path.getsize(point) == 128 << 20, "nbdfuse to mount")
            except AssertionError:
                if not fuse.alive():
                    self.skipTest("nbdfuse cannot mount here: " + fuse.output())
                raise
            subprocess.run(["mkfs.ext4", "-q", "-F", point], check=True, capture_output=True)
            loop = subprocess.run(["losetup", "--find", "--show", point], capture_output=True, text=True)
            if loop.returncode:
                subprocess.run(["fusermount3", "-u", point])
                self.skipTest("no loop device: " + loop.stderr)
            device = loop.stdout.strip()
            try:
                subprocess.run(["mount", device, mount], check=True, capture_output=True)
                try:
                    blob = os.urandom(1 << 20)
                    for i in range(20):
                        with open(os.path.join(mount, f"f{i}"), "wb") as f:
                            f.write(blob[i:] + blob[:i])
                            os.fsync(f.fileno())
                    subprocess.run(["umount", mount], check=True)
                    subprocess.run(["mount", device, mount], check=True, capture_output=True)
                    for i in range(20):
                        with open(os.path.join(mount, f"f{i}"), "rb") as f:
                            self.assertEqual(f.read(), blob[i:] + blob[:i])
                finally:
                    subprocess.run(["umount", mount], check=True)
                subprocess.run(["e2fsck", "-f", "-n", device], check=True, capture_output=True)
            finally:
                subprocess.run(["losetup", "-d", device])
                subprocess.run(["fusermount3", "-u", point])


if __name__ == "__main__":
    weirtest.main()
