# SPDX-License-Identifier: Apache-2.0
"""What the tests of the API share: one real world (storage, gateway, server, I/O by libnbd) for all tests of a file, documents to
put, and a case that holds each answer against docs/openapi.yaml. A test file takes setUpModule and tearDownModule from here."""
import contextlib
import socket
import threading
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
