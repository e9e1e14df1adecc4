# SPDX-License-Identifier: Apache-2.0
"""Goal: the API may leave the machine through TLS and no other way; certificates change while everything goes on.
Method: one server with certificates for both of its ports; curl, openssl, Python's own TLS and `weir` as clients."""
import base64
import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import time
import unittest

import tlskeys
import weirtest
from weirtest import PATIENCE, wait_until


class Https(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        weirtest.need("certtool", "curl", "openssl")
        cls.world = w = weirtest.World()
        w.__enter__()
        cls.addClassCleanup(lambda: w.__exit__(None, None, None))
        cls.authority = tlskeys.Authority(w.path("ca"), "ca")
        cls.keys, cls.next = cls.authority.folder("keys"), cls.authority.folder("next")
        cls.ca = os.path.join(cls.keys, "ca-cert.pem")
        cls.conf = w.path("server.conf")
        with open(cls.conf, "w", encoding="ascii") as f:
            f.write("".join(f"[{s}]\ntls-certificate = {cls.keys}/server-cert.pem\ntls-key = {cls.keys}/server-key.pem\n"
                            for s in ("control", "http")))
        state = w.path("server")
        os.makedirs(state, mode=0o700)
        cls.server = s = weirtest.Server(w, "weir-server", [
            weirtest.SERVER, "--config", cls.conf, "--state-dir", state, "--listen", "127.0.0.1:0", "--http", "0.0.0.0:0"])
        s.state_dir = state
        s.control = s.wait_line(r"^weir-server: control on (\S+)$").group(1)
        cls.port = int(s.wait_line(r"^weir-server: http on https://0\.0\.0\.0:(\d+)$").group(1))
        wait_until(lambda: cls.once("GET", "/readyz")[0] == 200, "the server to be ready")

    @classmethod
    def context(cls):
        return ssl.create_default_context(cafile=cls.ca)

    @classmethod
    def connect(cls, port=None, context=None):
        sock = socket.create_connection(("127.0.0.1", port or cls.port), PATIENCE)
        return (context or cls.context()).wrap_socket(sock, server_hostname="localhost")

    @classmethod
    def connection(cls):
        c = http.client.HTTPSConnection("localhost", cls.port, timeout=PATIENCE, context=cls.context())
        c.sock = cls.connect()
        return c

    @classmethod
    def once(cls, method, path, body=None, on=None, **headers):
        with contextlib.closing(on or cls.connection()) if on is None else contextlib.nullcontext(on) as c:
            if body is not None:
                headers["Content-Type"] = "application/json"
            c.request(method, path, body, {k.replace("_", "-"): v for k, v in headers.items()})
            r = c.getresponse()
            return r.status, r.headers, r.read()

    def token(self, role="viewer"):
        status, _, body = self.once("POST", "/api/v1/tokens", json.dumps({"name": f"t-{time.monotonic_ns()}", "role": role}),
                                    Authorization="Bearer " + self.server.admin_token)
        self.assertEqual(status, 201, body)
        return json.loads(body)["token"]

    def basic(self, token):
        return "Basic " + base64.b64encode(f"anybody:{token}".encode()).decode()

    def serial(self, port=None):
        """What a new connection is shown."""
        context = self.context()
        if port is not None:
            context.load_cert_chain(f"{self.keys}/client-cert.pem", f"{self.keys}/client-key.pem")
        with self.connect(port, context) as s:
            return s.getpeercert()["serialNumber"]

    # ---- the wire

    def test_only_tls_of_today_is_spoken(self):
        for version, good in (("1.3", True), ("1.2", True), ("1.1", False)):
            r = subprocess.run(["curl", "-sS", "--cacert", self.ca, f"--tlsv{version}", "--tls-max", version, "--ciphers",
                                "DEFAULT:@SECLEVEL=0", f"https://localhost:{self.port}/healthz"],
                               capture_output=True, text=True, timeout=PATIENCE, env={**os.environ, "no_proxy": "*"})
            self.assertEqual(r.returncode == 0, good, (version, r.stdout, r.stderr))
        r = subprocess.run(["openssl", "s_client", "-connect", f"127.0.0.1:{self.port}", "-CAfile", self.ca, "-verify_return_error",
                            "-cipher", "AES128-GCM-SHA256", "-tls1_2"], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                           timeout=PATIENCE)
        self.assertNotEqual(r.returncode, 0, "a key exchange without forward secrecy")
        with socket.create_connection(("127.0.0.1", self.port), PATIENCE) as s:
            s.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            s.settimeout(PATIENCE)
            data = b""
            with contextlib.suppress(ConnectionError):
                while more := s.recv(4096):
                    data += more
            self.assertNotIn(b"HTTP/", data)

    def test_half_handshakes_are_ended_and_keep_nobody_waiting(self):
        halves = [socket.create_connection(("127.0.0.1", self.port), PATIENCE) for _ in range(8)]
        for n, s in enumerate(halves):
            self.addCleanup(s.close)
            s.sendall(bytes.fromhex("1603010200010001fc0303")[:n])
        self.assertEqual(self.once("GET", "/healthz")[0], 200)
        for s in halves:
            s.settimeout(PATIENCE)
            with contextlib.suppress(ConnectionError):
                while s.recv(4096):  # an alert, perhaps; then the end
                    pass

    def test_large_answers_bodies_and_waiting_requests_pass(self):
        admin = "Bearer " + self.server.admin_token
        with contextlib.closing(self.connection()) as c:
            status, _, body = self.once("GET", "/api/v1/openapi.yaml", on=c)
            self.assertEqual((status, len(body) > 40000), (200, True))
            spec = {"kind": "Tenant", "name": "many", "members": [{"volume": f"volume-{i:02}-{'x' * 40}"} for i in range(64)]}
            status, _, body = self.once("PUT", "/api/v1/tenants/many", json.dumps({**spec, "odd": "x" * 900000}), on=c,
                                        Authorization=admin)
            self.assertEqual((status, b"odd" in body), (422, True), body)
            status, _, body = self.once("PUT", "/api/v1/tenants/many", json.dumps(spec), on=c, Authorization=admin)
            self.assertIn(status, (200, 201), body)
            status, _, body = self.once("GET", "/api/v1/tenants/many", on=c)
            self.assertEqual(len(json.loads(body)["spec"]["members"]), 64)
            self.assertEqual(self.once("DELETE", "/api/v1/tenants/many", on=c, Authorization=admin)[0], 204)

    def test_live_events_come_through_it(self):
        with contextlib.closing(self.connection()) as c:
            c.request("GET", "/api/v1/live", headers={"Accept": "text/event-stream"})
            r = c.getresponse()
            self.assertEqual(r.status, 200)
            seen = []
            while len(seen) < 3:
                line = r.readline()
                self.assertNotEqual(line, b"")
                if line.startswith((b"event:", b":")):
                    seen.append(line)

    # ---- who may

    def test_from_elsewhere_reads_need_a_token_which_may_be_a_password(self):
        token = self.token()
        status, headers, _ = self.once("GET", "/api/v1/streams", Host=f"weir.example:{self.port}")
        self.assertEqual((status, headers["WWW-Authenticate"]), (401, 'Basic realm="weir"'))
        for value in ("Bearer " + token, self.basic(token)):
            self.assertEqual(self.once("GET", "/api/v1/streams", Host=f"weir.example:{self.port}", Authorization=value)[0], 200)
        self.assertEqual(self.once("GET", "/api/v1/streams", Authorization=self.basic(token + "x"))[0], 401)
        self.assertEqual(self.once("GET", "/api/v1/tokens", Authorization=self.basic(token))[0], 403)
        # A browser would send the password with what other sites make it ask for: it changes nothing.
        status, headers, _ = self.once("POST", "/api/v1/tokens", json.dumps({"name": "x", "role": "viewer"}),
                                       Authorization=self.basic(self.server.admin_token))
        self.assertEqual((status, headers["WWW-Authenticate"]), (401, 'Bearer realm="weir"'))
        admin = "Bearer " + self.server.admin_token
        for origin, expected in (("https://evil.example", 403), (f"http://weir.example:{self.port}", 403),
                                 (f"https://weir.example:{self.port}", 200)):
            self.assertEqual(self.once("GET", "/api/v1/tokens", Host=f"weir.example:{self.port}", Origin=origin,
                                       Authorization=admin)[0], expected, origin)

    def weir(self, *args, **env):
        home = self.world.path("home")
        return subprocess.run([weirtest.WEIR, *args], capture_output=True, text=True, timeout=PATIENCE * 2, env={
            **os.environ, "HOME": home, "NO_COLOR": "1", "WEIR_SERVER": f"https://localhost:{self.port}",
            "WEIR_TOKEN": self.server.admin_token, **env})

    def test_weir_believes_whom_it_is_told_to(self):
        r = self.weir("get", "gateways")
        self.assertEqual(r.returncode, 5, r.stderr)
        self.assertIn("--ca or WEIR_CA", r.stderr)
        for args, env in (((), {"WEIR_CA": self.ca}), (("--ca", self.ca), {"WEIR_CA": "/nowhere"})):
            r = self.weir("get", "gateways", *args, **env)
            self.assertEqual(r.returncode, 0, r.stderr)
        r = self.weir("get", "gateways", "--ca", "/nowhere")
        self.assertEqual((r.returncode, "/nowhere" in r.stderr), (2, True))
        foreign = tlskeys.Authority(self.world.path("foreign"), "foreign").cert
        self.assertEqual(self.weir("get", "gateways", WEIR_CA=foreign).returncode, 5)
        r = self.weir("get", "gateways", WEIR_CA=self.ca, WEIR_SERVER=f"https://127.0.0.2:{self.port}")
        self.assertEqual(r.returncode, 5, "a name that the certificate has not")
        os.makedirs(self.world.path("home/.config/weir"))
        shutil.copy(self.ca, self.world.path("home/.config/weir/ca.pem"))
        r = self.weir("top", "--once")
        self.assertEqual(r.returncode, 0, r.stderr)
        shutil.rmtree(self.world.path("home"))

    # ---- certificates change

    def replace(self, source, key=None):
        for name in ("server-cert.pem", "server-key.pem"):
            shutil.copy(os.path.join(key if key and "key" in name else source, name), os.path.join(self.keys, name + ".new"))
            os.rename(os.path.join(self.keys, name + ".new"), os.path.join(self.keys, name))

    def test_certificates_of_both_ports_are_read_anew_and_nothing_is_interrupted(self):
        control = int(self.server.control.rsplit(":", 1)[1])
        target = self.world.nbdkit("memory", "1M")
        gateway = self.world.gateway(config=(
            f"[server]\naddress = {self.server.control}\ntls = require\nkey-file = {self.server.state_dir}/gateway.key\n"
            f"tls-ca = {self.ca}\ntls-verify-name = localhost\n[listener l]\naddress = 127.0.0.1:0\ntarget = t\n"
            f"[target t]\nuri = {target.uri}\n"), name="gw1")
        wait_until(lambda: gateway.local(get="status")["status"]["link"]["connected"], "the link to stand")
        old, standing = self.serial(), self.connection()
        self.assertEqual((self.once("GET", "/healthz", on=standing)[0], self.serial(control)), (200, old))

        # Files that do not fit each other change nothing, on neither port, and are named.
        backup = self.world.path("backup")
        shutil.copytree(self.keys, backup)
        self.replace(self.next, key=self.keys)
        os.kill(self.server.pid, signal.SIGHUP)
        self.server.wait_line(r"SIGHUP: nothing is changed: .*server-key\.pem")
        self.assertEqual((self.serial(), self.serial(control)), (old, old))

        self.replace(self.next)
        os.kill(self.server.pid, signal.SIGHUP)
        wait_until(lambda: self.serial() != old and self.serial(control) != old, "the new certificate on both ports")
        self.server.wait_line(r"gateways on other machines know this server by sha256:[0-9a-f]{64} from now on")
        self.assertEqual(self.once("GET", "/healthz", on=standing)[0], 200, "what stood goes on")
        status = gateway.local(get="status")["status"]["link"]
        self.assertEqual((status["connected"], status["reconnects"]), (True, 0))
        # Tokens carry the new key at once.
        def carried():
            body = self.once("POST", "/api/v1/enrolment-tokens", "{}", Authorization="Bearer " + self.server.admin_token)[2]
            part = json.loads(body)["token"].split(".")[3]
            return base64.urlsafe_b64decode(part + "=").hex()
        said = self.server.wait_line(r"by sha256:([0-9a-f]{64}) from now on").group(1)
        wait_until(lambda: carried() == said, "tokens with the new fingerprint")
        standing.close()
        gateway.stop()
        self.replace(backup)
        os.kill(self.server.pid, signal.SIGHUP)
        wait_until(lambda: self.serial() == old, "the first certificate again")


class Start(unittest.TestCase):
    def test_what_would_leave_the_machine_in_clear_is_refused_at_start(self):
        with weirtest.World() as w:
            def check(text):
                path = w.path("server.conf")
                with open(path, "w", encoding="ascii") as f:
                    f.write(text)
                r = subprocess.run([weirtest.SERVER, "--config", path, "--check-config"], capture_output=True, text=True,
                                   timeout=PATIENCE)
                return r.returncode, r.stderr
            code, words = check("[http]\nlisten = 0.0.0.0:7480\n")
            self.assertEqual(code, 2)
            self.assertIn("tls-certificate and tls-key in [http]", words)
            code, words = check("[http]\ntls-key = /etc/weir/key.pem\n")
            self.assertEqual(code, 2)
            self.assertIn("[http] tls-certificate, tls-key: found one, expected both", words)
            code, words = check("[http]\nlisten = 0.0.0.0:7480\ntls-certificate = /a\ntls-key = /b\n")
            self.assertEqual(code, 2)
            self.assertIn(':3: [http] tls-certificate: found "/a", expected a certificate in PEM form (No such file or directory)', words)
            keys = tlskeys.Authority(w.path("ca"), "ours").folder("keys")
            self.assertEqual(check(f"[http]\nlisten = 0.0.0.0:7480\ntls-certificate = {keys}/server-cert.pem\n"
                                   f"tls-key = {keys}/server-key.pem\n"), (0, ""))


if __name__ == "__main__":
    weirtest.main()
