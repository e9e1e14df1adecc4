# SPDX-License-Identifier: Apache-2.0
"""Goal: off loopback gateway and server speak through TLS or not at all, each knows the other, and a token is enough for the
first contact.
Method: a server that listens on every address (so that TLS is required although the test stays on this machine), gateways, and
peers by hand with Python's own TLS."""
import os
import re
import shutil
import signal
import socket
import ssl
import time
import unittest

import controlwire
import nbd
import tlskeys
import weirtest
from weirtest import wait_until


def far_server(w, *args, state_dir=None, control="0.0.0.0:0"):
    s = w.server(*args, state_dir=state_dir, control=control)
    s.port = int(s.control.rsplit(":", 1)[1])
    return s


def far_gateway(w, server, target, *args, tls="", name="gw1", state_dir=None, address="127.0.0.1"):
    conf = (f"[server]\naddress = {address}:{server.port}\ntls = require\n{tls}\n[listener l]\naddress = 127.0.0.1:0\n"
            f"target = t\n[target t]\nuri = {target}\n")
    return w.gateway(*args, config=conf, name=name, state_dir=state_dir)


def token_of(server):
    return server.request("POST", "/api/v1/enrolment-tokens", {})[2]["token"]


def link(gateway):
    return gateway.local(get="status")["status"]["link"]


def stands(gateway):
    wait_until(lambda: link(gateway)["connected"], "the link to stand")


def says(gateway, pattern):
    wait_until(lambda: re.search(pattern, link(gateway)["lastError"] or ""), f"the link to say {pattern}")


class ControlTls(unittest.TestCase):
    def setUp(self):
        self.world = weirtest.World()
        self.world.__enter__()
        self.addCleanup(lambda: self.world.__exit__(None, None, None))
        self.target = self.world.nbdkit("memory", "1M").uri

    def test_a_token_is_enough_to_know_the_server_and_to_be_known_from_then_on(self):
        w = self.world
        server = far_server(w)
        token = token_of(server)
        self.assertRegex(token, r"^weir1\.[0-9a-f]{16}\.[A-Za-z0-9_-]{43}\.[A-Za-z0-9_-]{43}$")
        gateway = far_gateway(w, server, self.target, "--token", token)
        stands(gateway)
        for name in ("credential", "tls.pem", "server.fingerprint", "identity"):
            self.assertEqual(os.stat(os.path.join(gateway.state_dir, name)).st_mode & 0o777, 0o600, name)
        with open(os.path.join(gateway.state_dir, "server.fingerprint"), encoding="ascii") as f:
            self.assertIn(f.read().strip(), server.output())
        first = wait_until(lambda: next((g for g in server.items("/gateways") if g["state"] == "admitted"), None), "admission")
        # The server comes back with its key, the gateway without its token.
        gateway.stop()
        server.stop()
        server = far_server(w, state_dir=server.state_dir, control=f"0.0.0.0:{server.port}")
        gateway = far_gateway(w, server, self.target, state_dir=gateway.state_dir)
        stands(gateway)
        again = wait_until(lambda: next((g for g in server.items("/gateways") if g["state"] == "admitted"), None), "admission")
        self.assertEqual(again["id"], first["id"])

    def test_a_server_with_another_key_is_not_spoken_to(self):
        w = self.world
        server = far_server(w)
        gateway = far_gateway(w, server, self.target, "--token", token_of(server))
        stands(gateway)
        server.stop()
        os.remove(os.path.join(server.state_dir, "tls.pem"))
        server = far_server(w, state_dir=server.state_dir, control=f"0.0.0.0:{server.port}")
        says(gateway, "another server answers")
        self.assertEqual([g for g in server.items("/gateways") if g["state"] == "admitted"], [])

    def test_without_a_way_to_know_the_server_nothing_is_said_to_it(self):
        server = far_server(self.world)
        gateway = far_gateway(self.world, server, self.target, "--key-file", os.path.join(server.state_dir, "gateway.key"))
        says(gateway, "no way to know the server")
        fingerprint = re.search(r"sha256:[0-9a-f]{64}", server.output()).group(0)
        gateway = far_gateway(self.world, server, self.target, "--key-file", os.path.join(server.state_dir, "gateway.key"),
                              tls=f"tls-fingerprint = {fingerprint}", name="gw2")
        stands(gateway)

    def test_authorities_vouch_for_both_where_they_are_configured(self):
        w = self.world
        weirtest.need("certtool")
        ca, other = tlskeys.Authority(w.path("ca"), "ca"), tlskeys.Authority(w.path("other"), "other")
        good, foreign = ca.folder("good"), other.folder("foreign")
        conf = w.path("server.conf")
        with open(conf, "w", encoding="utf-8") as f:
            f.write(f"[control]\ntls-certificate = {good}/server-cert.pem\ntls-key = {good}/server-key.pem\n"
                    f"tls-client-ca = {good}/ca-cert.pem\n")
        server = far_server(w, "--config", conf)

        def gateway(name, own, trusted, *more):
            return far_gateway(w, server, self.target, "--token", token_of(server), name=name, tls="\n".join((
                f"tls-certificate = {own}/client-cert.pem", f"tls-key = {own}/client-key.pem", f"tls-ca = {trusted}/ca-cert.pem",
                *more)))
        stands(gateway("gw1", good, good))
        says(gateway("gw2", good, foreign), "issuer is unknown")
        says(gateway("gw3", good, good, "tls-verify-name = elsewhere.example"), "name")
        stranger = gateway("gw4", foreign, good)
        says(stranger, ".")
        self.assertFalse(link(stranger)["connected"])
        wait_until(lambda: "TLS with a gateway at 127.0.0.1 failed" in server.output(), "the server to say so")

    def test_plaintext_is_told_that_tls_is_required(self):
        server = far_server(self.world)
        wire = controlwire.Wire(f"127.0.0.1:{server.port}")
        wire.send("hello", version_min=1, version_max=1)
        body, fields = wire.receive()
        self.assertEqual((body, fields["code"]), ("error", "refused"))
        self.assertIn("TLS", fields["words"])
        with self.assertRaises(controlwire.Closed):
            wire.receive()

    def test_a_peer_without_a_certificate_and_half_handshakes_get_nowhere(self):
        server = far_server(self.world)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with self.assertRaises((OSError, ssl.SSLError)):
            s = context.wrap_socket(socket.create_connection(("127.0.0.1", server.port), 20))
            s.sendall(b"\0\0\0\1x")
            if s.recv(1) == b"":
                raise OSError("closed")
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        with self.assertRaises((OSError, ssl.SSLError)):
            context.wrap_socket(socket.create_connection(("127.0.0.1", server.port), 20))
        begin = time.monotonic()
        halves = [socket.create_connection(("127.0.0.1", server.port), 40) for _ in range(10)]
        for n, s in enumerate(halves):
            s.sendall(bytes.fromhex("1603010200010001fc0303")[:n])
        gateway = far_gateway(self.world, server, self.target, "--token", token_of(server))
        stands(gateway)
        for s in halves:
            self.assertEqual(s.recv(1), b"")
            s.close()
        self.assertGreater(time.monotonic() - begin, 5)

    def test_a_credential_works_with_the_certificate_it_was_made_with_only(self):
        w = self.world
        server = far_server(w)
        gateway = far_gateway(w, server, self.target, "--token", token_of(server))
        stands(gateway)
        gateway.stop()
        thief = w.path("thief")
        shutil.copytree(gateway.state_dir, thief)
        os.remove(os.path.join(thief, "tls.pem"))
        stolen = far_gateway(w, server, self.target, state_dir=thief)
        says(stolen, "another certificate")

    def test_statistics_and_controls_pass_through_tls(self):
        w = self.world
        server = far_server(w)
        gateway = far_gateway(w, server, self.target, "--token", token_of(server))
        stands(gateway)
        h = nbd.NBD()
        h.connect_uri(gateway.uri())
        for i in range(50):
            h.pwrite(bytes(4096), 4096 * i)
        wait_until(lambda: server.items("/streams"), "a stream at the server")
        server.put("/agreements/slow", {"kind": "Agreement", "name": "slow", "appliesTo": {"host": "*"}, "limit": {"iops": 7}})
        wait_until(lambda: "slow" in str(gateway.local(get="streams")), "the limit at the gateway")


class Sandbox(unittest.TestCase):
    def state(self, process):
        with open(f"/proc/{process.pid}/status", encoding="utf-8") as f:
            text = f.read()
        return {k: int(re.search(rf"^{k}:\s+(\d+)", text, re.M).group(1)) for k in ("Seccomp", "NoNewPrivs")}

    def test_both_daemons_are_in_it_unless_told_otherwise(self):
        with weirtest.World() as w:
            target = w.nbdkit("memory", "1M")
            server = w.server()
            gateway = w.gateway(target=target.uri, server=server)
            with open(f"/proc/{gateway.pid}/maps", encoding="utf-8") as f:
                if re.search("lib[at]san", f.read()):
                    self.skipTest("a sanitizer: no sandbox")
            inside, outside = {"Seccomp": 2, "NoNewPrivs": 1}, {"Seccomp": 0, "NoNewPrivs": 0}
            for p in (server, gateway):
                wait_until(lambda p=p: self.state(p) == inside, f"{p.name} in its sandbox")
                for thread in os.listdir(f"/proc/{p.pid}/task"):
                    with open(f"/proc/{p.pid}/task/{thread}/status", encoding="utf-8") as f:
                        self.assertRegex(f.read(), r"Seccomp:\s+2", thread)
            # The manager is in one of its own, from within which it starts the next worker.
            self.assertEqual(self.state(gateway.popen), inside)
            self.assertNotEqual(gateway.pid, gateway.popen.pid)
            gateway.kill_worker()
            self.assertEqual(self.state(gateway), inside)
            free = w.gateway("--no-sandbox", target=target.uri, name="free")
            self.assertEqual(self.state(free), outside)
            self.assertEqual(self.state(w.server("--no-sandbox", state_dir=w.path("free-server"))), outside)
            gateway.popen.send_signal(signal.SIGHUP)
            self.assertTrue(gateway.alive())


if __name__ == "__main__":
    weirtest.main()
