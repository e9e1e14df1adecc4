# SPDX-License-Identifier: Apache-2.0
"""Goal: every verb of `weir` does what weir(1) says, in every format, and fails with words and the documented exit status.
Method: one real server with a gateway and a storage server for all tests; outputs are parsed with other people's parsers."""
import csv
import http.server
import io
import json
import os
import pty
import re
import select
import signal
import socket
import subprocess
import threading
import time
import unittest
import urllib.request

import nbd
import rawnbd
import weirtest
import yaml

OK, DIFFERENT, USAGE, REFUSED, NOT_FOUND, UNREACHABLE, UNAUTHORISED = range(7)
GOLD = """\
kind: Agreement
name: gold
appliesTo: {volume: default}
objectives:
  - {percentile: 99, latency: 5ms, whileIops: 4000}
reservation: {iops: 100}
limit: {iops: 12000, bandwidth: 400MiB/s, burst: {iops: 20000, for: 60s}}
compliance: {target: 99.9%, window: 10s, over: 30d}
"""
ACME = "kind: Tenant\nname: acme\nmembers:\n  - {host: '127.*'}\n"
HANDS_OFF = "kind: Policy\nname: hands-off\nappliesTo: {volume: backup}\nprotect: true\n"
DOCUMENTS = {"agreement/gold": GOLD, "tenant/acme": ACME, "policy/hands-off": HANDS_OFF}
KINDS = ["streams", "gateways", "targets", "agreements", "tenants", "policies", "hosts", "volumes", "actions", "events", "audit"]


class Cli(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        weirtest.need("nbdkit")
        cls.world = weirtest.World()
        cls.world.__enter__()
        cls.addClassCleanup(cls.world.__exit__, None, None, None)
        cls.storage = cls.world.nbdkit("memory", "64M")
        cls.server = cls.world.server()
        cls.gateway = cls.world.gateway(target=cls.storage.uri, server=cls.server, name="gw")
        cls.host = nbd.NBD()
        cls.host.connect_uri(cls.gateway.uri())
        cls.ended = threading.Event()
        cls.worker = threading.Thread(target=cls.work)
        cls.worker.start()
        cls.addClassCleanup(cls.end_work)
        weirtest.wait_until(lambda: [s for s in cls.server.items("/streams") if s["iops"] > 0], "a busy stream at the server")

    @classmethod
    def work(cls):
        while not cls.ended.wait(0.01):
            cls.host.pwrite(b"x" * 4096, 0)
            cls.host.pread(4096, 0)

    @classmethod
    def end_work(cls):
        cls.ended.set()
        cls.worker.join()
        cls.host.shutdown()

    def setUp(self):
        for kind, name in (("agreements", "gold"), ("tenants", "acme"), ("policies", "hands-off")):
            self.server.request("DELETE", f"/api/v1/{kind}/{name}")

    def environment(self, home="home", **more):
        home = self.world.path(home)
        os.makedirs(home, exist_ok=True)
        env = {k: v for k, v in os.environ.items() if not k.startswith("WEIR_") and k != "XDG_CONFIG_HOME"}
        return {**env, "WEIR_SERVER": self.server.http, "HOME": home, **more}

    def run_weir(self, *args, stdin=None, env=None):
        return subprocess.run([weirtest.WEIR, *args], input=stdin, capture_output=True, text=True,
                              env=env or self.environment(WEIR_TOKEN=self.server.admin_token), timeout=weirtest.PATIENCE)

    def weir(self, *args, status=OK, stdin=None, env=None):
        r = self.run_weir(*args, stdin=stdin, env=env)
        self.assertEqual(r.returncode, status, f"weir {args}:\n{r.stdout}{r.stderr}")
        return r.stdout if status == OK else r.stdout + r.stderr

    def apply_all(self):
        return self.weir("apply", "-f", "-", stdin="---\n".join(DOCUMENTS.values()))

    # get

    def test_every_kind_comes_out_in_every_format(self):
        self.apply_all()
        for kind in weirtest.some(KINDS):
            with self.subTest(kind):
                items = json.loads(self.weir("get", kind, "-o", "json"))
                if kind in ("actions",):
                    self.assertEqual(items, [])
                    continue
                self.assertTrue(items)
                rows = list(csv.reader(io.StringIO(self.weir("get", kind, "-o", "csv"))))
                self.assertGreaterEqual(len(rows), 2)
                self.assertEqual({len(r) for r in rows}, {len(rows[0])})
                # Events and audit grow meanwhile.
                self.assertLessEqual(len(items), len(rows[1:]))
                self.assertLessEqual(len(rows[1:]), len(json.loads(self.weir("get", kind, "-o", "json"))))
                documents = list(yaml.safe_load_all(self.weir("get", kind, "-o", "yaml")))
                self.assertTrue(documents)
                narrow, wide = self.weir("get", kind), self.weir("get", kind, "-o", "wide")
                self.assertRegex(narrow, r"\A[A-Z]")
                self.assertGreaterEqual(len(wide.splitlines()[0]), len(narrow.splitlines()[0]))
                bare, headed, later = (len(self.weir(*words).splitlines()) for words in (
                    ("get", kind, "--no-headers"), ("get", kind), ("get", kind, "--no-headers")))
                self.assertLessEqual(bare + 1, headed)
                self.assertLessEqual(headed, later + 1)
                singular = {"policies": "policy", "audit": "audit"}.get(kind, kind[:-1])
                for name in self.weir("get", kind, "-o", "name").splitlines():
                    self.assertTrue(name.startswith(singular + "/"), name)

    def test_one_object_is_shown_by_name(self):
        self.apply_all()
        for kind, name in (("stream", "127.0.0.1/default"), ("gateway", "gw"), ("agreement", "gold"), ("tenant", "acme"),
                           ("policy", "hands-off"), ("host", "127.0.0.1"), ("volume", "default")):
            with self.subTest(kind):
                one = json.loads(self.weir("get", kind, name, "-o", "json"))
                self.assertEqual(one.get("key", one.get("name")), name)
                self.assertIn(name, self.weir("get", kind, name))
                self.assertIn("no-such", self.weir("get", kind, "no-such/x" if kind == "stream" else "no-such", status=NOT_FOUND))

    def test_streams_are_filtered(self):
        self.assertEqual(len(json.loads(self.weir("get", "streams", "--volume", "default", "-o", "json"))), 1)
        self.assertEqual(json.loads(self.weir("get", "streams", "--volume", "nobody", "-o", "json")), [])
        self.assertIn("only streams", self.weir("get", "gateways", "--volume", "x", status=USAGE))

    # documents

    def test_apply_tells_what_became_of_each_document(self):
        for word in ("created", "unchanged"):
            out = self.apply_all()
            self.assertEqual(out, "".join(f"{name} {word}\n" for name in DOCUMENTS))
        changed = GOLD.replace("12000", "13000")
        self.assertEqual(self.weir("apply", "-f", "-", "--dry-run", stdin=changed), "agreement/gold configured (dry run)\n")
        self.assertEqual(self.server.get("/agreements/gold")["spec"]["limit"]["iops"], 12000)
        self.assertEqual(self.weir("apply", "-f", "-", "--wait", stdin=changed), "agreement/gold configured\n")
        self.assertEqual(self.server.get("/agreements/gold")["spec"]["limit"]["iops"], 13000)
        weirtest.wait_until(lambda: [c for c in self.gateway.local(get="controls")["controls"] if c["limit"]["iops"] == 13000],
                            "the changed limit at the gateway")

    def test_what_get_gives_can_be_applied_again_unchanged(self):
        self.apply_all()
        for kind in ("agreements", "tenants", "policies"):
            for form in ("yaml", "json"):
                out = self.weir("apply", "-f", "-", stdin=self.weir("get", kind, "-o", form))
                self.assertRegex(out, r"\A\w+/[\w-]+ unchanged\n\Z", f"{kind} as {form}")
        self.assertEqual(self.weir("diff", "-f", "-", stdin=self.weir("get", "agreements", "-o", "yaml")), "")

    def test_one_bad_document_stops_all(self):
        bad = GOLD.replace("5ms", "5").replace("gold", "bad").replace("99.9%", "x")
        out = self.weir("apply", "-f", "-", stdin=ACME + "---\n" + bad, status=REFUSED)
        self.assertIn("objectives[0].latency", out)
        self.assertIn("compliance.target", out)
        self.assertIn("standard input:6: agreement/bad was refused", out)
        self.assertIn("nothing was changed", out)
        self.assertEqual(self.server.items("/tenants"), [])

    def test_documents_that_cannot_be_read_name_their_place(self):
        for text, words in ((GOLD + "name: twice\n", "standard input:9: this key"), ("kind: Agrement\nname: x\n", 'found "Agrement"'),
                            ("kind: Tenant\n", "name: expected"), ("- 1\n", "expected a mapping"), ("a: [1\n", "standard input:"),
                            ("kind: &a Tenant\n", "anchors"), ("", "no document"), (ACME + "---\n" + ACME, "already")):
            with self.subTest(words):
                self.assertIn(words, self.weir("apply", "-f", "-", stdin=text, status=USAGE))
        self.assertIn("No such file", self.weir("apply", "-f", "/no/such/file", status=USAGE))
        self.assertIn("-f FILE", self.weir("apply", status=USAGE))

    def test_diff_shows_fields_and_its_status(self):
        self.assertIn("does not exist", self.weir("diff", "-f", "-", stdin=GOLD, status=DIFFERENT))
        self.apply_all()
        self.assertEqual(self.weir("diff", "-f", "-", stdin=GOLD), "")
        out = self.weir("diff", "-f", "-", stdin=GOLD.replace("12000", "13000").replace("reservation: {iops: 100}\n", ""),
                        status=DIFFERENT)
        self.assertEqual(out.splitlines()[2:], ["- reservation.iops: 100", "- limit.iops: 12000", "+ limit.iops: 13000"]
                         if out.splitlines()[2].startswith("- res") else
                         ["- limit.iops: 12000", "+ limit.iops: 13000", "- reservation.iops: 100"])

    def test_delete_by_name_and_by_file(self):
        self.apply_all()
        self.assertEqual(self.weir("delete", "agreement", "gold", "--dry-run"), "agreement/gold deleted (dry run)\n")
        self.assertEqual(self.weir("delete", "agreement", "gold"), "agreement/gold deleted\n")
        self.weir("delete", "agreement", "gold", status=NOT_FOUND)
        self.weir("delete", "-f", "-", stdin=ACME + "---\n" + HANDS_OFF)
        self.assertEqual((self.server.items("/tenants"), self.server.items("/policies")), ([], []))
        self.weir("delete", "stream", "127.0.0.1/default", status=USAGE)

    # describe, top, watch

    def test_describe_splits_a_streams_latency_in_three(self):
        self.apply_all()
        out = self.weir("describe", "stream", "127.0.0.1/default")
        for words in ("held by Weir", "in the storage", "total", "desired", "applied", "agreement"):
            self.assertIn(words, out)
        weirtest.wait_until(lambda: re.search(r"p99 of at most 5.00ms while at most 4000 IOPS[^$]*agreement +gold",
                                              self.weir("describe", "stream", "127.0.0.1/default")), "the agreement to be judged")
        # What holds for good, in its units; and each value in its column.
        self.assertRegex(out, r"\nLimits in force\n  gold \(agreement, all its streams together\)\n"
                              r"      iops            12000/s, in a burst 20000/s for 1m\n      bandwidth       400MiB/s\n")
        self.assertEqual({len(m[1]) for m in re.finditer(r"(?m)^(  (?:desired|applied|since|held now|the oldest) +)\S", out)}, {16})
        self.assertIn("127.0.0.1/default", self.weir("describe", "agreement", "gold"))
        for kind, name in (("gateway", "gw"), ("tenant", "acme"), ("policy", "hands-off")):
            self.assertEqual(yaml.safe_load(self.weir("describe", kind, name))["name"], name)

    def test_top_prints_once_without_a_terminal(self):
        self.assertIn("127.0.0.1/default", self.weir("top"))
        self.assertIn("127.0.0.1/default", self.weir("top", "--once", "--sort", "p99"))
        self.assertIn("expected iops", self.weir("top", "--sort", "beauty", status=USAGE))

    def test_top_asks_a_gateway_without_any_server(self):
        env = self.environment(WEIR_SERVER="http://127.0.0.1:9")
        out = self.weir("top", "--gateway", self.gateway.socket_path, "-o", "json", env=env)
        stream = json.loads(out)[0]
        self.assertEqual(stream["key"], "127.0.0.1/default")
        self.assertGreater(stream["iops"], 0)
        self.assertIn("HELD-BY", self.weir("top", "--gateway", self.gateway.socket_path, env=env))
        self.weir("top", "--gateway", self.world.path("nothing.sock"), env=env, status=UNREACHABLE)

    def test_top_says_how_often_the_worker_died_and_of_what(self):
        g = self.world.gateway(target=self.storage.uri)

        def top(*args):
            return self.weir("top", "--gateway", g.socket_path, *args, env=self.environment(WEIR_SERVER="http://127.0.0.1:9"))
        self.assertNotIn("worker:", top())
        g.kill_worker()
        self.assertRegex(top(), r"(?m)^worker: 1 death, last: SIGKILL \(.*\), \d+ s ago$")
        g.kill_worker(signal.SIGXCPU)
        self.assertRegex(top(), r"(?m)^worker: 2 deaths, last: SIGXCPU, \d+ s ago$")
        self.assertNotIn("worker:", top("--no-headers"))
        self.assertEqual(json.loads(top("-o", "json")), [])
        self.assertEqual(g.stop(), 0)

    def test_describe_asks_a_gateway_why_io_waits_and_what_limits_it(self):
        env = self.environment(WEIR_SERVER="http://127.0.0.1:9")
        with weirtest.World() as world:
            storage = world.nbdkit("memory", "4M")
            g = world.gateway(config=f"[gateway]\nmax-hold = 600s\n[listener l]\naddress = 127.0.0.1:0\ntarget = t\n"
                                     f"[target t]\nuri = {storage.uri}\n"
                                     "[limit slow]\niops = 2\nburst-iops = 4\nburst-for = 60s\n")
            with rawnbd.Host(g.address) as h:
                for i in range(40):
                    h.send(rawnbd.READ, i, 0, 512)
                h.reply(512)
                out = self.weir("describe", "stream", "127.0.0.1/default", "--gateway", g.socket_path, env=env)
        for words in ("held by Weir", "in the storage", "total", "UP TO", r"\d+ held; the first has waited",
                      r"because of +file/slow, its iops", "at the earliest", r"whatever the limits say \(max-hold\)",
                      r"file/slow \(file\)", r"iops +applied 2/s, desired 2/s", r"burst +4/s for", r"credit +\d+% \[",
                      "empty in .* at full speed, full in .* when idle"):
            self.assertRegex(out, words)
        self.assertIn("no stream", self.weir("describe", "stream", "x/y", "--gateway", self.gateway.socket_path, env=env,
                                             status=NOT_FOUND))
        self.weir("describe", "gateway", "x", "--gateway", self.gateway.socket_path, env=env, status=USAGE)

    def screens(self, *args, **env):
        """`weir top` on a terminal: the process, and a function that reads on until what it wrote satisfies a check."""
        master, slave = pty.openpty()
        p = subprocess.Popen([weirtest.WEIR, "top", "-i", "100ms", *args], stdout=slave, stderr=slave, stdin=slave,
                             env={**self.environment(TERM="xterm"), **env})
        os.close(slave)
        self.addCleanup(os.close, master)
        self.addCleanup(p.wait)
        self.addCleanup(p.terminate)

        def read_till(check):
            seen, deadline = b"", time.monotonic() + weirtest.PATIENCE
            while not check(seen) and time.monotonic() < deadline:
                if select.select([master], [], [], 1)[0]:
                    seen += os.read(master, 65536)
            self.assertTrue(check(seen), seen)
            return seen
        return p, read_till

    def test_top_is_live_and_coloured_only_on_a_terminal(self):
        _, read_till = self.screens()
        self.assertIn(b"127.0.0.1/default", read_till(lambda seen: seen.count(b"\033[H") >= 3))
        self.assertNotIn("\033", self.weir("top"))

    def test_live_top_goes_on_with_the_next_worker(self):
        g = self.world.gateway(target=self.storage.uri)
        p, read_till = self.screens("--gateway", g.socket_path)
        read_till(lambda seen: seen.count(b"\033[H") >= 2)
        for deaths in (1, 2):
            g.kill_worker()
            read_till(lambda seen: seen.count(b"worker: %d death" % deaths) >= 2)
        self.assertIsNone(p.poll())
        self.assertEqual(g.stop(), 0)

    def test_live_top_goes_on_when_the_server_comes_back_and_shows_that_it_was_gone(self):
        w = self.world
        server = w.server(state_dir=w.path("restarted-too"))
        p, read_till = self.screens("--server", server.http, WEIR_TOKEN=server.admin_token)
        read_till(lambda seen: seen.count(b"\033[H") >= 2)
        where = {"state_dir": server.state_dir, "http": server.http.split("//")[1], "control": server.control}
        server.stop()
        read_till(lambda seen: seen.count(b"the server is gone since") >= 2)
        server = w.server(**where)
        read_till(lambda seen: b"is gone" not in seen[seen.rfind(b"\033[H"):] and seen.count(b"\033[J") >= 1
                  and b"\033[J" in seen[seen.rfind(b"\033[H"):])
        self.assertIsNone(p.poll())
        server.stop()

    def test_live_top_goes_on_when_a_proxy_answers_for_the_server(self):
        away = {}  # what the proxy says while the server is away: status and body

        def there(seen):
            """The last whole screen is of a server that is there."""
            end = seen.rfind(b"\033[J")
            return end >= 0 and b"is gone" not in seen[seen.rfind(b"\033[H", 0, end):end]

        class Proxy(http.server.BaseHTTPRequestHandler):
            def do_GET(proxy):
                if away:
                    status, body = away["status"], away["body"]
                else:
                    headers = {"Authorization": proxy.headers["Authorization"]}
                    with urllib.request.urlopen(urllib.request.Request(self.server.http + proxy.path, headers=headers)) as a:
                        status, body = a.status, a.read()
                proxy.send_response(status)
                proxy.send_header("Content-Length", str(len(body)))
                proxy.end_headers()
                proxy.wfile.write(body)

            def log_message(proxy, *_):
                pass

        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as listening:
            threading.Thread(target=listening.serve_forever, daemon=True).start()
            p, read_till = self.screens("--server", f"http://127.0.0.1:{listening.server_port}",
                                        WEIR_TOKEN=self.server.admin_token)
            try:
                for status in (502, 200):
                    read_till(there)
                    away.update(status=status, body=b"<html>back in a minute</html>")
                    read_till(lambda seen: b"the server is gone since" in seen)
                    away.clear()
                read_till(there)
                self.assertIsNone(p.poll())
            finally:
                listening.shutdown()

    def test_watch_goes_on_when_the_server_comes_back_and_says_once_that_it_was_gone(self):
        w = self.world
        server = w.server(state_dir=w.path("restarted"))
        server.put("/agreements/gold", {"kind": "Agreement", "name": "gold", "appliesTo": {"volume": "*"}, "limit": {"iops": 5}})
        env = {**os.environ, "HOME": w.dir, "WEIR_SERVER": server.http, "WEIR_TOKEN": server.admin_token}
        p = subprocess.Popen([weirtest.WEIR, "watch", "agreements", "-o", "json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                             text=True, env=env)
        try:
            self.assertEqual(json.loads(p.stdout.readline())["name"], "gold")
            where = {"state_dir": server.state_dir, "http": server.http.split("//")[1], "control": server.control}
            server.stop()
            self.assertIn("is gone; trying again", p.stderr.readline())
            server = w.server(**where)
            stood = server.get("/agreements/gold")["name"]
            deadline = time.monotonic() + weirtest.PATIENCE
            while time.monotonic() < deadline:  # what was in the pipe before, then what comes now
                line = json.loads(p.stdout.readline())
                self.assertEqual(line["name"], stood)
                if select.select([p.stdout], [], [], 0)[0] == []:
                    break
            self.assertIsNone(p.poll())
        finally:
            p.kill()
            said = p.stderr.read()
            p.wait()
            p.stdout.close()
            p.stderr.close()
        self.assertNotIn("is gone", said, "said twice")
        server.stop()

    def test_watch_and_follow_give_lines_as_they_come(self):
        line = json.loads(self.weir("watch", "streams", "--once", "-o", "json").splitlines()[0])
        self.assertEqual(line["key"], "127.0.0.1/default")
        self.assertIn("only streams", self.weir("watch", "gateways", status=USAGE))
        self.assertIn("gateway-admitted", self.weir("events"))
        self.weir("actions")

    # operation

    def test_enforcement_is_switched(self):
        self.addCleanup(self.server.request, "PUT", "/api/v1/enforcement", {"on": True})
        self.assertEqual(self.weir("enforcement"), "enforcement is on\n")
        self.assertIn("off", self.weir("enforcement", "off"))
        self.assertEqual(self.server.get("/enforcement"), {"on": False})
        self.assertEqual(json.loads(self.weir("enforcement", "on", "-o", "json")), {"on": True})
        self.weir("enforcement", "maybe", status=USAGE)

    def test_tokens_are_made_used_and_revoked(self):
        token = self.weir("token", "create", "reader", "--role", "viewer").strip()
        env = self.environment(WEIR_TOKEN=token)
        self.weir("get", "streams", env=env)
        self.assertIn("role", self.weir("apply", "-f", "-", stdin=GOLD, env=env, status=UNAUTHORISED))
        mine = next(t for t in json.loads(self.weir("token", "list", "-o", "json")) if t["name"] == "reader")
        self.assertEqual(self.weir("token", "revoke", mine["id"]), "revoked\n")
        self.weir("get", "streams", env=env, status=UNAUTHORISED)

    def test_an_enrolment_token_is_the_only_thing_on_standard_output(self):
        self.assertRegex(self.weir("gateway", "enrol", "--expires", "10m"), r"\A\S+\n\Z")

    def test_login_keeps_the_token_for_its_server_only(self):
        env = self.environment(home="login")
        self.weir("apply", "-f", "-", stdin=GOLD, env=env, status=UNAUTHORISED)
        self.weir("login", stdin="not a token\n", env=env, status=USAGE)
        self.weir("login", stdin="wrong\n", env=env, status=UNAUTHORISED)
        self.weir("login", stdin=self.server.admin_token + "\n", env=env)
        path = os.path.join(env["HOME"], ".config/weir/token")
        self.assertEqual(os.stat(path).st_mode & 0o777, 0o600)
        self.weir("apply", "-f", "-", stdin=GOLD, env=env)
        with open(path) as f:
            kept = f.read()
        with open(path, "w") as f:
            f.write(kept.replace(self.server.http, "http://127.0.0.1:9"))
        self.weir("apply", "-f", "-", stdin=GOLD, env=env, status=UNAUTHORISED)

    def test_the_token_of_a_local_server_is_found(self):
        env = self.environment(home="none")
        self.weir("apply", "-f", "-", "--state-dir", self.server.state_dir, stdin=GOLD, env=env)
        path = os.path.join(self.server.state_dir, "admin.token")
        self.weir("apply", "-f", "-", "--token-file", path, stdin=GOLD, env=env)
        self.weir("apply", "-f", "-", "--token-file", "/dev/null", stdin=GOLD, env=env, status=USAGE)

    def test_a_token_never_travels_in_clear_beyond_this_machine(self):
        out = self.weir("get", "streams", "--server", "http://192.0.2.1:7480", status=USAGE)
        self.assertIn("in clear", out)

    def test_threads_and_status_are_told(self):
        names = [t["name"] for t in json.loads(self.weir("debug", "threads", "-o", "json"))]
        self.assertTrue(any("inbound" in n for n in names) and any("outbound" in n for n in names), names)
        shown = self.weir("debug", "threads")
        self.assertIn("THREAD", shown)
        self.assertIn("answer-decided", shown.split("WARNING", 1)[1])
        self.assertEqual(yaml.safe_load(self.weir("status"))["gateways"], 1)

    # ends

    def test_a_dead_server_is_named_with_what_to_do(self):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            out = self.weir("get", "streams", "--server", f"http://127.0.0.1:{s.getsockname()[1]}", status=UNREACHABLE)
        self.assertIn("Is weir-server running", out)

    def test_something_else_than_a_server_is_told_so(self):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            s.listen()

            def answer():
                c, _ = s.accept()
                c.recv(4096)
                c.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>")
                c.close()
            t = threading.Thread(target=answer)
            t.start()
            out = self.weir("status", "--server", f"http://127.0.0.1:{s.getsockname()[1]}", status=REFUSED)
            t.join()
        self.assertIn("is that a weir-server", out)

    def test_wrong_command_lines_end_with_usage(self):
        for args in ([], ["frobnicate"], ["get"], ["get", "nothing"], ["get", "streams", "-o", "xml"], ["top", "--bogus"],
                     ["describe", "stream"], ["gateway"], ["debug"], ["token", "create"], ["get", "stream", "one/two/three"],
                     ["get", "streams", "--server", "ftp://x"]):
            with self.subTest(args):
                self.weir(*args, status=USAGE)

    def test_help_version_and_completion_need_no_server(self):
        env = self.environment(WEIR_SERVER="http://127.0.0.1:9")
        verbs = re.findall(r"^  (\w+) ", self.weir("help", env=env), re.M)
        self.assertIn("enforcement", verbs)
        for verb in weirtest.some(verbs):
            self.assertIn(f"usage: weir {verb}", self.weir("help", verb, env=env))
            self.assertIn(f"usage: weir {verb}", self.weir(verb, "--help", env=env))
        self.assertRegex(self.weir("version", env=env), r"\Aweir \d+\.\d+\.\d+\n\Z")
        script = self.weir("completion", "bash", env=env)
        r = subprocess.run(["bash", "-c", script + "\nCOMP_WORDS=(weir get str); COMP_CWORD=2; _weir; echo ${COMPREPLY[@]}\n"
                            "COMP_WORDS=(weir enf); COMP_CWORD=1; _weir; echo ${COMPREPLY[@]}\n"
                            "COMP_WORDS=(weir top --so); COMP_CWORD=2; _weir; echo ${COMPREPLY[@]}"],
                           capture_output=True, text=True, check=True)
        self.assertEqual(r.stdout.split(), ["streams", "enforcement", "--sort"])

    def test_a_closed_pipe_ends_quietly(self):
        with open(os.devnull, "w") as null:
            r = subprocess.run(f"'{weirtest.WEIR}' help | true", shell=True, stderr=null, timeout=weirtest.PATIENCE)
        self.assertEqual(r.returncode, 0)


if __name__ == "__main__":
    weirtest.main()
