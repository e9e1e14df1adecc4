# SPDX-License-Identifier: Apache-2.0
"""Goal: live views, metrics and restarts serve people while the world goes on, and no client, however hostile, hurts another.
Method: one real world; each answer is held against the document by tests/lib/openapi.py. Hostile requests are written by hand on
a socket, and the server must answer others after each."""
import concurrent.futures
import contextlib
import http.client
import json
import os
import re
import socket
import sqlite3
import subprocess
import threading
import time

import weirtest
from apicase import AGREEMENT, DOCUMENT, TENANT, ApiCase, World, setUpModule, tearDownModule  # noqa: F401
from weirtest import PATIENCE, wait_until


class Operation(ApiCase):
    def events(self, enough, headers=None):
        """Server-sent events until `enough`, of what came: [(event, data)]."""
        c = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        c.request("GET", "/api/v1/live", headers={"Accept": "text/event-stream", **(headers or {})})
        r = c.getresponse()
        self.assertEqual((r.status, r.headers["Content-Type"]), (200, "text/event-stream"))
        out, name, end = [], None, time.monotonic() + PATIENCE
        while not enough(out) and time.monotonic() < end:
            line = r.readline().decode().rstrip("\n")
            if line.startswith("event: "):
                name = line[7:]
            elif line.startswith("data: "):
                out.append((name, json.loads(line[6:])))
        c.close()
        return out

    def test_live_views_come_each_second_and_notices_when_they_happen(self):
        self.call("PUT", "/api/v1/agreements/gold", AGREEMENT, expect=201)
        got = []

        def enough(seen):
            got[:] = seen
            names = [name for name, _ in seen]
            switched = any(name == "event" and data["kind"] == "enforcement-off" for name, data in seen)
            return switched and names.count("streams") > 3 and names.count("agreements") > 3
        t = threading.Thread(target=self.events, args=(enough,))
        t.start()
        wait_until(lambda: "streams" in [name for name, _ in got], "a first view")
        self.call("PUT", "/api/v1/enforcement", {"on": False}, expect=200)
        self.assertEqual(self.call("GET", "/api/v1/enforcement", expect=200)[2], {"on": False})
        self.assertFalse(self.call("GET", "/api/v1/status")[2]["enforcement"]["on"])
        self.call("PUT", "/api/v1/enforcement", {"on": True}, expect=200)
        t.join()
        schemas = {"streams": {"type": "array", "items": DOCUMENT.schema("Stream")}, "event": DOCUMENT.schema("Event"),
                   "agreements": {"type": "array", "items": DOCUMENT.schema("AgreementLive")}, "action": DOCUMENT.schema("Action")}
        for name, data in got:
            self.assertEqual(DOCUMENT.errors(data, schemas[name]), [], name)
        names = [name for name, _ in got]
        self.assertGreaterEqual(names.count("streams"), 3)
        self.assertGreaterEqual(names.count("agreements"), 3)
        self.assertIn("enforcement-off", [d["kind"] for n, d in got if n == "event"])
        self.assertIn("127.0.0.1/gold-1", [s["key"] for s in [d for n, d in got if n == "streams"][-1]])

    def test_a_switch_is_told_once_however_many_processes_it_reaches(self):
        start = self.server.items("/events")
        for on in (False, True):
            self.call("PUT", "/api/v1/enforcement", {"on": on}, expect=200)

        def told():
            return [e["kind"] for e in self.server.items("/events")[:-len(start) or None] if e["kind"].startswith("enforcement-")]
        wait_until(lambda: "enforcement-on" in told(), "the events to be stored")
        self.assertEqual(sorted(told()), ["enforcement-off", "enforcement-on"])

    def test_the_enforcement_switch_takes_only_on_or_off(self):
        for body in ({}, {"on": 1}, {"on": "yes"}, {"on": True, "why": "x"}, {"off": True}):
            self.call("PUT", "/api/v1/enforcement", body, expect=422)
        self.call("PUT", "/api/v1/enforcement", b"", expect=422)

    def test_more_listeners_than_the_bound_are_refused_and_those_there_go_on(self):
        with contextlib.ExitStack() as stack:
            socks = []
            for i in range(33):
                s = stack.enter_context(contextlib.closing(socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE)))
                s.sendall(f"GET /api/v1/live HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\n\r\n".encode())
                first = s.recv(12)
                self.assertEqual(first, b"HTTP/1.1 200" if i < 32 else b"HTTP/1.1 503")
                socks.append(s)
            socks[0].settimeout(PATIENCE)
            data = b""
            while data.count(b"event: streams") < 2:
                data += socks[0].recv(65536)
            self.assertEqual(self.server.request("GET", "/readyz", token=False)[0], 200)
        wait_until(lambda: "weir_live_clients 0\n" in self.metrics(), "all listeners to be gone")

    def metrics(self):
        status, _, text = self.server.request("GET", "/metrics", headers={"Accept": "*/*"})
        self.assertEqual(status, 200)
        return text

    def test_metrics_are_clean_and_tell_of_streams(self):
        weirtest.need("promtool")
        self.call("PUT", "/api/v1/agreements/gold", AGREEMENT, expect=201)
        text = self.metrics()
        r = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True, timeout=PATIENCE)
        self.assertEqual((r.returncode, r.stdout + r.stderr), (0, ""))
        labels = r'stream="127\.0\.0\.1/gold-1",gateway="gw1",tenant="",target="[^"]*",op="read"'
        n = int(re.search(r"^weir_io_operations_total\{" + labels + r"\} (\d+)$", text, re.M).group(1))
        self.assertGreater(n, 0)
        buckets = re.findall(r"^weir_io_duration_seconds_bucket\{" + labels + r',le="([^"]+)"\} (\d+)$', text, re.M)
        counts = [int(c) for _, c in buckets]
        self.assertEqual((buckets[-1][0], counts), ("+Inf", sorted(counts)))
        self.assertNotIn("<img", text)
        with open(os.path.join(weirtest.ROOT, "docs", "guide", "metrics.md"), encoding="utf-8") as f:
            said = set(re.findall(r"`(weir_\w+)", f.read()))
        with_tls = {f"weir_{of}_certificate_expiry_timestamp_seconds" for of in ("control", "http")}
        self.assertEqual(set(re.findall(r"^# TYPE (\S+)", text, re.M)) | with_tls, said)
        for family in ("weir_build_info", 'weir_gateways{state="admitted"} 1', "weir_mailbox_depth{", "weir_store_available 1",
                       "weir_monitor_sessions_now 1\n", "weir_monitor_reports_total ",
                       "weir_target_probe_reachable{", 'weir_agreement_streams{agreement="gold"}'):
            self.assertIn(family, text)

    def test_counts_are_those_of_the_hosts(self):
        done = World.loads[1].done

        def seen():
            c = self.server.get("/streams/127.0.0.1/plain")["counters"]
            return c["read"]["completions"] >= done and c["write"]["errors"] == 0
        wait_until(seen, "the counters to have what the host did")

    def test_a_restarted_server_knows_documents_tokens_and_settings(self):
        w = World.world
        state = w.path("again")
        s = w.server(state_dir=state)
        s.put("/agreements/gold", AGREEMENT)
        token = s.request("POST", "/api/v1/tokens", {"name": "ci", "role": "operator"})[2]["token"]
        s.request("PUT", "/api/v1/enforcement", {"on": False})
        admin = s.admin_token
        self.assertEqual(s.stop(), 0)
        s = w.server(state_dir=state)
        self.assertEqual(s.admin_token, admin)
        self.assertEqual(s.get("/agreements/gold")["version"], 1)
        self.assertIsNotNone(s.get("/agreements/gold")["status"])
        self.assertEqual(s.get("/enforcement"), {"on": False})
        self.assertEqual(s.request("PUT", "/api/v1/tenants/acme", TENANT, token=token)[0], 201)
        self.assertEqual(s.stop(), 0)

    def test_while_the_database_is_locked_writes_are_refused_in_words_and_views_go_on(self):
        s = World.world.server(state_dir=World.world.path("locked"))
        db = sqlite3.connect(os.path.join(s.state_dir, "state.db"), isolation_level=None)
        db.execute("BEGIN IMMEDIATE")
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            writes = [pool.submit(s.request, "PUT", f"/api/v1/tenants/t{i}", {**TENANT, "name": f"t{i}"}) for i in range(3)]
            views = 0
            while not all(w.done() for w in writes):
                self.assertEqual(s.request("GET", "/api/v1/streams")[0], 200)
                views += not all(w.done() for w in writes)  # it came while something was still waited for
                time.sleep(0.05)
        for w in writes:
            status, headers, problem = w.result()
            self.check("PUT", "/api/v1/tenants/t", status, headers, problem)
            self.assertEqual((status, problem["detail"].startswith("the database: ")), (503, True), problem)
        self.assertGreater(views, 0)
        db.execute("ROLLBACK")
        db.close()
        wait_until(lambda: s.request("GET", "/readyz", token=False)[0] == 200, "the database to be back")
        self.assertEqual(s.items("/tenants"), [])  # what was refused is not written later
        self.assertEqual(s.request("PUT", "/api/v1/tenants/acme", TENANT)[0], 201)

    def test_a_server_that_ends_lets_listeners_and_requests_go(self):
        s = World.world.server(state_dir=World.world.path("ending"))
        host, port = s.http[7:].split(":")
        with contextlib.closing(socket.create_connection((host, int(port)), timeout=PATIENCE)) as c:
            c.sendall(f"GET /api/v1/live HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode())
            c.recv(12)
            self.assertEqual(s.stop(), 0)
            with contextlib.suppress(ConnectionError):
                while c.recv(65536):
                    pass

    def test_a_retired_gateway_that_still_knows_the_key_comes_back(self):
        w = World.world
        g = w.gateway(target=World.storage.uri, server=self.server, name="gw2")
        wait_until(lambda: any(x["name"] == "gw2" and x["state"] == "admitted" for x in self.server.items("/gateways")), "gw2")
        self.call("DELETE", "/api/v1/gateways/gw2", expect=204)
        wait_until(lambda: any(x["name"] == "gw2" and x["state"] == "admitted" for x in self.server.items("/gateways")), "gw2 again")
        g.stop()


class Hostile(ApiCase):
    def tearDown(self):
        self.assertEqual(self.server.request("GET", "/readyz", token=False)[0], 200)
        super().tearDown()

    def test_broken_requests_are_answered_or_closed_and_nobody_else_notices(self):
        host = f"Host: 127.0.0.1:{self.port}\r\n"
        bad = [
            b"\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"GET\r\n\r\n", b"GET  HTTP/1.1\r\n\r\n",
            b"GET / HTTP/9.9\r\n" + host.encode() + b"\r\n", f"GET / HTTP/1.1\r\n{host}{host}\r\n".encode(), b"GET / HTTP/1.1\r\n\r\n",
            f"GET /%00 HTTP/1.1\r\n{host}\r\n".encode(), f"GET /%zz HTTP/1.1\r\n{host}\r\n".encode(),
            f"GET http://evil/ HTTP/1.1\r\n{host}\r\n".encode(), f"OPTIONS * HTTP/1.1\r\n{host}\r\n".encode(),
            f"GET /{'a' * 60000} HTTP/1.1\r\n{host}\r\n".encode(), f"GET / HTTP/1.1\r\n{host}X: {'a' * 100000}\r\n\r\n".encode(),
            f"GET / HTTP/1.1\r\n{host}{'X: y' * 5000}\r\n\r\n".encode(), f"GET / HTTP/1.1\r\n{host} folded\r\n\r\n".encode(),
            f"PUT /api/v1/tenants/a HTTP/1.1\r\n{host}Content-Length: -5\r\n\r\n".encode(),
            f"PUT /api/v1/tenants/a HTTP/1.1\r\n{host}Content-Length: 99999999999999999999\r\n\r\n".encode(),
            f"PUT /api/v1/tenants/a HTTP/1.1\r\n{host}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".encode(),
            f"PUT /api/v1/tenants/a HTTP/1.1\r\n{host}Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n".encode(),
            f"PUT /api/v1/tenants/a HTTP/1.1\r\n{host}Transfer-Encoding: chunked\r\n\r\nzz\r\n".encode(),
            f"{'G' * 30000} / HTTP/1.1\r\n{host}\r\n".encode(), bytes(range(256)) * 40,
        ]
        for data in bad:
            answer = self.raw(data)
            ours = answer.startswith(b"HTTP/1.1 5") and not answer.startswith(b"HTTP/1.1 505")
            self.assertFalse(ours, f"{data[:60]!r}: {answer[:200]!r}")
            self.assertEqual(self.server.request("GET", "/healthz", token=False, headers={"Accept": "*/*"})[0], 200, data[:60])

    def test_pipelined_requests_are_answered_in_order(self):
        host = f"Host: 127.0.0.1:{self.port}\r\n"
        answer = self.raw(f"GET /healthz HTTP/1.1\r\n{host}\r\nGET /api/v1/status HTTP/1.1\r\n{host}\r\n"
                          f"GET /nope HTTP/1.1\r\n{host}Connection: close\r\n\r\n".encode())
        self.assertEqual(re.findall(rb"HTTP/1.1 (\d+)", answer), [b"200", b"200", b"404"])

    def test_clients_that_vanish_in_the_middle_leave_nothing_behind(self):
        before = self.server.descriptors()
        for i in range(200):
            s = socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE)
            whole = f"GET /api/v1/status HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\n\r\n".encode()
            s.sendall(whole[:len(whole) * (i % 10 + 1) // 10])
            s.close()
        wait_until(lambda: self.server.descriptors() <= before + 5, "descriptors to be closed")

    def test_a_client_that_dribbles_its_headers_is_cut_off(self):
        with contextlib.closing(socket.create_connection(("127.0.0.1", self.port), timeout=60)) as s:
            s.sendall(b"GET /healthz HTTP/1.1\r\n")
            def dribble():
                s.sendall(b"X")
                s.settimeout(0.5)
                with contextlib.suppress(TimeoutError):
                    return s.recv(1000) == b"" or None
                return None
            def cut():
                try:
                    return dribble()
                except ConnectionError:
                    return True
            wait_until(cut, "the connection to be cut off", 45, 0.5)

    def test_more_connections_than_the_bound_of_one_address_wait_for_nobody(self):
        with contextlib.ExitStack() as stack:
            socks = [stack.enter_context(contextlib.closing(socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE)))
                     for _ in range(90)]
            request = f"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\n\r\n".encode()
            served = refused = 0
            for s in socks:
                try:
                    s.sendall(request)
                    answer = s.recv(65536)
                except ConnectionError:
                    answer = b""
                served += answer.startswith(b"HTTP/1.1 200")
                refused += answer == b""
            self.assertEqual((served + refused, served <= 64, served >= 32), (90, True, True), (served, refused))
        wait_until(lambda: self.server.request("GET", "/healthz", token=False, headers={"Accept": "*/*"})[0] == 200
                   if self.can_get() else False, "room for others")

    def can_get(self):
        try:
            self.server.request("GET", "/healthz", token=False, headers={"Accept": "*/*"})
            return True
        except OSError:
            return False

    def test_many_clients_at_once_all_get_answers(self):
        paths = ("status", "streams?histograms=true", "agreements", "events", "debug/threads", "debug/polls", "targets", "gateways",
                 "hosts")
        with concurrent.futures.ThreadPoolExecutor(24) as pool:
            results = list(pool.map(lambda i: self.server.request("GET", "/api/v1/" + paths[i % len(paths)])[0], range(400)))
        self.assertEqual(set(results), {200})


if __name__ == "__main__":
    weirtest.main()
