# SPDX-License-Identifier: Apache-2.0
"""Goal: a gateway goes on as the program installed now without a refused host, a lost count or a limit that begins anew; when the
new program cannot serve, the old one goes on and says why.
Method: the real gateway started from a copy of its program, which is then replaced by the same, by one that ends, by one that
hangs; hosts that stay and hosts that come, data verified; weir-gateway --upgrade and SIGUSR2."""
import os
import shutil
import signal
import subprocess
import threading
import time
import unittest

import nbd
import weirtest
from weirtest import wait_until

CONF = """
[gateway]
name = gw
{gateway}
[listener l]
address = 127.0.0.1:0
target = t
[target t]
uri = {uri}
{more}
"""


class Upgrade(unittest.TestCase):
    def setUp(self):
        self.world = weirtest.World()
        self.world.__enter__()
        self.addCleanup(self.world.__exit__, None, None, None)
        self.program = self.world.path("weir-gateway")
        shutil.copy(weirtest.GATEWAY, self.program)
        self.storage = self.world.nbdkit("memory", "64M")

    def gateway(self, gateway="", more="", **options):
        theirs, weirtest.GATEWAY = weirtest.GATEWAY, self.program
        try:
            return self.world.gateway(config=CONF.format(uri=self.storage.uri, gateway=gateway, more=more), **options)
        finally:
            weirtest.GATEWAY = theirs

    def install(self, text=None):
        """Replace the program, as a package does: by the same one, or by a script."""
        new = self.program + ".new"
        if text is None:
            shutil.copy(weirtest.GATEWAY, new)
        else:
            with open(new, "w") as f:
                f.write(text)
            os.chmod(new, 0o755)
        os.rename(new, self.program)

    def upgrade(self, gateway, expected=0):
        r = subprocess.run([weirtest.GATEWAY, "--upgrade", "--socket", gateway.socket_path], capture_output=True, text=True,
                           timeout=weirtest.PATIENCE * 2)
        self.assertEqual(r.returncode, expected, r.stdout + r.stderr + gateway.output())
        return r.stdout + r.stderr

    def host(self, gateway, export="v"):
        h = nbd.NBD()
        h.connect_uri(gateway.uri(export))
        return h

    def status(self, gateway):
        return gateway.local(get="status")["status"]

    def stream(self, gateway, volume="v"):
        return next(s for s in gateway.local(get="streams")["streams"] if s["volume"] == volume)

    def test_the_old_connection_goes_on_and_new_ones_meet_the_new_program(self):
        g = self.gateway()
        stays = self.host(g)
        for i in range(50):
            stays.pwrite(bytes([i]) * 4096, i * 4096)
        old, manager = g.pid, g.popen.pid
        self.install()
        self.assertIn("done", self.upgrade(g))
        self.assertEqual(g.popen.pid, manager)
        self.assertEqual(len(g.workers()), 2)
        comes = self.host(g)
        for i in range(50):
            self.assertEqual(bytes(comes.pread(4096, i * 4096)), bytes([i]) * 4096)
            self.assertEqual(bytes(stays.pread(4096, i * 4096)), bytes([i]) * 4096)
        s = self.stream(g)
        self.assertEqual((s["connections"], s["counters"]["read"]["completions"], s["counters"]["write"]["completions"]),
                         (2, 100, 50))
        self.assertEqual(self.status(g)["connections"]["accepted"], 2)
        stays.shutdown()
        wait_until(lambda: old not in g.workers(), "the old worker to end")
        self.assertEqual(self.stream(g)["counters"]["read"]["completions"], 100)
        m = self.status(g)["manager"]
        self.assertEqual((m["deaths"], m["upgrades"], m["upgradesFailed"]), (0, 1, 0))
        # And the new manager keeps its worker alive, and can be upgraded again.
        g.kill_worker()
        comes = self.host(g)
        for i in range(10):
            comes.pread(4096, 0)
        self.assertEqual(self.stream(g)["counters"]["read"]["completions"], 110)
        self.install()
        self.upgrade(g)
        wait_until(lambda: self.status(g)["manager"]["upgrades"] == 2, "the second upgrade")
        self.assertEqual(self.stream(g)["counters"]["read"]["completions"], 110)

    def test_hosts_that_come_all_the_while_are_never_refused(self):
        g = self.gateway()
        stop, failed, came = threading.Event(), [], []

        def come():
            while not stop.is_set():
                try:
                    h = self.host(g)
                    h.pread(512, 0)
                    h.shutdown()
                    came.append(1)
                except nbd.Error as e:
                    failed.append(str(e))
        threads = [threading.Thread(target=come) for _ in range(3)]
        for t in threads:
            t.start()
        for i in range(3):
            self.install()
            self.upgrade(g)
            wait_until(lambda: len(g.workers()) == 1, "the old worker to end")
        stop.set()
        for t in threads:
            t.join()
        self.assertEqual(failed, [])
        self.assertEqual(self.stream(g)["counters"]["read"]["completions"], len(came))

    def test_a_limit_holds_over_both_workers_together(self):
        g = self.gateway(gateway="max-hold = 600s", more="[limit a]\niops = 40\n")
        ended, at = threading.Event(), [[], []]
        self.addCleanup(ended.set)

        def work(n, h):
            while not ended.is_set():
                h.pread(512, 0)
                at[n].append(time.monotonic())

        def at_full_rate():
            """Both had their part, and in one second together nine tenths of the limit."""
            now = time.monotonic()
            return min(map(len, at)) > 30 and sum(now - 1 <= t < now for t in at[0] + at[1]) >= 36
        began = time.monotonic()
        first = threading.Thread(target=work, args=(0, self.host(g)))
        first.start()
        wait_until(lambda: len(at[0]) > 20, "the first worker to serve")
        self.install()
        self.upgrade(g)
        self.assertEqual(len(g.workers()), 2)
        second = threading.Thread(target=work, args=(1, self.host(g)))
        second.start()
        wait_until(at_full_rate, "a second at full rate", patience=2 * weirtest.PATIENCE)
        ended.set()
        first.join()
        second.join()
        spent, counts = time.monotonic() - began, [len(x) for x in at]
        print(f"{counts} in {spent:.2f} s at 40 a second")
        self.assertLessEqual(sum(counts), 40 * spent + 3)

    def test_connections_beyond_their_time_are_closed_in_order(self):
        g = self.gateway(gateway="drain-timeout = 1s")
        h = self.host(g)
        h.pread(512, 0)
        self.install()
        self.upgrade(g)
        wait_until(lambda: len(g.workers()) == 1, "the old worker to end")
        with self.assertRaises(nbd.Error):
            h.pread(512, 0)
        self.host(g).pread(512, 0)
        self.assertEqual(self.status(g)["manager"]["deaths"], 0)

    def test_a_program_that_cannot_serve_changes_nothing(self):
        g = self.gateway()
        h = self.host(g)
        old = g.pid
        for text, words in (("#!/bin/sh\nexit 3\n", "exit status 3"), ("not a program", "127"),
                            ("#!/bin/sh\nkill -SEGV $$\n", "SIGSEGV")):
            self.install(text)
            self.assertIn(words, self.upgrade(g, expected=1))
            h.pread(512, 0)
            self.host(g).pread(512, 0)
            self.assertEqual(g.workers(), [old])
        self.install()
        os.unlink(self.program)
        self.assertIn("the old goes on", self.upgrade(g, expected=1))
        m = self.status(g)["manager"]
        self.assertEqual((m["deaths"], m["upgrades"], m["upgradesFailed"]), (0, 0, 4))
        # Its workers do not come from the file: a death is mended as before.
        g.kill_worker()
        self.host(g).pread(512, 0)

    def test_a_configuration_that_is_wrong_or_has_other_listeners_changes_nothing(self):
        g = self.gateway()
        path = next(a for a in g.argv if a.endswith(".conf"))
        with open(path) as f:
            good = f.read()
        for bad in ("[nonsense\n", good + "[listener m]\naddress = 127.0.0.1:0\ntarget = t\n",
                    good.replace("[gateway]", "[gateway]\nmax-streams = 7")):
            with open(path, "w") as f:
                f.write(bad)
            self.assertIn("the old goes on", self.upgrade(g, expected=1))
            self.host(g).pread(512, 0)

    def test_a_worker_killed_in_the_middle_of_an_upgrade_costs_its_connections_only(self):
        g = self.gateway(gateway="worker-timeout = 1s\ndrain-timeout = 2s")
        g.deaths_expected = True
        for i in range(12):
            h = self.host(g)
            h.pread(512, 0)
            g.tell(signal.SIGUSR2)
            time.sleep(0.004 * i)
            for pid in g.workers()[:1 + i % 2]:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            self.host(g).pread(512, 0)
            wait_until(lambda: len(g.workers()) == 1, "one worker")
        wait_until(lambda: self.stream(g)["counters"]["read"]["arrivals"] ==
                   self.stream(g)["counters"]["read"]["completions"] + self.stream(g)["counters"]["read"]["dropped"], "nothing in flight")
        self.assertGreaterEqual(self.stream(g)["counters"]["read"]["completions"], 24)

    def test_a_new_worker_lost_while_the_old_one_retires_is_replaced_by_one_of_the_old_program(self):
        g = self.gateway(gateway="worker-timeout = 20s")
        h = self.host(g)
        h.pread(512, 0)
        old = g.pid
        os.kill(old, signal.SIGSTOP)  # so that it is told to retire and does not yet
        try:
            g.tell(signal.SIGUSR2)
            wait_until(lambda: len(g.workers()) == 2, "the new worker")
            new = g.pid
            wait_until(lambda: self.waits(new), "the new worker to stand by")
            time.sleep(0.2)
            os.kill(new, signal.SIGKILL)
            wait_until(lambda: g.workers() == [old], "the new worker's death to be seen")
        finally:
            os.kill(old, signal.SIGCONT)
        self.host(g).pread(512, 0)
        h.pread(512, 0)
        self.assertEqual(g.workers()[0], old)
        self.assertNotIn(g.pid, (old, new))
        self.assertEqual(self.status(g)["manager"]["workerPid"], g.pid)
        h.shutdown()
        wait_until(lambda: len(g.workers()) == 1, "the old worker to end")
        self.assertEqual(self.stream(g)["counters"]["read"]["completions"], 3)
        m = self.status(g)["manager"]
        self.assertEqual((m["deaths"], m["upgrades"], m["upgradesFailed"]), (0, 0, 1))
        self.install()
        self.upgrade(g)

    def test_an_old_worker_that_ends_before_the_new_one_serves_is_not_replaced_twice(self):
        g = self.gateway()
        for i in range(5):  # it has no connections, so it ends as soon as it has retired
            self.upgrade(g)
            wait_until(lambda: len(g.workers()) == 1, "one worker")
            self.assertEqual(self.status(g)["manager"]["workerPid"], g.pid)
        self.assertEqual(self.status(g)["manager"]["deaths"], 0)

    def test_a_file_read_again_while_the_new_worker_stands_by_is_in_force_in_it(self):
        g = self.gateway(gateway="worker-timeout = 20s")
        old = g.pid
        path = next(a for a in g.argv if a.endswith(".conf"))
        os.kill(old, signal.SIGSTOP)  # the upgrade waits for it
        try:
            g.tell(signal.SIGUSR2)
            wait_until(lambda: len(g.workers()) == 2, "the new worker")
            wait_until(lambda: self.waits(g.pid), "the new worker to stand by")
            time.sleep(0.2)
            with open(path, "a") as f:
                f.write("[limit late]\niops = 1000\n")
            g.tell(signal.SIGHUP)
        finally:
            os.kill(old, signal.SIGCONT)
        wait_until(lambda: g.workers() and old not in g.workers(), "the old worker to end")
        wait_until(lambda: "late" in str(g.local(get="controls")), "the limit to be in force")
        self.assertEqual(self.status(g)["manager"]["upgrades"], 1)

    @staticmethod
    def waits(pid):
        """Whether it is past its start: asleep, as the program and not as a copy of the manager."""
        with open(f"/proc/{pid}/stat") as f:
            asleep = f.read().rsplit(")", 1)[1].split()[0] == "S"
        with open(f"/proc/{pid}/environ") as f:
            return asleep and "WEIR_GATEWAY_HANDOVER" in f.read()


if __name__ == "__main__":
    weirtest.main()
