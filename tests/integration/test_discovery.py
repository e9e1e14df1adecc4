#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Goal: how gateways and server find each other and stay the same to each other: a server that dials, strangers that dial a gateway,
copied identities, clocks that differ, and frames as version 1 has them, byte for byte.

Method: real gateways and servers; hostile and old peers are sockets. tests/integration/transcript_v1.txt holds what version 1 says in
both directions as bytes; only nonces, proofs and a boot id are put in. It is never changed: a later version must still pass it.
"""
import os
import re
import shutil
import socket
import struct
import sys
import threading
import time
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import controlwire  # noqa: E402
import weirtest  # noqa: E402
from controlwire import Closed, Gateway  # noqa: E402

KEY = bytes(range(32))


def transcript():
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "transcript_v1.txt")
    with open(path, encoding="ascii") as f:
        return dict(line.split() for line in f if line.strip() and not line.startswith("#"))


def fill(text, **parts):
    """The bytes of a transcript's line, with what differs each time put in."""
    return bytes.fromhex(re.sub(r"\{(\w+)\}", lambda m: parts[m.group(1)].hex(), text))


class Peer:
    """Frames as raw bytes."""

    def __init__(self, sock):
        self.sock = sock
        sock.settimeout(weirtest.PATIENCE)

    def exactly(self, n):
        out = b""
        while len(out) < n:
            more = self.sock.recv(n - len(out))
            if not more:
                raise Closed()
            out += more
        return out

    def frame(self):
        head = self.exactly(4)
        return head + self.exactly(struct.unpack(">I", head)[0])

    def beyond_beats(self):
        """(bytes, body, fields) of the next frame that is no heartbeat."""
        while True:
            raw = self.frame()
            fields = controlwire.decode("Frame", raw[4:])
            body = next(iter(fields))
            if body != "heartbeat":
                return raw, body, fields[body]


class Discovery(unittest.TestCase):
    def setUp(self):
        self.world = weirtest.World()
        self.addCleanup(lambda: self.world.__exit__(None, None, None))

    def server(self, conf="", **where):
        """A server whose local key is KEY."""
        state = where.pop("state_dir", None) or self.world.path("server")
        os.makedirs(state, mode=0o700, exist_ok=True)
        key = os.path.join(state, "gateway.key")
        if not os.path.exists(key):
            with open(key, "w", encoding="ascii", opener=lambda p, f: os.open(p, f, 0o600)) as f:
                f.write(KEY.hex() + "\n")
        path = self.world.path("server.conf")
        with open(path, "w", encoding="ascii") as f:
            f.write(conf)
        return self.world.server("--config", path, state_dir=state, **where)

    def listening_gateway(self, port, name="far", state_dir=None):
        key = self.world.path("far.key")
        with open(key, "w", encoding="ascii") as f:
            f.write(KEY.hex() + "\n")
        storage = self.world.nbdkit("memory", "1M")
        return self.world.gateway(config=f"[gateway]\nname = {name}\n[server]\nlisten = 127.0.0.1:{port}\nkey-file = {key}\n"
                                         f"[listener l]\naddress = 127.0.0.1:0\ntarget = t\n[target t]\nuri = {storage.uri}\n",
                                  state_dir=state_dir)

    def admitted(self, server, name):
        def look():
            return next((g for g in server.items("/gateways") if g["name"] == name and g["state"] == "admitted"), None)
        return weirtest.wait_until(look, f"{name} to be admitted")

    # ---- the server dials

    def test_a_server_dials_the_gateways_that_it_lists_and_finds_them_again(self):
        port = weirtest.free_port()
        server = self.server(f"[control]\ngateways = 127.0.0.1:{port}\n")
        time.sleep(0.3)  # nobody listens there yet
        gateway = self.listening_gateway(port)
        first = self.admitted(server, "far")
        self.assertIsNone(gateway.popen.poll())
        state = gateway.state_dir
        gateway.kill()
        weirtest.wait_until(lambda: server.items("/gateways")[0]["state"] == "lost", "the loss to be seen")
        again = self.listening_gateway(port, state_dir=state)
        self.assertEqual(self.admitted(server, "far")["id"], first["id"])
        where = {"state_dir": server.state_dir, "control": server.control}
        server.stop()
        server = self.server(f"[control]\ngateways = 127.0.0.1:{port}\n", **where)
        self.assertEqual(self.admitted(server, "far")["id"], first["id"])
        self.assertTrue(again.alive())

    def test_a_stranger_that_dials_a_gateway_learns_nothing_and_keeps_nobody_out(self):
        port = weirtest.free_port()
        self.listening_gateway(port)
        silent = socket.create_connection(("127.0.0.1", port), weirtest.PATIENCE)
        self.addCleanup(silent.close)
        self.assertEqual(Peer(silent).beyond_beats()[1], "hello")
        silent.settimeout(weirtest.PATIENCE)
        self.assertEqual(silent.recv(10), b"", "a stranger that proves nothing is left after a while")
        liar = socket.create_connection(("127.0.0.1", port), weirtest.PATIENCE)
        self.addCleanup(liar.close)
        peer = Peer(liar)
        self.assertEqual(peer.beyond_beats()[1], "hello")
        liar.sendall(controlwire.frame("challenge", {"version": 1, "nonce": bytes(32), "proof": bytes(32), "server_name": "liar"}))
        _, body, error = peer.beyond_beats()
        self.assertEqual((body, error["code"]), ("error", "auth"))
        # Many at once, and ever more of them, while the server comes.
        crowd = [socket.create_connection(("127.0.0.1", port), weirtest.PATIENCE) for _ in range(100)]
        stop = threading.Event()

        def more():
            while not stop.wait(0.2) and len(crowd) < 500:
                crowd.append(socket.create_connection(("127.0.0.1", port), weirtest.PATIENCE))
        t = threading.Thread(target=more)
        t.start()
        try:
            server = self.server(f"[control]\ngateways = 127.0.0.1:{port}\n")
            self.admitted(server, "far")
            with socket.create_connection(("127.0.0.1", port), weirtest.PATIENCE) as late:
                late.settimeout(weirtest.PATIENCE)
                self.assertEqual(late.recv(10), b"", "while a session stands nobody is told anything")
        finally:
            stop.set()
            t.join()
            for s in crowd:
                s.close()
        self.assertEqual(server.items("/gateways")[0]["state"], "admitted")

    def test_an_address_that_is_none_is_refused_at_start(self):
        path = self.world.path("bad.conf")
        with open(path, "w", encoding="ascii") as f:
            f.write("[control]\ngateways = 192.0.2.1:7401\ngateways = nonsense:port\n")
        p = weirtest.Process(self.world, "weir-server", [weirtest.SERVER, "--config", path, "--check-config", "--state-dir", "/tmp/x"])
        weirtest.wait_until(lambda: not p.alive(), "the check to end")
        self.assertNotEqual(p.popen.returncode, 0)
        self.assertNotIn("192.0.2.1:7401", p.output())
        self.assertIn("nonsense:port", p.output())

    # ---- identity

    def test_a_copied_identity_is_reported_and_the_newcomer_refused(self):
        server = self.server()
        storage = self.world.nbdkit("memory", "1M")
        first = self.world.gateway(target=storage.uri, server=server, name="first")
        self.admitted(server, "first")
        copy = self.world.path("copied")
        os.makedirs(copy, mode=0o700)
        shutil.copy(os.path.join(first.state_dir, "identity"), copy)
        self.world.gateway(target=storage.uri, server=server, name="second", state_dir=copy)

        def told():
            return [e for e in server.items("/events?limit=100") if e["kind"] == "gateway-identity-conflict"]
        text = weirtest.wait_until(told, "the conflict to be told")[0]["text"]
        self.assertIn("first", text)
        self.assertIn("second", text)
        self.assertEqual([g["name"] for g in server.items("/gateways")], ["first"])

    def test_clocks_that_differ_change_no_rate(self):
        server = self.server()
        found = {}
        for name, origin in (("early", 1), ("late", (1 << 62) + 12345)):
            g = Gateway(server.control, KEY, name=name)
            self.addCleanup(g.close)
            g.connect()
            began = time.monotonic_ns()
            while name not in found and time.monotonic_ns() - began < 20e9:
                poll = g.wire.receive()
                if poll[0] == "set_controls":
                    g.wire.send("controls_ack", epoch=poll[1]["epoch"])
                if poll[0] != "poll":
                    continue
                elapsed = time.monotonic_ns() - began
                ios = elapsed // 1000000  # a thousand a second
                g.wire.send("statistics", seq=poll[1]["seq"], base_seq=0, mono_ns=origin + elapsed, boot_id=g.boot_id, epoch=0, streams=[
                    {"index": 0, "connections": 1, "info": {"host": name, "volume": "v", "target": "t", "size": 1},
                     "ops": [{"op": 0, "arrivals": ios, "completions": ios, "bytes": ios * 512}]}])
                rate = next((s["iops"] for s in server.items("/streams") if s["key"] == f"{name}/v"), 0)
                if rate:
                    found[name] = rate
        for name, rate in found.items():
            self.assertTrue(900 <= rate <= 1100, f"{name}: {rate} I/Os a second, expected 1000")
        self.assertEqual(len(found), 2)

    # ---- admission by people

    def state(self, server, name):
        return server.get(f"/gateways/{name}")["state"]

    def test_an_unknown_gateway_waits_until_people_admit_it_and_is_admitted_from_then_on(self):
        conf = "[control]\nadmission = manual\n"
        server = self.server(conf)
        server.put("/tenants/everybody", {"kind": "Tenant", "name": "everybody", "members": [{"volume": "*"}], "limit": {"iops": 5000}})
        storage = self.world.nbdkit("memory", "1M")
        gateway = self.world.gateway(target=storage.uri, server=server, name="new")

        def waiting():
            return next((g for g in server.items("/gateways") if g["state"] == "pending" and g["polls"] >= 4), None)
        seen = weirtest.wait_until(waiting, "the gateway to wait, polled all the while")
        self.assertEqual((seen["advice"], seen["epoch"]["desired"]), ("weir gateway admit new", 0))
        table = self.world.cli(server, "get", "gateways", check=True).stdout
        self.assertRegex(table, r"new\s+pending.*weir gateway admit new")

        # Only an administrator may, and only what is there.
        self.assertEqual(server.request("POST", "/api/v1/gateways/new/admit", token=False)[0], 401)
        token = server.request("POST", "/api/v1/tokens", {"name": "op", "role": "operator"})[2]["token"]
        self.assertEqual(server.request("POST", "/api/v1/gateways/new/admit", token=token)[0], 403)
        self.assertEqual(server.request("POST", "/api/v1/gateways/old/admit")[0], 404)
        self.assertNotEqual(self.world.cli(server, "gateway", "admit", "old").returncode, 0)
        self.assertEqual(self.state(server, "new"), "pending")

        self.world.cli(server, "gateway", "admit", seen["id"], check=True)
        self.assertIsNone(self.admitted(server, "new")["advice"])
        weirtest.wait_until(lambda: server.get("/gateways/new")["epoch"]["applied"] > 0, "its controls to be in force")
        self.assertEqual(server.request("POST", "/api/v1/gateways/new/admit")[0], 204, "admitted twice is admitted")

        def told():
            return [e for e in server.items("/events?limit=100") if e["kind"] == "gateway-admitted"]
        weirtest.wait_until(told, "the admission to be told")
        audit = [a for a in server.items("/audit?limit=100") if a["verb"] == "gateway-admit"]
        self.assertEqual({a["actor"] for a in audit}, {"admin"}, audit)

        self.assertEqual(len(told()), 1, told())

        # Over a restart of the server, killed, it needs nobody; another still does.
        where = {"state_dir": server.state_dir, "control": server.control}
        server.kill()
        server = self.server(conf, **where)
        self.admitted(server, "new")
        self.assertTrue(gateway.alive())
        self.world.gateway(target=storage.uri, server=server, name="another")
        weirtest.wait_until(lambda: any(g["name"] == "another" and g["state"] == "pending" and g["polls"] >= 3
                                        for g in server.items("/gateways")), "the other to wait")

        # One that is retired is unknown again.
        self.world.cli(server, "gateway", "retire", "new", check=True)
        weirtest.wait_until(lambda: any(g["name"] == "new" and g["state"] == "pending" and g["polls"] >= 3
                                        for g in server.items("/gateways")), "the retired one to wait again")

    def test_one_that_waited_and_went_waits_again_and_may_be_admitted_meanwhile(self):
        server = self.server("[control]\nadmission = manual\n")
        storage = self.world.nbdkit("memory", "1M")
        gateway = self.world.gateway(target=storage.uri, server=server, name="new")

        def is_now(state):
            return lambda: any(g["state"] == state for g in server.items("/gateways"))
        weirtest.wait_until(is_now("pending"), "it to wait")
        state_dir = gateway.state_dir
        gateway.stop()
        weirtest.wait_until(is_now("lost"), "the loss to be seen")
        gateway = self.world.gateway(target=storage.uri, server=server, name="new", state_dir=state_dir)
        weirtest.wait_until(is_now("pending"), "it to wait again")
        gateway.stop()
        weirtest.wait_until(is_now("lost"), "the second loss to be seen")
        self.assertEqual(server.request("POST", "/api/v1/gateways/new/admit")[0], 204)
        where = {"state_dir": server.state_dir, "control": server.control}
        server.kill()
        server = self.server("[control]\nadmission = manual\n", **where)
        self.world.gateway(target=storage.uri, server=server, name="new", state_dir=state_dir)
        self.admitted(server, "new")

    def test_a_wrong_way_of_admission_is_refused_at_start(self):
        path = self.world.path("bad.conf")
        with open(path, "w", encoding="ascii") as f:
            f.write("[control]\nadmission = maybe\n")
        p = weirtest.Process(self.world, "weir-server", [weirtest.SERVER, "--config", path, "--check-config", "--state-dir", "/tmp/x"])
        weirtest.wait_until(lambda: not p.alive(), "the check to end")
        self.assertNotEqual(p.popen.returncode, 0)
        self.assertIn("expected auto or manual", p.output())

    # ---- version 1, byte for byte

    def test_a_gateway_of_version_1_is_still_understood(self):
        server, said = self.server(), transcript()
        host, port = server.control.rsplit(":", 1)
        sock = socket.create_connection((host, int(port)), weirtest.PATIENCE)
        self.addCleanup(sock.close)
        peer = Peer(sock)
        gateway_id, boot, nonce = bytes(range(16)), bytes(range(16, 32)), bytes(range(32, 64))
        sock.sendall(fill(said["gateway-hello"]))
        raw, body, challenge = peer.beyond_beats()
        self.assertEqual((body, challenge["version"]), ("challenge", 1))
        self.assertEqual(challenge["proof"], controlwire.proof(KEY, b"S", 1, gateway_id, boot, nonce, challenge["nonce"], "local"))
        sock.sendall(fill(said["gateway-proof"], proof=controlwire.proof(KEY, b"G", 1, gateway_id, boot, nonce, challenge["nonce"],
                                                                         "local")))
        self.assertEqual(peer.beyond_beats()[1], "welcome")
        raw, body, poll = peer.beyond_beats()
        self.assertEqual((body, poll["seq"], poll.get("acked", 0)), ("poll", 1, 0))
        sock.sendall(fill(said["gateway-heartbeat"]) + fill(said["gateway-surge"]) + fill(said["gateway-statistics"]))
        self.admitted(server, "old")
        stream = next(s for s in server.items("/streams") if s["key"] == "host-a/disk")
        counters = stream["counters"]
        self.assertEqual((counters["read"]["arrivals"], counters["write"]["bytes"], stream["size"]), (70, 8192, 1 << 20))
        while True:
            raw, body, fields = peer.beyond_beats()
            if body == "set_controls":
                break
        sock.sendall(controlwire.frame("controls_ack", {"epoch": fields["epoch"]}))
        sock.sendall(fill(said["gateway-bye"]))
        weirtest.wait_until(lambda: server.items("/gateways")[0]["state"] == "lost", "the end of the session to be seen")

    def test_a_server_of_version_1_is_still_obeyed(self):
        said = transcript()
        port = weirtest.free_port()
        gateway = self.listening_gateway(port)
        sock = socket.create_connection(("127.0.0.1", port), weirtest.PATIENCE)
        self.addCleanup(sock.close)
        peer = Peer(sock)
        _, body, h = peer.beyond_beats()
        self.assertEqual((body, h["version_min"], h["key_id"]), ("hello", 1, "local"))
        nonce = bytes(range(64, 96))
        about = (1, h["gateway_id"], h["boot_id"], h["nonce"], nonce, "local")
        sock.sendall(fill(said["server-challenge"], proof=controlwire.proof(KEY, b"S", *about)))
        _, body, p = peer.beyond_beats()
        self.assertEqual((body, p["proof"]), ("proof", controlwire.proof(KEY, b"G", *about)))
        sock.sendall(fill(said["server-welcome"]) + fill(said["server-first-poll"]))
        _, body, s = peer.beyond_beats()
        self.assertEqual((body, s["seq"], s["boot_id"], s["targets"][0]["name"]), ("statistics", 1, h["boot_id"], "t"))
        sock.sendall(fill(said["server-set-controls"]))
        _, body, a = peer.beyond_beats()
        self.assertEqual((body, a["epoch"], a.get("status", 0)), ("controls_ack", 5, 0))
        self.assertTrue(gateway.alive())


if __name__ == "__main__":
    weirtest.main()
