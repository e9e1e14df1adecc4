# SPDX-License-Identifier: Apache-2.0
"""Goal: the gateway's local socket says what is so, about the time since each client's own last request, within its bounds, and
no client of it disturbs another or the I/O.
Method: one gateway in front of nbdkit, I/O counted by this test, sockets by hand."""
import contextlib
import json
import os
import re
import resource
import socket
import threading
import unittest

import nbd
import weirtest

CONF = """
[gateway]
name = gw
[listener a]
address = 127.0.0.1:0
target = t
[target t]
uri = {uri}
tenant = acme
[limit slow]
volume = slow
iops = 20
burst-iops = 40
burst-for = 1s
[limit far]
volume = *
iops = 1000000
bandwidth = 100GiB/s
"""


class Client:
    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(weirtest.PATIENCE)
        self.socket.connect(path)
        self.file = self.socket.makefile("rb")

    def send(self, data):
        self.socket.sendall(data)

    def line(self):
        line = self.file.readline()
        return json.loads(line) if line else None

    def ask(self, **request):
        self.send(json.dumps(request).encode() + b"\n")
        return self.line()

    def stream(self, volume, **more):
        return next(s for s in self.ask(get="streams", **more)["streams"] if s["volume"] == volume)

    def close(self):
        self.file.close()
        self.socket.close()


class Local(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.world = weirtest.World()
        cls.world.__enter__()
        cls.addClassCleanup(cls.world.__exit__, None, None, None)
        cls.storage = cls.world.nbdkit("memory", "16M")
        cls.gateway = cls.world.gateway(config=CONF.format(uri=cls.storage.uri))

    def client(self):
        c = Client(self.gateway.socket_path)
        self.addCleanup(c.close)
        return c

    def host(self, export):
        h = nbd.NBD()
        h.set_export_name(export)
        h.connect_tcp("127.0.0.1", str(self.gateway.port))
        self.addCleanup(h.shutdown)
        return h

    def test_each_client_reads_what_happened_since_its_own_last_request(self):
        h, a, b = self.host("each"), self.client(), self.client()
        for _ in range(10):
            h.pread(4096, 0)
        self.assertGreater(a.stream("each")["iops"], 0)
        for _ in range(5):
            h.pwrite(b"x" * 8192, 0)
        s = a.stream("each")
        self.assertEqual(s["readIops"], 0)
        self.assertGreater(s["writeIops"], 0)
        self.assertEqual(s["counters"]["read"]["completions"], 10)
        self.assertEqual((s["counters"]["write"]["completions"], s["counters"]["write"]["bytes"]), (5, 40960))
        self.assertGreater(s["latency"]["total"]["p99Us"], 0)
        quiet = a.stream("each")
        self.assertEqual((quiet["iops"], quiet["latency"]["total"]["maxUs"]), (0, 0))
        self.assertGreater(quiet["latencyEver"]["total"]["maxUs"], 0)
        self.assertGreater(b.stream("each")["readIops"], 0)

    def test_histograms_hold_every_answered_operation(self):
        h, c = self.host("hist"), self.client()
        for _ in range(30):
            h.pread(4096, 0)
        for _ in range(20):
            h.pwrite(b"y" * 512, 0)
        s = c.stream("hist", histograms=True)
        for direction, count in (("read", 30), ("write", 20)):
            for part in ("held", "target", "total"):
                hist = s["histograms"][direction][part]
                self.assertEqual(hist["count"], count)
                self.assertEqual(hist["buckets"][-1][1], count)
                edges = [b[0] for b in hist["buckets"]]
                self.assertEqual(edges, sorted(edges))
        self.assertNotIn("histograms", c.stream("hist"))

    def test_a_held_stream_says_by_what_and_why_and_how_its_credit_stands(self):
        h, c = self.host("slow"), self.client()
        before = c.stream("slow")
        names = {(limit["id"], limit["kind"]) for limit in before["limits"]}
        self.assertEqual(names, {("file/slow", "iops"), ("file/far", "iops"), ("file/far", "bandwidth")})
        limit = next(x for x in before["limits"] if x["id"] == "file/slow")
        self.assertEqual((limit["origin"], limit["perSecond"], limit["burstPerSecond"], limit["burstForMs"]), ("file", 20, 40, 1000))
        self.assertEqual((limit["creditPercent"], limit["fullInMs"], before["burstCreditPercent"]), (100, 0, 100))
        self.assertGreater(limit["emptyInMs"], 900)
        ended = threading.Event()

        def load():
            buffers = [nbd.Buffer(512) for _ in range(16)]
            while not ended.is_set():
                for cookie in [h.aio_pread(b, 0) for b in buffers]:
                    while not h.aio_command_completed(cookie):
                        h.poll(-1)
        t = threading.Thread(target=load)
        t.start()
        self.addCleanup(t.join)
        self.addCleanup(ended.set)

        def held():
            s = c.stream("slow")
            return s if s["heldBy"] and s["latency"]["held"]["maxUs"] > 0 and s["burstCreditPercent"] < 10 else None
        s = weirtest.wait_until(held, "the stream to be held and its credit to be spent")
        self.assertEqual((s["heldBy"], s["heldKind"]), ("file/slow", "iops"))
        self.assertGreater(s["heldNow"], 0)
        self.assertGreater(s["oldestHeldUs"], 0)
        self.assertGreater(s["latency"]["total"]["maxUs"], s["latency"]["target"]["p50Us"])
        limit = next(x for x in s["limits"] if x["id"] == "file/slow")
        self.assertGreater(limit["fullInMs"], 0)
        control = next(x for x in c.ask(get="controls")["controls"] if x["id"] == "file/slow")
        self.assertEqual((control["origin"], control["limit"]["iops"], control["limit"]["bandwidth"]), ("file", 20, None))
        self.assertGreater(control["heldEver"], 0)

    def test_targets_and_status_are_told(self):
        self.host("status")
        c = self.client()
        target = c.ask(get="targets")["targets"][0]
        self.assertEqual((target["name"], target["uri"], target["gateways"]), ("t", self.storage.uri, ["gw"]))
        self.assertGreaterEqual(target["connections"], 1)
        status = c.ask(get="status")["status"]
        self.assertEqual(status["listeners"], [{"name": "a", "address": self.gateway.address, "target": "t"}])
        self.assertGreaterEqual(status["connections"]["active"], 1)
        self.assertIn("host-disconnected", status["connections"]["closed"])
        self.assertFalse(status["link"]["configured"])

    def test_streams_of_many_slices_come_whole(self):
        hosts = [self.host(f"many{i}") for i in range(30)]
        for h in hosts:
            h.pread(512, 0)
        names = [s["volume"] for s in self.client().ask(get="streams")["streams"]]
        self.assertEqual(len(names), len(set(names)))
        self.assertTrue({f"many{i}" for i in range(30)} <= set(names))

    def test_wrong_requests_are_answered_and_the_connection_goes_on(self):
        c = self.client()
        for line in (b"", b"x", b"[]", b"{}", b'{"get":"secrets"}', b'{"get":1}', b'{"get":"status","more":1}', b'{"get":"status",',
                     b'{"get":"targets","histograms":true}', b'{"get":"streams","histograms":"yes"}', b"\xff\xfe", b"\0"):
            c.send(line + b"\n")
            self.assertIn("error", c.line(), line)
        self.assertIn("status", c.ask(get="status"))

    def test_requests_in_one_go_are_answered_in_order(self):
        c = self.client()
        c.send(b'{"get":"status"}\n{"get":"targets"}\n{"get":"streams"}\n{"get":"con')
        self.assertEqual([list(c.line())[0] for _ in range(3)], ["status", "targets", "streams"])
        c.send(b'trols"}\n')
        self.assertIn("controls", c.line())
        c.send(b'{"get":"status"}\n{"get":"streams"}\n')
        c.socket.shutdown(socket.SHUT_WR)
        self.assertEqual([list(c.line())[0] for _ in range(2)], ["status", "streams"])
        self.assertIsNone(c.line())

    def test_an_endless_request_is_refused_and_ends_the_connection(self):
        c = self.client()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            c.send(b"x" * 100000)
        try:
            self.assertIn("4096", c.line()["error"])
            self.assertIsNone(c.line())
        except ConnectionResetError:
            pass  # what was not read may make a reset of the close
        self.assertIn("status", self.client().ask(get="status"))

    def test_the_seventeenth_client_is_told_and_a_place_is_free_again(self):
        clients = [Client(self.gateway.socket_path) for _ in range(16)]
        try:
            for c in clients:
                c.ask(get="status")
            more = self.client()
            self.assertIn("16 clients", more.line()["error"])
            self.assertIsNone(more.line())
        finally:
            for c in clients:
                c.close()

        def free():
            try:
                return "status" in (self.client().ask(get="status") or {})
            except OSError:
                return False
        weirtest.wait_until(free, "a free place")

    def test_a_client_that_came_while_descriptors_were_short_is_answered_when_there_are_some(self):
        pid = self.gateway.pid
        limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        self.addCleanup(resource.prlimit, pid, resource.RLIMIT_NOFILE, limits)
        first = self.client()
        self.assertIn("status", first.ask(get="status"))
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (len(os.listdir(f"/proc/{pid}/fd")), limits[1]))
        late = self.client()
        late.send(b'{"get": "status"}\n')
        self.assertIn("status", first.ask(get="status"))
        resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
        self.assertIn("status", late.line())

    def test_a_flood_of_wrong_requests_is_answered_in_full_beside_io(self):
        flood, other = self.client(), self.client()
        h = self.host("flood")
        n = 20000
        writer = threading.Thread(target=flood.send, args=(b"\n" * n + b'{"get": "status"}\n',))
        writer.start()
        for i in range(n):
            self.assertIn("error", flood.line())
            if i % 1000 == 0:
                self.assertEqual(len(h.pread(512, 0)), 512)
                self.assertIn("status", other.ask(get="status"))
        self.assertIn("status", flood.line())
        writer.join()

    def test_a_client_that_reads_nothing_is_closed_and_disturbs_nobody(self):
        self.host("deaf")
        deaf, other = self.client(), self.client()
        deaf.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.socket.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            for _ in range(100000):
                deaf.socket.send(b'{"get":"streams"}\n')
        self.assertIn("status", other.ask(get="status"))

        def closed():
            try:
                deaf.socket.send(b"\n")
            except BlockingIOError:
                return False
            except OSError:
                return True
            return False
        weirtest.wait_until(closed, "the deaf client to be closed", 60, 0.5)
        self.assertIn("status", other.ask(get="status"))

    def test_the_socket_is_its_owners_and_goes_with_the_gateway(self):
        g = self.world.gateway(target=self.storage.uri, name="short")
        self.assertEqual(os.stat(g.socket_path).st_mode & 0o777, 0o600)
        c = Client(g.socket_path)
        c.ask(get="status")
        self.assertEqual(g.stop(), 0)
        self.assertIsNone(c.line())
        c.close()
        self.assertFalse(os.path.exists(g.socket_path))

    def test_documented_names_are_those_that_are_told(self):
        with open(os.path.join(weirtest.ROOT, "docs/guide/local-socket.md"), encoding="utf-8") as f:
            documented = set(re.findall(r'"(\w+)":', f.read()))
        self.host("names")
        c = self.client()

        def names(value):
            if isinstance(value, dict):
                return set(value) | {n for v in value.values() for n in names(v)}
            return {n for v in value for n in names(v)} if isinstance(value, list) else set()
        told = names(c.ask(get="streams", histograms=True)) | names(c.ask(get="targets")) | names(c.ask(get="controls"))
        told |= names(c.ask(get="status"))
        operations = {"flush", "trim", "write_zeroes", "cache", "block_status", "other"}
        self.assertEqual(sorted(n for n in told - documented - operations if "-" not in n and n != "shutdown"), [])


if __name__ == "__main__":
    weirtest.main()
