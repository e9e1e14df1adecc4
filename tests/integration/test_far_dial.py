# SPDX-License-Identifier: Apache-2.0
"""Goal: a server may dial gateways on other machines; both then know each other as if the gateway had dialled.
Method: a network of the test's own, in which 192.0.2.1 and 192.0.2.2 are beyond loopback; a server, gateways that listen, and peers
by hand that listen in the place of a gateway or dial in the place of a server."""
import os
import re
import socket
import unittest

import controlwire
import tlskeys
import weirtest
from weirtest import wait_until

NEAR, FAR = "192.0.2.1", "192.0.2.2"


def setUpModule():
    weirtest.own_network(NEAR, FAR)


def link(gateway):
    return gateway.local(get="status")["status"]["link"]


def says(gateway, pattern):
    wait_until(lambda: re.search(pattern, link(gateway)["lastError"] or ""), f"the link to say {pattern}")


class FarDial(unittest.TestCase):
    def setUp(self):
        self.world = weirtest.World()
        self.world.__enter__()
        self.addCleanup(lambda: self.world.__exit__(None, None, None))
        self.target = self.world.nbdkit("memory", "1M").uri

    def server(self, port, more="", **where):
        path = self.world.path("server.conf")
        with open(path, "w", encoding="ascii") as f:
            f.write(f"[control]\ngateways = {FAR}:{port}\n{more}")
        return self.world.server("--config", path, **where)

    def gateway(self, port, *args, more="", name="far", state_dir=None):
        return self.world.gateway(*args, config=(
            f"[server]\nlisten = {FAR}:{port}\n{more}\n[listener l]\naddress = 127.0.0.1:0\ntarget = t\n"
            f"[target t]\nuri = {self.target}\n"), name=name, state_dir=state_dir)

    def admitted(self, server, name="far"):
        def look():
            return next((g for g in server.items("/gateways") if g["name"] == name and g["state"] == "admitted"), None)
        return wait_until(look, f"{name} to be admitted")

    def test_a_far_gateway_enrols_and_is_known_again_by_its_certificate(self):
        port = weirtest.free_port()
        server = self.server(port)
        token = server.request("POST", "/api/v1/enrolment-tokens", {})[2]["token"]
        gateway = self.gateway(port, "--token", token)
        first = self.admitted(server)
        self.assertEqual(first["address"], FAR)
        for name in ("credential", "tls.pem", "server.fingerprint"):
            self.assertTrue(os.path.exists(os.path.join(gateway.state_dir, name)), name)
        server.put("/agreements/slow", {"kind": "Agreement", "name": "slow", "appliesTo": {"host": "*"}, "limit": {"iops": 7}})
        wait_until(lambda: server.get("/gateways/far")["epoch"]["applied"] > 0, "controls in force")
        # Each comes back, the gateway without its token.
        state = gateway.state_dir
        gateway.stop()
        gateway = self.gateway(port, state_dir=state)
        self.assertEqual(self.admitted(server)["id"], first["id"])
        server.stop()
        server = self.server(port, state_dir=server.state_dir)
        self.assertEqual(self.admitted(server)["id"], first["id"])
        # The credential alone, with another certificate, is worth nothing, as when the gateway dials.
        gateway.stop()
        os.remove(os.path.join(state, "tls.pem"))
        gateway = self.gateway(port, state_dir=state)
        says(gateway, "another certificate")

    def test_a_stranger_that_dials_is_told_nothing_before_it_has_shown_who_it_is(self):
        port = weirtest.free_port()
        server = self.server(port)
        token = server.request("POST", "/api/v1/enrolment-tokens", {})[2]["token"]
        server.stop()
        gateway = self.gateway(port, "--token", token, name="reticent")
        with socket.create_connection((FAR, port), weirtest.PATIENCE) as s:
            first = s.recv(4096)
            self.assertEqual(first[0], 22, "the gateway begins TLS")
            self.assertNotIn(b"reticent", first)
            with open(os.path.join(gateway.state_dir, "identity"), encoding="ascii") as f:
                self.assertNotIn(bytes.fromhex(f.read().strip()), first)
        # A server with another key is left before Hello.
        other = self.server(port, state_dir=self.world.path("other"))
        says(gateway, "another server answers")
        self.assertEqual(other.items("/gateways"), [])
        other.stop()
        server = self.server(port, state_dir=server.state_dir)
        self.admitted(server, "reticent")

    def test_a_far_gateway_that_speaks_without_tls_is_refused(self):
        with socket.create_server((FAR, 0)) as listener:
            self.server(listener.getsockname()[1])
            listener.settimeout(weirtest.PATIENCE)
            sock, _ = listener.accept()
            with sock:
                sock.settimeout(weirtest.PATIENCE)
                sock.sendall(controlwire.frame("hello", {"version_min": 1, "version_max": 1}))
                data = b""
                while not data.endswith(b"TLS is required on this address"):
                    more = sock.recv(4096)
                    self.assertNotEqual(more, b"", data)
                    data += more

    def test_with_an_authority_the_name_of_the_dialling_server_is_looked_at(self):
        weirtest.need("certtool")
        port = weirtest.free_port()
        ca = tlskeys.Authority(self.world.path("ca"), "ca").folder("keys", server="weir.example")
        server = self.server(port, f"tls-certificate = {ca}/server-cert.pem\ntls-key = {ca}/server-key.pem\n"
                                   f"tls-client-ca = {ca}/ca-cert.pem\n")
        token = server.request("POST", "/api/v1/enrolment-tokens", {})[2]["token"]
        own = f"tls-certificate = {ca}/client-cert.pem\ntls-key = {ca}/client-key.pem\ntls-ca = {ca}/ca-cert.pem\n"
        gateway = self.gateway(port, "--token", token, more=own + "tls-verify-name = elsewhere.example")
        says(gateway, "name")
        gateway.stop()
        self.gateway(port, "--token", token, more=own + "tls-verify-name = weir.example")
        self.admitted(server)
        with open(self.world.path("nameless.conf"), "w", encoding="ascii") as f:
            f.write(f"[server]\nlisten = {FAR}:{port}\n{own}[listener l]\naddress = 127.0.0.1:0\ntarget = t\n"
                    f"[target t]\nuri = {self.target}\n")
        nameless = weirtest.Process(self.world, "weir-gateway", [
            weirtest.GATEWAY, "--check-config", "--config", self.world.path("nameless.conf")])
        wait_until(lambda: not nameless.alive(), "the check to end")
        self.assertIn("listen and tls-ca without tls-verify-name", nameless.output())


if __name__ == "__main__":
    weirtest.main()
