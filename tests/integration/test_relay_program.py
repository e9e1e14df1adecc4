# SPDX-License-Identifier: Apache-2.0
"""Goal: weir-gateway says what is wrong with its command line, ends in order, and applies a changed file whole or not at all.
Method: the program as people run it, with hosts and a target by hand (rawnbd) where I/O is under way."""
import os
import signal
import socket
import subprocess

import rawnbd
import weirtest
from rawnbd import READ, WRITE
from relaycase import RelayCase, config
from weirtest import wait_until


class Program(RelayCase):
    def run_gateway(self, *args):
        return subprocess.run([weirtest.GATEWAY, *args], capture_output=True, text=True, timeout=20,
                              env={**os.environ, "HOME": self.world.dir})

    def test_without_listener_and_target_it_says_what_to_do(self):
        for args in ((), ("--listen", "127.0.0.1:0"), ("--target", "nbd://127.0.0.1")):
            r = self.run_gateway(*args)
            self.assertEqual(r.returncode, 2)
            self.assertIn("--listen 127.0.0.1:10810 --target nbd://127.0.0.1:10809", r.stderr)

    def test_wrong_values_are_refused_with_what_was_expected(self):
        good = ("--listen", "127.0.0.1:0", "--target", "nbd://127.0.0.1:1", "--state-dir", self.world.dir, "--check-config")
        self.assertEqual(self.run_gateway(*good).returncode, 0)
        for bad in (("--target", "http://x"), ("--listen", "127.0.0.1:99999"), ("--max-hold", "5"), ("--log-level", "loud"),
                    ("--server", "192.0.2.1:99999"), ("--name", "a b"), ("--nonsense",), ("extra",)):
            r = self.run_gateway(*good, *bad)
            self.assertEqual(r.returncode, 2, bad)
            self.assertTrue(r.stderr.startswith("weir-gateway: ") or "--nonsense" in r.stderr, r.stderr)

    def test_a_port_in_use_is_named(self):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            s.listen()
            address = "127.0.0.1:%d" % s.getsockname()[1]
            r = self.run_gateway("--listen", address, "--target", "nbd://127.0.0.1:1", "--state-dir", self.world.dir)
        self.assertEqual(r.returncode, 1)
        self.assertIn(f"listener default: {address}: Address already in use", r.stderr)

    def test_terminated_with_hosts_connected_it_ends_in_order(self):
        t = self.target(automatic=False)
        g = self.world.gateway(target=t.uri)
        h = self.host(g)
        h.send(READ, 1, 0, 512)
        t.wait_requests(1)
        self.assertEqual(g.stop(), 0)
        self.assertEqual(h.closed(), b"")

    def test_terminated_it_still_passes_on_what_the_target_has_yet_to_answer(self):
        t = self.target(automatic=False)
        g = self.world.gateway(config=config(t.uri, "bandwidth-write = 1KiB/s", gateway="max-hold = 600s"))
        h = self.host(g)
        size = 256 * 1024  # the first goes at once, the second minutes later
        h.send(READ, 1, 0, 4096)
        h.send(WRITE, 2, 0, size, payload=b"a" * size)
        h.send(WRITE, 3, 0, 512, payload=b"b" * 512)
        read, write = t.wait_requests(2)
        g.tell(signal.SIGTERM)
        wait_until(lambda: not weirtest.can_connect(g.port), "a gateway that takes no more hosts")
        h.send(READ, 4, 0, 512)
        read.answer(data=b"r" * 4096)
        self.assertEqual(h.reply(4096), (1, 0, b"r" * 4096))
        write.answer()
        self.assertEqual(h.reply()[0], 2)
        self.assertEqual(h.closed(), b"")
        t.wait_closed()
        self.assertEqual(g.popen.wait(rawnbd.PATIENCE), 0)
        self.assertEqual(len(t.requests), 2)

    def test_terminated_it_ends_although_a_target_never_answers(self):
        t = self.target(automatic=False)
        for signals in (1, 2):
            g = self.world.gateway(target=t.uri)
            h = self.host(g)
            h.send(READ, 1, 0, 4096)
            t.wait_requests(signals)
            for _ in range(signals):
                g.tell(signal.SIGTERM)
                wait_until(lambda: not weirtest.can_connect(g.port), "a gateway that takes no more hosts")
            self.assertEqual(g.popen.wait(rawnbd.PATIENCE), 0)

    def test_hangup_applies_changed_limits_and_keeps_everything_when_the_file_is_wrong(self):
        t = self.target()
        g = self.world.gateway(config=config(t.uri, "iops = 1", gateway="max-hold = 600s"))
        path = next(a for a in g.argv if a.endswith(".conf"))
        h = self.host(g)
        for i in range(50):
            h.send(READ, i, 0, 512)
        wait_until(lambda: self.stream(g)["heldNow"] > 40, "reads held")

        def rewrite(text):
            with open(path, "w") as f:
                f.write(text)
            g.popen.send_signal(signal.SIGHUP)
        rewrite("[limit l0]\niops = 0\n")
        g.wait_line("everything stays as it was")
        self.assertGreater(self.stream(g)["heldNow"], 30)
        rewrite(config(t.uri, "iops = 100000", gateway="max-hold = 600s"))
        self.assertEqual(sorted(h.reply(512)[0] for _ in range(50)), list(range(50)))
        g.wait_line("1 limits, max-hold, log-level")


if __name__ == "__main__":
    weirtest.main()
