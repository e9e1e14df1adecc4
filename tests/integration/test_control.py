#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Goal: the control protocol as docs/protocol.md says it, held by the real weir-server against gateways made by hand,
honest ones and hostile ones; and by the real weir-gateway for enrolment and coming back.

Method: tests/lib/controlwire.py reads the schema anew and speaks it over TCP and the Unix socket; one rule is broken a
test, and what people can see of it (the answer, the events, the counters) is looked at.
"""
import os
import socket
import struct
import sys
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import controlwire  # noqa: E402
import weirtest  # noqa: E402
from controlwire import Closed, Gateway, Wire  # noqa: E402

HELLO_GOOD = dict(version_min=1, version_max=1, name="x", key_id="local")


class ControlProtocol(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.world = weirtest.World()
        cls.server = cls.world.server()
        with open(os.path.join(cls.server.state_dir, "gateway.key"), encoding="ascii") as f:
            cls.key = bytes.fromhex(f.read())

    @classmethod
    def tearDownClass(cls):
        cls.world.__exit__(None, None, None)

    def gateway(self, **other):
        g = Gateway(self.server.control, self.key, **other)
        self.addCleanup(g.close)
        return g

    def refused(self, wire, code):
        """The next frame is an Error of this code with words, and then the connection ends."""
        error = wire.expect("error")
        self.assertEqual(error["code"], code)
        self.assertGreater(len(error["words"]), 10)
        with self.assertRaises(Closed):
            wire.receive()

    def seen(self, name, state="admitted"):
        def look():
            return next((g for g in self.server.items("/gateways") if g["name"] == name and g["state"] == state), None)
        return weirtest.wait_until(look, f"gateway {name} to be {state}")

    def token(self):
        status, _, body = self.server.request("POST", "/api/v1/enrolment-tokens", {})
        self.assertIn(status, (200, 201), body)
        return body["token"]

    # ---- handshake

    def test_a_gateway_over_tcp_and_over_the_unix_socket_is_discovered(self):
        tcp = self.gateway(name="over-tcp").connect()
        unix = Gateway("unix:" + os.path.join(self.server.state_dir, "control.sock"), self.key, name="over-unix")
        self.addCleanup(unix.close)
        unix.connect()
        self.assertNotEqual(tcp.welcome["session"], unix.welcome["session"])
        for g in (tcp, unix):
            self.answer(g, self.next_poll(g), 1)
        self.assertEqual(self.seen("over-tcp")["id"], tcp.gateway_id.hex())
        self.assertEqual(self.seen("over-unix")["address"], f"uid:{os.getuid()}")

    def test_a_newer_gateway_is_answered_in_the_version_both_speak(self):
        g = self.gateway(name="newer")
        g.hello(version_max=7)
        self.assertEqual(g.wire.expect("challenge")["version"], 1)

    def test_no_version_in_common_is_said(self):
        g = self.gateway()
        g.hello(version_min=2, version_max=3)
        self.refused(g.wire, "version")

    def test_a_wrong_key_is_refused_and_people_are_told(self):
        g = self.gateway(name="stranger")
        g.key = os.urandom(32)
        g.hello()
        g.wire.send("proof", proof=g.prove(g.wire.expect("challenge")))
        self.refused(g.wire, "auth")
        weirtest.wait_until(
            lambda: [e for e in self.server.items("/events")
                     if e["kind"] == "gateway-refused" and e["subject"] == "gateway/stranger"],
            "the refusal among the events")

    def test_a_replayed_proof_is_refused(self):
        first = self.gateway().connect()
        again = self.gateway(gateway_id=first.gateway_id, boot_id=first.boot_id)
        again.nonce = first.nonce
        again.hello()
        again.wire.expect("challenge")
        again.wire.send("proof", proof=first.prove(first.challenge))
        self.refused(again.wire, "auth")

    def test_what_the_server_proved_cannot_be_sent_back_to_it(self):
        g = self.gateway()
        g.hello()
        g.wire.send("proof", proof=g.wire.expect("challenge")["proof"])
        self.refused(g.wire, "auth")

    def test_garbage_is_refused_or_closed(self):
        for raw in (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", struct.pack(">I", 0), struct.pack(">I", (1 << 20) + 1),
                    struct.pack(">I", 5) + b"\xff" * 5, controlwire.frame("poll", dict(seq=1)),
                    controlwire.frame("hello", dict(HELLO_GOOD, gateway_id=b"short", boot_id=bytes(16), nonce=bytes(32))),
                    controlwire.frame("hello", dict(HELLO_GOOD, name="n" * 600, gateway_id=bytes(16),
                                                    boot_id=bytes(16), nonce=bytes(32)))):
            wire = Wire(self.server.control)
            wire.sock.sendall(raw)
            error = wire.expect("error")
            self.assertIn(error["code"], ("proto", "too-large"), raw)
            with self.assertRaises(Closed):
                wire.receive()
            wire.close()

    def test_a_half_open_connection_is_closed_in_time(self):
        wires = [Wire(self.server.control, 30) for _ in range(3)]
        wires[1].sock.sendall(struct.pack(">I", 100))
        for w in wires:
            with self.assertRaises(Closed):
                w.receive()
            w.close()

    # ---- enrolment

    def test_a_token_enrols_once_and_its_credential_is_bound_to_the_gateway(self):
        ident, key = controlwire.token_key(self.token())
        g = Gateway(self.server.control, key, key_id="token:" + ident, name="enrolled")
        self.addCleanup(g.close)
        g.connect()
        self.assertRegex(g.welcome["new_key_id"], r"^gateway:[0-9a-f]{32}$")
        new = controlwire.derive(key, g.gateway_id, g.nonce, g.challenge["nonce"])
        again = self.gateway(name="second-use")
        again.key, again.key_id = key, "token:" + ident
        again.hello()
        body, challenge = again.wire.receive()
        if body == "challenge":  # the keys are being read again; the store still gives the token to nobody
            again.wire.send("proof", proof=again.prove(challenge))
            self.refused(again.wire, "auth")
        else:
            self.assertEqual((body, challenge["code"]), ("error", "auth"))
        g.close()
        self.seen("enrolled", "lost")
        back = Gateway(self.server.control, new, key_id=g.welcome["new_key_id"], gateway_id=g.gateway_id, name="enrolled")
        self.addCleanup(back.close)
        back.connect()
        self.assertFalse(back.welcome.get("new_key_id"))
        self.answer(back, self.next_poll(back), 1)
        self.seen("enrolled")
        thief = Gateway(self.server.control, new, key_id=g.welcome["new_key_id"], name="thief")
        self.addCleanup(thief.close)
        thief.hello()
        self.refused(thief.wire, "auth")

    def test_retiring_a_gateway_ends_its_session_and_its_credential(self):
        ident, key = controlwire.token_key(self.token())
        g = Gateway(self.server.control, key, key_id="token:" + ident, name="to-retire")
        self.addCleanup(g.close)
        g.connect()
        self.answer(g, self.next_poll(g), 1)
        self.seen("to-retire")
        # On its way from one SLA process to another it is in neither's cache for a moment.
        weirtest.wait_until(lambda: self.server.request("DELETE", "/api/v1/gateways/to-retire")[0] in (200, 204),
                            "the gateway to be retired")
        self.assertEqual(self.server.request("GET", "/api/v1/gateways/to-retire")[0], 404)
        with self.assertRaises(Closed):
            while True:
                g.wire.receive()
                g.wire.send("heartbeat")
        new = controlwire.derive(key, g.gateway_id, g.nonce, g.challenge["nonce"])
        back = Gateway(self.server.control, new, key_id=g.welcome["new_key_id"], gateway_id=g.gateway_id)
        self.addCleanup(back.close)
        back.hello()
        self.refused(back.wire, "auth")

    def test_an_unknown_key_is_refused(self):
        g = self.gateway()
        g.key_id = "gateway:" + "0" * 32
        g.hello()
        self.refused(g.wire, "auth")

    # ---- sessions

    def answer(self, g, poll, reads, **other):
        """Statistics of one stream that has made @reads reads of 4 KiB, each of about 1 ms."""
        stream = dict(index=1, ops=[dict(op=0, arrivals=reads, completions=reads, bytes=4096 * reads,
                                         bytes_arrived=4096 * reads)],
                      hists=[dict(kind=k, write=False, index=[1200], count=[reads], sum_ns=reads * 1000000,
                                  max_ns=1100000) for k in (1, 2)], connections=1)
        if poll.get("acked", 0) == 0:
            stream["info"] = dict(host="10.9.8.7", volume="db-" + g.name, target="array", size=1 << 20)
        values = dict(seq=poll["seq"], base_seq=poll.get("acked", 0), mono_ns=poll["seq"] * 10**9, boot_id=g.boot_id,
                      epoch=0, streams=[stream],
                      targets=[dict(name="array", uri="nbd://127.0.0.1:1", connections=1)])
        values.update(other)
        g.wire.send("statistics", **values)

    def test_a_lost_answer_loses_no_counts(self):
        g = self.gateway(name="lossy").connect()
        reads = 0
        for turn in range(6):
            poll = self.next_poll(g)
            reads += 100
            if turn in (1, 2, 4):
                continue  # as if the answer had been lost on the way
            self.answer(g, poll, reads)
        stream = weirtest.wait_until(
            lambda: next((s for s in self.server.items("/streams") if s["volume"] == "db-lossy" and
                          s["counters"]["read"]["completions"] == reads), None), "all reads to be counted")
        self.assertEqual(stream["counters"]["read"]["bytes"], 4096 * reads)

    def next_poll(self, g):
        """The next poll; controls on the way are acknowledged."""
        while True:
            body, fields = g.wire.receive()
            if body == "set_controls" and not fields.get("more"):
                g.wire.send("controls_ack", epoch=fields["epoch"])
            elif body == "poll":
                return fields

    def test_a_session_that_breaks_the_protocol_ends_and_others_go_on(self):
        bystander = self.gateway(name="bystander").connect()
        other_boot = dict(seq=1, boot_id=bytes(16))
        for n, raw in enumerate((struct.pack(">I", 1 << 30), struct.pack(">I", 3) + b"\x08\x01\x02",
                                 controlwire.frame("hello", {}), controlwire.frame("statistics", other_boot),
                                 controlwire.frame("statistics", dict(seq=1, boot_id=bytes(15))))):
            g = self.gateway(name=f"bad-{n}").connect()
            g.wire.sock.sendall(raw)
            with self.assertRaises(Closed):
                while True:
                    g.wire.receive()
        self.next_poll(bystander)

    def test_a_silent_gateway_is_let_go(self):
        g = self.gateway(name="silent").connect()
        self.assertEqual(g.welcome["heartbeat_ms"], 2000)
        with self.assertRaises(Closed):
            while True:
                g.wire.receive()
        self.seen("silent", "lost")

    def test_a_second_session_of_a_live_identity_is_ended(self):
        g = self.gateway(name="twice").connect()
        self.next_poll(g)
        other = self.gateway(name="twice", gateway_id=g.gateway_id)
        other.connect()
        body = "heartbeat"
        while body != "bye":
            body, fields = other.wire.receive()
        self.assertTrue(fields["why"])
        self.next_poll(g)

    def test_many_connections_at_once_all_get_an_answer_or_an_end(self):
        wires = [socket.create_connection(self.address(), 20) for _ in range(200)]
        for s in wires:
            s.close()

        # Whoever comes while the crowd is still in the door may be turned away for the cap of it.
        def gets_in():
            try:
                return self.gateway(name="after-the-crowd").connect()
            except Closed:
                return None
        weirtest.wait_until(gets_in, "a gateway to get in after the crowd")

    def address(self):
        host, port = self.server.control.rsplit(":", 1)
        return host, int(port)


class RealGateway(unittest.TestCase):
    def test_a_gateway_enrols_and_comes_back_with_its_credential_when_the_server_does(self):
        with weirtest.World() as w:
            target = w.nbdkit("memory", "16M")
            server = w.server()
            token = server.request("POST", "/api/v1/enrolment-tokens", {})[2]["token"]
            gateway = w.gateway("--server", server.control, "--token", token, target=target.uri, name="gw1")

            def admitted():
                return next((g for g in server.items("/gateways") if g["state"] == "admitted"), None)
            first = weirtest.wait_until(admitted, "the gateway to be admitted")
            with open(os.path.join(gateway.state_dir, "credential"), encoding="ascii") as f:
                self.assertRegex(f.read(), r"^gateway:[0-9a-f]{32} [0-9a-f]{64}\n$")
            self.assertEqual(os.stat(os.path.join(gateway.state_dir, "credential")).st_mode & 0o777, 0o600)
            server.kill()
            weirtest.wait_until(lambda: not gateway.local(get="status")["status"]["link"]["connected"],
                                "the gateway to notice")
            server = w.server(state_dir=server.state_dir, control=server.control)
            weirtest.wait_until(admitted, "the gateway to come back")
            self.assertEqual(admitted()["id"], first["id"])
            self.assertTrue(gateway.local(get="status")["status"]["link"]["connected"])
            self.assertTrue(gateway.alive())


if __name__ == "__main__":
    weirtest.main()
