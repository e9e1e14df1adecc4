# SPDX-License-Identifier: Apache-2.0
"""Goal: the API is what docs/openapi.yaml says, route by route; nobody reads or writes who may not; and no client, however
hostile, hurts another.
Method: one real world (storage, gateway, server, I/O by libnbd) for all tests; each answer is held against the document by
tests/lib/openapi.py. Hostile requests are written by hand on a socket, and the server must answer others after each."""
import concurrent.futures
import contextlib
import http.client
import json
import os
import re
import socket
import sqlite3
import stat
import subprocess
import threading
import time
import unittest

import nbd
import openapi
import weirtest
from weirtest import PATIENCE, wait_until

DOCUMENT = openapi.Document()
AGREEMENT = {"kind": "Agreement", "name": "gold", "appliesTo": {"volume": "gold-*"},
             "objectives": [{"percentile": 99, "latency": "5ms", "whileIops": 4000}, {"percentile": "mean", "latency": "9ms"}],
             "reservation": {"iops": 100}, "limit": {"iops": 12000, "bandwidth": "400MiB/s", "burst": {"iops": 20000, "for": "60s"}},
             "compliance": {"target": "99.9%", "window": "10s", "over": "30d"}}
TENANT = {"kind": "Tenant", "name": "acme", "members": [{"host": "10.0.0.*"}, {"volume": "acme-*"}], "limit": {"iops": 30000}}
POLICY = {"kind": "Policy", "name": "office", "appliesTo": {"volume": "gold-*"}, "floor": {"iops": 100}, "maxCut": "20%",
          "freeze": [{"days": ["mon", "tue"], "from": "08:00", "to": "18:00"}]}
DOCUMENTS = {"agreements": ("Agreement", AGREEMENT), "tenants": ("Tenant", TENANT), "policies": ("Policy", POLICY)}
HOSTILE = "<img src=x onerror=alert(1)>\"'&/../"


class Load(threading.Thread):
    """A host that reads and writes one volume, steadily, until it is told to end."""

    def __init__(self, uri):
        super().__init__(daemon=True)
        self.uri, self.ending, self.done = uri, threading.Event(), 0

    def run(self):
        h = nbd.NBD()
        h.connect_uri(self.uri)
        while not self.ending.wait(0.005):
            h.pwrite(b"weir" * 1024, (self.done % 64) * 4096)
            h.pread(4096, (self.done % 64) * 4096)
            self.done += 1
        h.shutdown()


class World:
    """What all tests share: started once, ended once."""
    world = server = gateway = storage = None
    loads = []

    @classmethod
    def start(cls):
        cls.world = weirtest.World()
        cls.world.__enter__()
        cls.storage = cls.world.nbdkit("memory", "64M")
        cls.server = cls.world.server()
        cls.gateway = cls.world.gateway(target=cls.storage.uri, server=cls.server, name="gw1")
        for volume in ("gold-1", "plain"):
            cls.loads.append(Load(cls.gateway.uri(volume)))
        h = nbd.NBD()
        h.set_export_name(HOSTILE)
        h.connect_tcp("127.0.0.1", str(cls.gateway.port))
        h.pread(512, 0)
        cls.hostile = h
        for load in cls.loads:
            load.start()
        wait_until(lambda: len(cls.server.items("/streams")) >= 3, "three streams")
        wait_until(lambda: cls.server.items("/targets")[0]["probe"], "a probe of the target", 60)

    @classmethod
    def end(cls):
        for load in cls.loads:
            load.ending.set()
        for load in cls.loads:
            load.join(PATIENCE)
        cls.hostile.shutdown()
        cls.world.__exit__(None, None, None)


def setUpModule():
    try:
        World.start()
    except BaseException:
        World.world.__exit__(None, None, None)
        raise


def tearDownModule():
    World.end()


class ApiCase(unittest.TestCase):
    def setUp(self):
        self.server = World.server
        self.port = int(self.server.http.rsplit(":", 1)[1])

    def tearDown(self):
        for plural in DOCUMENTS:
            for d in self.server.items("/" + plural):
                self.server.request("DELETE", f"/api/v1/{plural}/{d['name']}")

    def call(self, method, path, body=None, expect=None, **kw):
        """(status, headers, body), held against the document for the route that `path` names."""
        status, headers, answer = self.server.request(method, path, body, **kw)
        if expect is not None:
            self.assertEqual(status, expect, f"{method} {path}: {answer}")
        self.check(method, path, status, headers, answer)
        return status, headers, answer

    def check(self, method, path, status, headers, answer):
        template = self.template(path)
        if template is None:
            operation = {"responses": {"default": {"$ref": "#/components/responses/Problem"}}}
        else:
            operation = DOCUMENT.tree["paths"][template].get(method.lower().replace("head", "get"))
            if operation is None:
                operation = {"responses": {"default": {"$ref": "#/components/responses/Problem"}}}
        response = DOCUMENT.response(operation, status)
        self.assertIsNotNone(response, f"{method} {path}: {status} is not in the document")
        for h in response.get("headers", {}):
            self.assertIn(h, headers, f"{method} {path}: {status}")
        content = response.get("content")
        if not content:
            self.assertEqual(answer or "", "", f"{method} {path}: {status} has a body")
            return
        media = headers.get("Content-Type", "").split(";")[0]
        self.assertIn(media, content, f"{method} {path}: {status} has type {media}")
        if "json" in media and method != "HEAD":
            self.assertEqual(DOCUMENT.errors(answer, content[media]["schema"]), [], f"{method} {path}: {status}")

    def template(self, path):
        parts = path.split("?")[0].split("/")
        for t in DOCUMENT.tree["paths"]:
            want = t.split("/")
            if len(want) == len(parts) and all(w.startswith("{") or w == p for w, p in zip(want, parts)):
                return t
        return None

    def raw(self, data, timeout=PATIENCE):
        """Write bytes, read until the other side closes or says nothing; what came."""
        with contextlib.closing(socket.create_connection(("127.0.0.1", self.port), timeout=timeout)) as s:
            out = b""
            with contextlib.suppress(ConnectionError, TimeoutError):
                s.sendall(data)
                s.settimeout(2)
                while chunk := s.recv(65536):
                    out += chunk
            return out


class Conformance(ApiCase):
    def test_the_server_serves_what_the_document_says_and_nothing_else(self):
        out = subprocess.run([weirtest.SERVER, "--print-routes"], capture_output=True, text=True, check=True).stdout
        served = {tuple(line.split()) for line in out.splitlines()}
        said = set()
        for method, path, operation in DOCUMENT.operations():
            security = operation.get("security", DOCUMENT.tree["security"])
            role = "public" if security == [{}] else "viewer"
            if {} not in security:
                role = "admin" if "Role admin" in operation["summary"] else "operator"
            said.add((method, path, role))
        self.assertEqual(served, said)

    def test_the_document_is_served_by_the_server_itself(self):
        _, _, text = self.call("GET", "/api/v1/openapi.yaml", expect=200, headers={"Accept": "*/*"})
        with open(os.path.join(weirtest.ROOT, "docs", "openapi.yaml"), encoding="utf-8") as f:
            self.assertEqual(text, f.read())

    def test_every_read_answers_as_documented(self):
        for plural, (_, d) in DOCUMENTS.items():
            self.server.put(f"/{plural}/{d['name']}", d)
        stream = next(s for s in self.server.items("/streams") if s["volume"] == "gold-1")
        target = self.server.items("/targets")[0]["name"]
        names = {"agreements": "gold", "tenants": "acme", "policies": "office", "gateways": "gw1", "targets": target}
        read = 0
        for method, path, operation in DOCUMENT.operations():
            if method != "GET" or path == "/api/v1/live" or "tokens/" in path:
                continue
            kind = path.split("/")[3] if path.startswith("/api/v1/") else ""
            real = path.replace("{name}", names.get(kind, "")).replace("{file}", "app.js")
            real = real.replace("{host}", stream["host"]).replace("{volume}", stream["volume"])
            self.assertNotIn("{", real)
            self.call("GET", real, expect=200, headers={"Accept": "*/*"})
            self.call("HEAD", real, expect=200, headers={"Accept": "*/*"})
            read += 1
        self.assertGreater(read, 25)

    def test_views_tell_of_the_io_that_is_done(self):
        wait_until(lambda: self.server.get("/streams/127.0.0.1/gold-1")["iops"] > 0, "I/O of the stream")
        _, _, s = self.call("GET", "/api/v1/streams/127.0.0.1/gold-1?histograms=true", expect=200)
        self.assertEqual((s["gateway"], s["key"]), ("gw1", "127.0.0.1/gold-1"))
        self.assertGreater(s["latency"]["total"]["p99Us"], 0)
        for op in ("read", "write"):
            h = s["histograms"][op]["total"]
            self.assertEqual(h["buckets"][-1][1], h["count"])
            edges, counts = [b[0] for b in h["buckets"]], [b[1] for b in h["buckets"]]
            self.assertEqual((edges, counts), (sorted(edges), sorted(counts)))
        hosts = {h["name"]: h for h in self.call("GET", "/api/v1/hosts", expect=200)[2]["items"]}
        self.assertGreaterEqual(hosts["127.0.0.1"]["streams"], 3)
        volumes = {v["name"] for v in self.call("GET", "/api/v1/volumes", expect=200)[2]["items"]}
        self.assertLessEqual({"gold-1", "plain"}, volumes)
        status = self.call("GET", "/api/v1/status", expect=200)[2]
        self.assertEqual((status["gateways"], status["targets"], status["store"]["ok"]), (1, 1, True))

    def test_filters_choose_streams_by_whole_names(self):
        keys = lambda q: [s["key"] for s in self.call("GET", "/api/v1/streams?" + q, expect=200)[2]["items"]]  # noqa: E731
        self.assertEqual(keys("volume=plain&host=127.0.0.1&gateway=gw1"), ["127.0.0.1/plain"])
        self.assertEqual(keys("volume=pla"), [])
        self.assertEqual(keys("verdict=failing&tenant=nobody"), [])

    def test_history_comes_from_the_database(self):
        path = "/api/v1/streams/127.0.0.1/gold-1/history"
        wait_until(lambda: self.server.request("GET", path)[2]["items"], "a stored sample")
        items = self.call("GET", path + "?limit=5&step=1s", expect=200)[2]["items"]
        self.assertEqual([i["at"] for i in items], sorted(i["at"] for i in items))
        self.assertEqual(self.call("GET", path + "?from=2038-01-01T00:00:00Z", expect=200)[2]["items"], [])
        target = self.server.items("/targets")[0]["name"]
        wait_until(lambda: self.server.request("GET", f"/api/v1/targets/{target}/history")[2]["items"], "a stored probe")
        self.call("GET", f"/api/v1/targets/{target}/history", expect=200)

    def test_hostile_names_are_escaped_and_found_again(self):
        s = next(s for s in self.server.items("/streams") if "img" in s["volume"])
        self.assertNotRegex(s["volume"], r'[<>"& /]')
        quoted = s["volume"].replace("%", "%25")
        found = self.call("GET", f"/api/v1/streams/127.0.0.1/{quoted}", expect=200)[2]
        self.assertEqual(found["volume"], s["volume"])
        self.call("GET", f"/api/v1/streams/127.0.0.1/{quoted}/history", expect=200)

    def test_what_is_not_there_is_not_found(self):
        for path in ("agreements/none", "tenants/none", "policies/none", "agreements/%3Cb%3E", "streams/1.2.3.4/none", "gateways/none",
                     "targets/none", "tokens/none", "nothing", "streams/127.0.0.1", "agreements/", "/", "openapi.json"):
            self.call("GET", "/api/v1/" + path, expect=404)
        for path in ("agreements/none", "tenants/none", "policies/none", "gateways/none", "tokens/none"):
            self.call("DELETE", "/api/v1/" + path, expect=404)
        self.call("GET", "/assets/none.js", expect=404)
        self.call("GET", "/assets/openapi.yaml", expect=404)

    def test_a_method_that_a_path_does_not_take_is_refused_with_those_it_takes(self):
        methods = {}
        for method, path, _ in DOCUMENT.operations():
            methods.setdefault(path, set()).add(method)
        for path, known in methods.items():
            allowed = known | ({"HEAD"} if "GET" in known else set())
            for method in {"GET", "PUT", "POST", "DELETE", "PATCH", "OPTIONS"} - allowed:
                real = re.sub(r"\{\w+\}", "x", path)
                status, headers, _ = self.server.request(method, real)
                self.assertEqual(status, 405, f"{method} {real}")
                self.assertEqual(set(headers["Allow"].split(", ")), allowed, f"{method} {real}")

    def test_unknown_repeated_and_wrong_parameters_are_refused_everywhere(self):
        for method, path, _ in DOCUMENT.operations():
            real = re.sub(r"\{\w+\}", "x", path)
            self.call(method, real + "?nonsense=1", expect=400)
        for query in ("limit=0", "limit=-1", "limit=1e3", "limit=10001", "limit=", "limit=5&limit=6", "limit=99999999999999999999"):
            self.call("GET", "/api/v1/streams?" + query, expect=400)
        for query in ("before=x", "before=", "before=" + "9" * 30, "from=yesterday", "to=2026-13-01T00:00:00Z", "limit=1001",
                      "from=2026-11-23T00:00:00Z&to=2025-11-23T00:00:00Z"):
            self.call("GET", "/api/v1/events?" + query, expect=400)
        self.call("GET", "/api/v1/streams?histograms=yes", expect=400)
        self.call("GET", "/api/v1/streams/a/b/history?step=1", expect=400)
        self.call("PUT", "/api/v1/agreements/gold?dryRun=1", AGREEMENT, expect=400)

    def test_an_answer_nobody_accepts_is_not_given(self):
        self.call("GET", "/api/v1/streams", expect=406, headers={"Accept": "text/html"})
        self.call("GET", "/api/v1/streams", expect=200, headers={"Accept": "text/html, application/*;q=0.1"})
        self.call("GET", "/api/v1/live", expect=406, headers={"Accept": "application/json"})

    def test_every_answer_carries_the_security_headers(self):
        for path in ("/", "/api/v1/streams", "/nope", "/healthz", "/assets/app.js"):
            _, headers, _ = self.server.request("GET", path, headers={"Accept": "*/*"})
            self.assertIn("default-src 'self'", headers["Content-Security-Policy"])
            self.assertIn("frame-ancestors 'none'", headers["Content-Security-Policy"])
            self.assertEqual(headers["X-Content-Type-Options"], "nosniff")
            self.assertIsNone(headers["Access-Control-Allow-Origin"])

    def test_assets_are_not_sent_twice(self):
        for path in ("/", "/assets/app.js", "/assets/style.css", "/assets/icon.svg"):
            _, headers, _ = self.server.request("GET", path, headers={"Accept": "*/*"})
            self.assertEqual(self.server.request("GET", path, headers={"If-None-Match": headers["ETag"]})[0], 304)
            self.assertEqual(self.server.request("GET", path, headers={"If-None-Match": '"other"'})[0], 200)

    def test_the_thread_map_names_every_thread(self):
        names = {t["name"] for t in self.call("GET", "/api/v1/debug/threads", expect=200)[2]["items"]}
        self.assertLessEqual({"acceptor", "app", "inbound[0]", "outbound[0]", "services[0]", "services[1]", "store.writer",
                              "store.reader[0]", "store.reader[1]", "resource", "main"}, names)


class Documents(ApiCase):
    def test_a_document_lives_from_put_to_delete(self):
        for plural, (kind, d) in DOCUMENTS.items():
            with self.subTest(kind):
                path = f"/api/v1/{plural}/{d['name']}"
                _, headers, made = self.call("PUT", path, d, expect=201)
                self.assertEqual((made["result"], headers["Location"]), ("created", path))
                _, got_headers, got = self.call("GET", path, expect=200)
                self.assertEqual((got["spec"], got["updated"]), (made["spec"], made["updated"]))
                self.assertEqual(got_headers["ETag"], headers["ETag"])
                self.assertEqual([x["name"] for x in self.call("GET", f"/api/v1/{plural}", expect=200)[2]["items"]], [d["name"]])
                _, same_headers, same = self.call("PUT", path, d, expect=200)
                self.assertEqual((same["result"], same_headers["ETag"]), ("unchanged", headers["ETag"]))
                # What came out goes in again: the canonical form is a document too.
                self.assertEqual(self.call("PUT", path, got, expect=200)[2]["result"], "unchanged")
                self.call("DELETE", path, expect=204)
                self.call("GET", path, expect=404)
                self.call("DELETE", path, expect=404)
                # A version is never given twice, so an old tag cannot match a new document.
                self.assertGreater(self.call("PUT", path, d, expect=201)[2]["version"], made["version"])

    def test_a_change_makes_a_new_version_and_old_tags_no_longer_match(self):
        path = "/api/v1/agreements/gold"
        _, headers, first = self.call("PUT", path, AGREEMENT, expect=201)
        old = headers["ETag"]
        changed = {**AGREEMENT, "weight": 300}
        _, headers, d = self.call("PUT", path, changed, expect=200, headers={"If-Match": old})
        self.assertEqual((d["result"], d["version"]), ("updated", first["version"] + 1))
        self.assertNotEqual(headers["ETag"], old)
        self.call("PUT", path, AGREEMENT, expect=412, headers={"If-Match": old})
        self.call("PUT", path, AGREEMENT, expect=412, headers={"If-Match": "W/" + headers["ETag"]})
        self.call("PUT", path, AGREEMENT, expect=412, headers={"If-None-Match": "*"})
        self.call("DELETE", path, expect=412, headers={"If-Match": old})
        self.assertEqual(self.call("GET", path)[2]["version"], d["version"])
        tag = self.call("PUT", path, AGREEMENT, expect=200, headers={"If-Match": "*"})[1]["ETag"]
        self.call("DELETE", path, expect=204, headers={"If-Match": f'"x", {tag}'})
        self.call("PUT", path, AGREEMENT, expect=412, headers={"If-Match": "*"})
        self.call("PUT", path, AGREEMENT, expect=201, headers={"If-None-Match": "*"})

    def test_a_percentage_leaves_as_it_was_written(self):
        self.call("PUT", "/api/v1/agreements/gold", AGREEMENT, expect=201)
        host = f"Host: 127.0.0.1:{self.port}\r\n\r\n"
        got = self.raw(f"GET /api/v1/agreements/gold HTTP/1.1\r\nConnection: close\r\n{host}".encode())
        self.assertIn(b'"target":99.9,', got)

    def test_a_version_that_is_known_is_not_sent_again(self):
        tag = self.call("PUT", "/api/v1/tenants/acme", TENANT, expect=201)[1]["ETag"]
        self.call("GET", "/api/v1/tenants/acme", expect=304, headers={"If-None-Match": f'W/{tag}'})
        self.call("GET", "/api/v1/tenants/acme", expect=200, headers={"If-None-Match": '"99"'})
        tag = self.call("PUT", "/api/v1/agreements/gold", AGREEMENT, expect=201)[1]["ETag"]
        self.call("GET", "/api/v1/agreements/gold", expect=200, headers={"If-None-Match": tag})

    def test_a_dry_run_checks_everything_and_changes_nothing(self):
        path = "/api/v1/agreements/gold?dryRun=true"
        status, _, d = self.server.request("PUT", path, AGREEMENT)
        self.assertEqual((status, d["result"]), (200, "would-create"))
        self.call("GET", "/api/v1/agreements/gold", expect=404)
        version = self.call("PUT", "/api/v1/agreements/gold", AGREEMENT, expect=201)[2]["version"]
        self.assertEqual(self.call("PUT", path, {**AGREEMENT, "weight": 7}, expect=200)[2]["result"], "would-update")
        self.assertEqual(self.call("PUT", path, AGREEMENT, expect=200)[2]["result"], "unchanged")
        self.call("PUT", path, {**AGREEMENT, "weight": 0}, expect=422)
        self.call("PUT", path.replace("gold", "other"), {**AGREEMENT, "name": "other"}, expect=409)
        self.assertEqual(self.call("GET", "/api/v1/agreements/gold")[2]["version"], version)

    def test_two_agreements_of_equal_rank_for_one_stream_are_refused_by_name(self):
        self.call("PUT", "/api/v1/agreements/gold", AGREEMENT, expect=201)
        rival = {**AGREEMENT, "name": "rival", "appliesTo": {"volume": "*-1"}}
        _, _, problem = self.call("PUT", "/api/v1/agreements/rival", rival, expect=409)
        self.assertIn("gold", problem["detail"])
        self.assertIn("rival", problem["detail"])
        self.call("GET", "/api/v1/agreements/rival", expect=404)
        self.call("PUT", "/api/v1/agreements/rival", {**rival, "appliesTo": {"volume": "*-1", "host": "*"}}, expect=201)
        self.call("PUT", "/api/v1/agreements/third", {**rival, "name": "third", "appliesTo": {"volume": "silver-*"}}, expect=201)

    def test_a_reservation_above_its_tenants_limit_is_refused_whichever_comes_last(self):
        tenant = {"kind": "Tenant", "name": "acme", "members": [{"volume": "db-*"}], "limit": {"iops": 1000}}
        firm = {"kind": "Agreement", "name": "firm", "appliesTo": {"volume": "db-1"}, "reservation": {"iopsRead": 900}}
        self.call("PUT", "/api/v1/tenants/acme", tenant, expect=201)
        self.call("PUT", "/api/v1/agreements/firm", firm, expect=201)
        for path, body in (("agreements/firm", {**firm, "reservation": {"iopsRead": 900, "iopsWrite": 200}}),
                           ("tenants/acme", {**tenant, "limit": {"iops": 800}})):
            for query in ("?dryRun=true", ""):
                _, _, problem = self.call("PUT", f"/api/v1/{path}{query}", body, expect=409)
                self.assertIn("firm", problem["detail"])
                self.assertIn("acme", problem["detail"])
        self.assertEqual(self.call("GET", "/api/v1/tenants/acme")[2]["spec"]["limit"]["iops"], 1000)
        self.call("PUT", "/api/v1/tenants/acme", {**tenant, "members": [{"volume": "db-2"}], "limit": {"iops": 800}}, expect=200)

    def test_of_many_rivals_at_once_exactly_one_wins(self):
        def put(i):
            rival = {**AGREEMENT, "name": f"r{i}", "appliesTo": {"volume": "race-*"}}
            return self.server.request("PUT", f"/api/v1/agreements/r{i}", rival)[0]
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            results = list(pool.map(put, range(16)))
        self.assertEqual(sorted(results), [201] + [409] * 15)

    def test_an_agreement_is_in_force_when_its_put_is_answered(self):
        self.call("PUT", "/api/v1/agreements/gold", AGREEMENT, expect=201)
        status = self.call("GET", "/api/v1/agreements/gold", expect=200)[2]["status"]
        self.assertIsNotNone(status)
        wait_until(lambda: self.server.get("/streams/127.0.0.1/gold-1")["agreement"] == "gold", "the stream's agreement")
        status = wait_until(lambda: (s := self.server.get("/agreements/gold")["status"]) and s["streams"] == 1 and s, "one stream")
        self.assertEqual(DOCUMENT.errors(status, DOCUMENT.schema("AgreementStatus")), [])

    def test_a_document_that_could_not_be_in_force_is_refused(self):
        def put(i, path="", **kw):
            return self.server.request("PUT", f"/api/v1/policies/p{i}{path}", {**POLICY, "name": f"p{i}"}, **kw)
        for i in range(256):
            self.assertEqual(put(i)[0], 201)
        self.assertEqual(put(256)[0], 409)
        self.assertEqual(put(256, "?dryRun=true")[0], 409)
        self.assertEqual(len(self.server.items("/policies")), 256)
        self.assertEqual(self.server.request("PUT", "/api/v1/policies/p0", {**POLICY, "name": "p0", "maxCut": "10%"})[0], 200)

    def test_wrong_documents_are_refused_with_a_line_for_each_wrong_field(self):
        wrong = {**AGREEMENT, "weight": 0, "colour": "red", "limit": {"iops": 0}, "objectives": [{"percentile": 99, "latency": "5"}]}
        _, _, problem = self.call("PUT", "/api/v1/agreements/gold", wrong, expect=422)
        for field in ("weight", "colour", "limit.iops", "objectives[0].latency"):
            self.assertTrue(any(field in line for line in problem["errors"]), f"{field}: {problem['errors']}")
        for body in ({**AGREEMENT, "name": "other"}, {**AGREEMENT, "kind": "Tenant"}, {}, {"kind": "Agreement"}):
            self.call("PUT", "/api/v1/agreements/gold", body, expect=422)
        self.call("PUT", "/api/v1/agreements/a%20b", {**AGREEMENT, "name": "a b"}, expect=422)

    def test_bodies_that_are_not_json_are_refused(self):
        path = "/api/v1/agreements/gold"
        for body in (b"{", b"[]", b"null", b'"x"', b'{"a":1,"a":2}', b"\xff\xfe", b'{"name":"\x00"}', b"[" * 5000 + b"]" * 5000,
                     b'{"a":' * 400000):
            self.call("PUT", path, body, expect=413 if len(body) > 1 << 20 else 400)
        self.call("PUT", path, b"", expect=400)
        for media in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "application/json; charset=latin1"):
            self.call("PUT", path, AGREEMENT, expect=415, headers={"Content-Type": media})
        self.call("GET", "/api/v1/streams", b"{}", expect=400)
        self.call("PUT", path, b" " * ((1 << 20) + 1), expect=413)
        self.call("PUT", path, b" " * (1 << 20), expect=400)
        # Whoever is refused for another reason hears it, however much it sends.
        self.call("PUT", path, b" " * (4 << 20), expect=401, token=False)

    def test_a_chunked_body_is_bounded_too(self):
        c = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        c.request("PUT", "/api/v1/agreements/gold", iter([b" " * 65536] * 40), encode_chunked=True, headers={
            "Transfer-Encoding": "chunked", "Content-Type": "application/json", "Authorization": "Bearer " + self.server.admin_token})
        self.assertEqual(c.getresponse().status, 413)
        c.close()

    def test_pages_give_everything_once_and_in_order(self):
        names = sorted(f"t{i:02d}" for i in range(23))
        for name in names:
            self.call("PUT", f"/api/v1/tenants/{name}", {**TENANT, "name": name}, expect=201)
        got, cursor = [], ""
        while cursor is not None:
            _, _, page = self.call("GET", f"/api/v1/tenants?limit=10{'&cursor=' + cursor if cursor else ''}", expect=200)
            got += [t["name"] for t in page["items"]]
            cursor = page["next"]
        self.assertEqual(got, names)

    def test_rows_page_backwards_by_id(self):
        for i in range(7):
            self.call("PUT", f"/api/v1/tenants/p{i}", {**TENANT, "name": f"p{i}"}, expect=201)
        seen, before = [], None
        for _ in range(3):
            _, _, page = self.call("GET", f"/api/v1/audit?limit=2{'&before=' + before if before else ''}", expect=200)
            seen += [row["id"] for row in page["items"]]
            before = page["next"]
        self.assertEqual(len(set(seen)), 6)
        self.assertEqual(seen, sorted(seen, key=int, reverse=True))

    def test_every_write_is_in_the_audit_with_its_actor(self):
        self.call("PUT", "/api/v1/tenants/acme", TENANT, expect=201)
        self.call("DELETE", "/api/v1/tenants/acme", expect=204)
        rows = self.call("GET", "/api/v1/audit?limit=2", expect=200)[2]["items"]
        self.assertEqual([r["actor"] for r in rows], ["admin", "admin"])
        self.assertTrue(all("acme" in r["subject"] for r in rows), rows)


class Access(ApiCase):
    def token(self, role, **kw):
        return self.call("POST", "/api/v1/tokens", {"name": f"t-{role}", "role": role, **kw}, expect=201)[2]

    def test_each_role_may_what_the_document_says(self):
        secrets = {role: self.token(role)["token"] for role in ("viewer", "operator", "admin")}
        order = ["public", "viewer", "operator", "admin"]
        out = subprocess.run([weirtest.SERVER, "--print-routes"], capture_output=True, text=True, check=True).stdout
        for method, path, needed in (line.split() for line in out.splitlines()):
            if path in ("/api/v1/live", "/api/v1/enforcement"):
                continue
            # A body that is refused, so that nothing is changed by those who may.
            real, body = re.sub(r"\{\w+\}", "no-such", path), b"[]" if method in ("PUT", "POST") else None
            for role in ("viewer", "operator", "admin"):
                status = self.server.request(method, real, body, token=secrets[role], headers={"Accept": "*/*"})[0]
                if order.index(role) < order.index(needed):
                    self.assertEqual(status, 403, f"{role}: {method} {path}")
                else:
                    self.assertNotIn(status, (401, 403), f"{role}: {method} {path}")
            status = self.server.request(method, real, body, token=False, headers={"Accept": "*/*"})[0]
            if needed in ("operator", "admin"):
                self.assertEqual(status, 401, f"nobody: {method} {path}")
            else:
                self.assertNotIn(status, (401, 403), f"nobody over loopback: {method} {path}")

    def test_a_wrong_token_is_refused_even_where_none_is_needed(self):
        for token in ("x", "weira_" + "A" * 43, self.server.admin_token[:-1], self.server.admin_token + "A"):
            _, headers, _ = self.call("GET", "/api/v1/streams", expect=401, token=token)
            self.assertTrue(headers["WWW-Authenticate"].startswith("Bearer"))
        self.call("GET", "/api/v1/streams", expect=401, token=False, headers={"Authorization": "Basic YTpi"})

    def test_a_foreign_host_needs_a_token_to_read(self):
        for host in ("evil.example", f"evil.example:{self.port}", f"localhost.evil.example:{self.port}", "127.0.0.1:1", "127.0.0.1"):
            self.call("GET", "/api/v1/streams", expect=401, token=False, headers={"Host": host})
            self.call("GET", "/api/v1/streams", expect=200, token=True, headers={"Host": host})
            self.assertEqual(self.server.request("GET", "/metrics", token=False, headers={"Host": host, "Accept": "*/*"})[0], 401)
        self.call("GET", "/api/v1/streams", expect=200, token=False, headers={"Host": f"localhost:{self.port}"})

    def test_a_foreign_origin_is_refused_whatever_its_token(self):
        for origin in ("http://evil.example", "null", f"https://127.0.0.1:{self.port}", "http://127.0.0.1:1"):
            self.call("PUT", "/api/v1/tenants/acme", TENANT, expect=403, headers={"Origin": origin})
            self.call("GET", "/api/v1/streams", expect=403, token=False, headers={"Origin": origin})
        self.call("PUT", "/api/v1/tenants/acme", TENANT, expect=201, headers={"Origin": f"http://127.0.0.1:{self.port}"})

    def test_a_token_is_shown_once_and_ends_when_revoked(self):
        made = self.token("viewer", expiresIn="30d")
        self.assertRegex(made["token"], r"^weirt_[A-Za-z0-9_-]{43}$")
        for t in self.call("GET", "/api/v1/tokens", expect=200)[2]["items"]:
            self.assertNotIn("token", t)
            self.assertNotIn("hash", t)
        one = self.call("GET", "/api/v1/tokens/" + made["id"], expect=200)[2]
        self.assertEqual((one["name"], one["role"], one["expires"]), ("t-viewer", "viewer", made["expires"]))
        self.call("GET", "/api/v1/streams", expect=200, token=made["token"])
        self.call("DELETE", "/api/v1/tokens/" + made["id"], expect=204)
        self.call("GET", "/api/v1/streams", expect=401, token=made["token"])

    def test_a_token_ends_by_itself(self):
        made = self.token("viewer", expiresIn="300ms")
        wait_until(lambda: self.server.request("GET", "/api/v1/streams", token=made["token"])[0] == 401, "the token to expire")

    def test_wrong_tokens_are_not_made(self):
        for body in ({}, {"name": "a"}, {"name": "a", "role": "root"}, {"name": "a b", "role": "viewer"},
                     {"name": "a", "role": "viewer", "x": 1},
                     {"name": "a" * 200, "role": "viewer"}, {"name": "a", "role": "viewer", "expiresIn": "0s"},
                     {"name": "a", "role": "viewer", "expiresIn": "100000d"}, {"name": 5, "role": "viewer"}):
            self.call("POST", "/api/v1/tokens", body, expect=422)
        self.call("POST", "/api/v1/enrolment-tokens", {"expiresIn": "2h"}, expect=422)
        self.call("POST", "/api/v1/enrolment-tokens", {"who": "me"}, expect=422)

    def test_an_enrolment_token_is_made_for_at_most_an_hour(self):
        for body in (None, {}, {"expiresIn": "10m"}):
            made = self.call("POST", "/api/v1/enrolment-tokens", body, expect=201)[2]
            self.assertRegex(made["token"], r"^weir1\.[0-9a-f]{16}\.[A-Za-z0-9_-]{43}\.[A-Za-z0-9_-]{43}$")

    def test_the_admin_token_is_private_and_in_no_log_or_database(self):
        path = os.path.join(self.server.state_dir, "admin.token")
        self.assertEqual(stat.S_IMODE(os.stat(path).st_mode), 0o600)
        secrets = [self.server.admin_token.encode(), self.token("viewer")["token"].encode()]
        for name in os.listdir(self.server.state_dir):
            if name != "admin.token" and os.path.isfile(os.path.join(self.server.state_dir, name)):
                with open(os.path.join(self.server.state_dir, name), "rb") as f:
                    data = f.read()
                for secret in secrets:
                    self.assertNotIn(secret, data, name)
        for secret in secrets:
            self.assertNotIn(secret, self.server.output().encode())

    def test_off_loopback_the_server_does_not_start(self):
        for address in ("0.0.0.0:0", "[::]:0", "unix:/tmp/x.sock"):
            state = World.world.path("refused")
            os.makedirs(state, mode=0o700, exist_ok=True)
            r = subprocess.run([weirtest.SERVER, "--state-dir", state, "--listen", "127.0.0.1:0", "--http", address],
                               capture_output=True, text=True, timeout=PATIENCE)
            self.assertNotEqual(r.returncode, 0)
            self.assertIn("loopback", r.stderr)


class Operation(ApiCase):
    def events(self, seconds, headers=None):
        """Server-sent events of some seconds: [(event, data)]."""
        c = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        c.request("GET", "/api/v1/live", headers={"Accept": "text/event-stream", **(headers or {})})
        r = c.getresponse()
        self.assertEqual((r.status, r.headers["Content-Type"]), (200, "text/event-stream"))
        out, name, end = [], None, time.monotonic() + seconds
        while time.monotonic() < end:
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
        t = threading.Thread(target=lambda: got.extend(self.events(6)))
        t.start()
        time.sleep(1.5)
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
        self.assertEqual(set(re.findall(r"^# TYPE (\S+)", text, re.M)), said)
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
                views += 1
                time.sleep(0.05)
        for w in writes:
            status, headers, problem = w.result()
            self.check("PUT", "/api/v1/tenants/t", status, headers, problem)
            self.assertEqual((status, problem["detail"].startswith("the database: ")), (503, True), problem)
        self.assertGreater(views, 3)
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
