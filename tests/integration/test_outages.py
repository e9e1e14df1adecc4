# SPDX-License-Identifier: Apache-2.0
"""Goal: planning does what it is told, and I/O and control go on when parts of Weir fail.
Method: the story of tests/lib/story.py, with a server that is killed, a database that is locked, a gateway that is silent, planning
that only observes or is switched off; and a real filesystem. Nothing here needs a promise to be kept, so other tests may load the
machine beside."""
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
from story import AGREEMENT, StoryCase, applied, bully, fio, stream, victim


class Outages(StoryCase):
    def enforce(self, on):
        status, _, _ = self.server.request("PUT", "/api/v1/enforcement", {"on": on})
        self.assertEqual(status, 200)

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
