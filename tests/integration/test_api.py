# SPDX-License-Identifier: Apache-2.0
"""Goal: what the API reads out is what docs/openapi.yaml says, route by route, and what hosts did; nobody reads or writes who may not.
Method: one real world; each role tries each route, each answer is held against the document by tests/lib/openapi.py."""
import os
import re
import stat
import subprocess

import weirtest
from apicase import AGREEMENT, DOCUMENT, DOCUMENTS, TENANT, ApiCase, World, setUpModule, tearDownModule  # noqa: F401
from weirtest import PATIENCE, wait_until


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


if __name__ == "__main__":
    weirtest.main()
