# SPDX-License-Identifier: Apache-2.0
"""Goal: a gateway that people drain takes no more hosts, breaks no I/O, and stays drained whatever dies, moves or comes back, until
they take it back; and they see how far it is. What becomes of its workers is seen at the server as well.
Method: a real server and gateway, the command line; hosts that stay, hosts that come, one whose I/O is in flight at a target that
answers when the test says so; workers, gateway and server killed and started anew; an upgrade of a drained gateway."""
import shutil
import signal
import subprocess
import unittest

import rawnbd
import weirtest
from weirtest import wait_until


class Drain(unittest.TestCase):
    def setUp(self):
        self.world = weirtest.World()
        self.world.__enter__()
        self.addCleanup(self.world.__exit__, None, None, None)
        self.target = rawnbd.Target(automatic=False, size=1 << 20)
        self.target.__enter__()
        self.addCleanup(self.target.__exit__, None, None, None)
        self.server = self.world.server()

    def gateway(self, listen=None, **more):
        listen = listen or f"127.0.0.1:{weirtest.free_port()}"
        g = self.world.gateway(target=self.target.uri, server=self.server, name="gw", listen=listen, **more)
        self.admitted()
        return g

    def admitted(self):
        wait_until(lambda: self.shown().get("state") == "admitted" and self.shown()["connections"], "the gateway to be admitted")

    def shown(self):
        return next((g for g in self.server.items("/gateways") if g["name"] == "gw"), {})

    def weir(self, *args):
        return self.world.cli(self.server, *args, check=True).stdout

    def host(self, g):
        h = rawnbd.Host(g.address)
        self.addCleanup(h.__exit__)
        return h

    def refused(self, g):
        """Whether a host that comes now is refused by the kernel."""
        try:
            rawnbd.Host(g.address, handshake=False).sock.close()
        except ConnectionRefusedError:
            return True
        return False

    def closed(self, g, why):
        return g.local(get="status")["status"]["connections"]["closed"][why]

    def drain_state(self, state):
        wait_until(lambda: self.shown().get("drain", {}).get("state") == state, f"the gateway to be {state}")

    def events(self, kind):
        return [e for e in self.server.items("/events?limit=200") if e["kind"] == kind]

    def io(self, host, cookie):
        """One read from arrival to answer."""
        before = len(self.target.requests)
        host.send(rawnbd.READ, cookie, 0, 512)
        self.target.wait_requests(before + 1)[before].answer(data=b"w" * 512)
        self.assertEqual(host.reply(512), (cookie, 0, b"w" * 512))

    def undrained_here(self, g):
        return self.world.cli(None, "gateway", "undrain", "--gateway", g.socket_path)

    def restart_server(self):
        where = {"state_dir": self.server.state_dir, "control": self.server.control}
        self.server.kill()
        self.server = self.world.server(**where)

    def test_a_drained_gateway_takes_no_hosts_whatever_restarts_until_it_is_taken_back(self):
        g = self.gateway()
        stays = self.host(g)
        self.io(stays, 1)
        self.assertIn("gateway/gw takes no more hosts", self.weir("gateway", "drain", "gw"))
        wait_until(lambda: self.refused(g), "hosts to be refused")
        self.drain_state("draining")
        self.io(stays, 2)  # who is here goes on
        self.assertRegex(self.weir("get", "gateways"), r"gw\s+admitted\s+draining")
        self.assertIn("state: draining", self.weir("describe", "gateway", "gw"))
        self.assertIn("drained: takes no hosts, 1 connection left",
                      self.world.cli(None, "top", "--gateway", g.socket_path, "--once", "--interval", "10ms").stdout)
        r = self.undrained_here(g)
        self.assertEqual((r.returncode, "the server is connected" in r.stderr), (3, True), r)
        stays.sock.close()
        self.drain_state("drained")
        wait_until(lambda: self.events("gateway-drained"), "people to be told that it can be stopped")

        g.kill_worker()
        self.assertTrue(self.refused(g), "the next worker is drained from its first moment")
        self.restart_server()
        self.drain_state("drained")
        self.assertTrue(self.refused(g))
        # Started anew without its server it is as it was.
        self.server.kill()
        g.stop()
        g = self.world.gateway(target=self.target.uri, server=self.server, name="gw", listen=g.address, state_dir=g.state_dir)
        self.assertTrue(self.refused(g))
        # While the server is away people on the machine may end it, which holds over a restart.
        self.assertIn("takes hosts again", self.undrained_here(g).stdout)
        wait_until(lambda: not self.refused(g), "hosts to be taken")
        self.io(self.host(g), 9)
        self.assertIn("is not drained", self.undrained_here(g).stdout)
        g.stop()
        g = self.world.gateway(target=self.target.uri, server=self.server, name="gw", listen=g.address, state_dir=g.state_dir)
        self.assertFalse(self.refused(g))
        # The server returns, and with it what was agreed.
        where = {"state_dir": self.server.state_dir, "control": self.server.control}
        self.server = self.world.server(**where)
        wait_until(lambda: self.refused(g), "hosts to be refused again")
        self.drain_state("drained")

        self.assertIn("gateway/gw takes hosts again", self.weir("gateway", "undrain", "gw"))
        self.drain_state("none")
        wait_until(lambda: not self.refused(g), "hosts to be taken again")
        self.io(self.host(g), 3)
        wait_until(lambda: self.events("gateway-undrained"), "people to be told")
        # Once, and once more if the server saw that it had been ended meanwhile.
        self.assertIn(len(self.events("gateway-draining")), (1, 2), self.events("gateway-draining"))
        verbs = [a["verb"] for a in self.server.items("/audit?limit=200") if a["verb"] in ("gateway-drain", "gateway-undrain")]
        self.assertEqual(verbs, ["gateway-undrain", "gateway-drain"])
        metrics = self.server.request("GET", "/metrics", raw=True)[2]
        self.assertRegex(metrics if isinstance(metrics, str) else metrics.decode(), r'weir_gateway_drained\{gateway="gw"[^}]*\} 0')

    def test_one_that_is_away_is_drained_when_it_returns(self):
        g = self.gateway()
        g.stop()
        self.weir("gateway", "drain", "gw")
        self.assertEqual(self.shown()["drain"]["state"], "asked")
        g = self.world.gateway(target=self.target.uri, server=self.server, name="gw", listen=g.address, state_dir=g.state_dir)
        wait_until(lambda: self.refused(g), "hosts to be refused")
        self.drain_state("drained")
        # And what is taken back while it is away is taken back.
        g.stop()
        self.weir("gateway", "undrain", "gw")
        g = self.world.gateway(target=self.target.uri, server=self.server, name="gw", listen=g.address, state_dir=g.state_dir)
        wait_until(lambda: not self.refused(g), "hosts to be taken")

    def test_at_the_deadline_idle_connections_are_closed_and_no_io_in_flight_is_broken(self):
        g = self.gateway()
        idle, busy = self.host(g), self.host(g)
        self.io(idle, 1)
        before = len(self.target.requests)
        busy.send(rawnbd.READ, 7, 0, 512)
        request = self.target.wait_requests(before + 1)[before]
        self.weir("gateway", "drain", "gw", "--within", "1ms")
        self.assertEqual(idle.closed(), b"")
        wait_until(lambda: self.closed(g, "drained") == 1, "the idle one to be counted")
        wait_until(lambda: self.shown()["connections"]["active"] == 1, "the server to know that one is left")
        self.assertEqual(self.shown()["drain"]["state"], "draining")
        self.assertIsNotNone(self.shown()["drain"]["deadline"])
        request.answer(data=b"d" * 512)
        self.assertEqual(busy.reply(512), (7, 0, b"d" * 512))
        self.assertEqual(busy.closed(), b"", "it is idle now")
        self.drain_state("drained")
        self.assertEqual(self.closed(g, "drained"), 2)

    def test_where_the_kernel_cannot_refuse_the_gateway_does_and_counts(self):
        g = self.gateway(listen="unix:" + self.world.path("l.sock"))
        stays = self.host(g)
        self.weir("gateway", "drain", "gw")
        self.drain_state("draining")
        h = rawnbd.Host(g.address, handshake=False)
        self.assertEqual(h.closed(), b"")
        h.sock.close()
        wait_until(lambda: self.closed(g, "draining") == 1, "it to be counted")
        self.io(stays, 1)
        wait_until(lambda: self.shown()["connections"]["refusedDraining"] == 1, "the server to know")
        self.weir("gateway", "undrain", "gw")
        self.drain_state("none")
        self.io(self.host(g), 2)

    def test_a_drained_gateway_is_upgraded_drained_and_the_old_worker_closes_what_is_idle(self):
        program = self.world.path("weir-gateway")
        shutil.copy(weirtest.GATEWAY, program)
        theirs, weirtest.GATEWAY = weirtest.GATEWAY, program
        try:
            g = self.gateway()
        finally:
            weirtest.GATEWAY = theirs
        stays = self.host(g)
        self.io(stays, 1)
        self.weir("gateway", "drain", "gw")
        wait_until(lambda: self.refused(g), "hosts to be refused")
        old = g.pid
        r = subprocess.run([weirtest.GATEWAY, "--upgrade", "--socket", g.socket_path], capture_output=True, text=True,
                           timeout=weirtest.PATIENCE * 2)
        self.assertEqual(r.returncode, 0, r.stdout + r.stderr)
        self.assertTrue(self.refused(g))
        self.drain_state("draining")
        self.io(stays, 2)
        self.weir("gateway", "drain", "gw", "--within", "1ms")  # by now a matter of both workers
        self.assertEqual(stays.closed(), b"")
        wait_until(lambda: old not in g.workers(), "the old worker to end")
        self.drain_state("drained")
        self.weir("gateway", "undrain", "gw")
        wait_until(lambda: not self.refused(g), "hosts to be taken again")
        self.io(self.host(g), 3)
        self.assertEqual(self.shown()["workers"]["upgrades"], 1)

    def test_bad_requests_are_refused_with_what_was_expected(self):
        self.gateway()
        r = self.world.cli(self.server, "gateway", "drain", "none")
        self.assertNotEqual(r.returncode, 0)
        self.assertIn("there is no gateway none", r.stderr)
        r = self.world.cli(self.server, "gateway", "drain", "gw", "--within", "soon")
        self.assertNotEqual(r.returncode, 0)
        self.assertIn("within", r.stderr)
        self.assertEqual(self.server.request("POST", "/api/v1/gateways/gw/drain", {"within": "8d"})[0], 422)
        self.assertEqual(self.server.request("POST", "/api/v1/gateways/gw/drain", {"when": "5m"})[0], 422)
        self.assertEqual(self.server.request("POST", "/api/v1/gateways/gw/drain", token=False)[0], 401)
        self.assertNotEqual(self.world.cli(self.server, "gateway", "undrain", "gw", "--within", "1m").returncode, 0)
        self.assertEqual(self.shown()["drain"]["state"], "none")

    def test_deaths_of_workers_are_told_by_the_server(self):
        g = self.gateway()
        self.assertEqual(self.shown()["workers"]["deaths"], 0)
        g.kill_worker(signal.SIGKILL)
        wait_until(lambda: self.shown()["workers"]["deaths"] == 1, "the server to count the death")
        shown = self.shown()["workers"]
        self.assertIn("SIGKILL", shown["lastDeath"])
        self.assertIsNotNone(shown["lastDeathAt"])
        told = wait_until(lambda: self.events("gateway-worker-died"), "people to be told")
        self.assertIn("SIGKILL", told[0]["text"])
        self.assertIn("deaths: 1", self.weir("describe", "gateway", "gw"))
        # A server that begins anew knows the number, and tells of none that it did not see.
        self.restart_server()
        self.admitted()
        self.assertEqual(self.shown()["workers"]["deaths"], 1)
        self.assertEqual(len(self.events("gateway-worker-died")), 1)


if __name__ == "__main__":
    weirtest.main()
