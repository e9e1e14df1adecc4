# SPDX-License-Identifier: Apache-2.0
"""Goal: TLS on either side of the gateway changes no byte and no rule; who may not come in learns and reaches nothing; what was
said before TLS counts for nothing; nobody's broken handshake hurts others.
Method: libnbd, its tools, QEMU's tools and nbdkit as the other end; hosts by hand (rawnbd, with Python's own TLS) where a
well-behaved client would not do it. Keys are made by certtool and psktool."""
import concurrent.futures
import datetime
import hashlib
import os
import random
import re
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import tempfile
import threading
import time
import unittest

import nbd
import rawnbd
import tlskeys
import weirtest
from rawnbd import READ, REP_ACK, Host, Target
from weirtest import wait_until

MIB = 1 << 20
OPT_EXPORT_NAME, OPT_LIST, OPT_STARTTLS, OPT_INFO = 1, 3, 5, 6
ERR_UNSUP, ERR_INVALID, ERR_TLS_REQD = 0x80000001, 0x80000003, 0x80000005
KEYS = None


class Keys:
    """Made once for all tests of this file."""

    def __init__(self, path):
        self.ca, self.other_ca = (tlskeys.Authority(os.path.join(path, n), n) for n in ("ca", "other-ca"))
        self.good = self.ca.folder("good")
        self.second = self.ca.folder("second", client="host-b")
        self.nameless = self.ca.folder("nameless", client="")
        self.expired = self.ca.folder("expired", expired=True)
        self.misnamed = self.ca.folder("misnamed", server="elsewhere.example")
        self.foreign = self.other_ca.folder("foreign")
        self.psk = tlskeys.psk(self.good, "alice", "bob")
        # A client that trusts the right authority and shows nothing, or shows a stranger's certificate.
        self.bare, self.stranger = os.path.join(path, "bare"), os.path.join(path, "stranger")
        for folder, source in ((self.bare, None), (self.stranger, self.foreign)):
            os.makedirs(folder)
            shutil.copy(self.ca.cert, folder)
            if source:
                for name in ("client-cert.pem", "client-key.pem"):
                    shutil.copy(os.path.join(source, name), folder)


def setUpModule():
    global KEYS, DIR
    weirtest.need("certtool", "psktool")
    DIR = tempfile.mkdtemp(prefix="weir-tls-")
    KEYS = Keys(DIR)


def tearDownModule():
    shutil.rmtree(DIR)


def listener(mode="require", folder=None, client=True, psk=False, cert=True):
    folder = folder or KEYS.good
    text = f"tls = {mode}\n"
    if cert:
        text += f"tls-certificate = {folder}/server-cert.pem\ntls-key = {folder}/server-key.pem\n"
    if client:
        text += f"tls-client-ca = {folder}/ca-cert.pem\n"
    if psk:
        text += f"tls-psk-file = {KEYS.psk}\n"
    return text


def config(target, tls="", target_tls="", limits="", gateway=""):
    return (f"[gateway]\n{gateway}\n[listener l]\naddress = 127.0.0.1:0\ntarget = t\n{tls}\n"
            f"[target t]\nuri = {target}\n{target_tls}\n{limits}\n")


class TlsCase(unittest.TestCase):
    def setUp(self):
        self.world = weirtest.World()
        self.world.__enter__()
        self.addCleanup(lambda: self.world.__exit__(None, None, None))
        seed = random.randrange(1 << 32)
        print(f"seed {seed}")
        self.random = random.Random(seed)

    def client(self, gateway, folder=None, psk=None, tls=nbd.TLS_REQUIRE):
        h = nbd.NBD()
        h.set_tls(tls)
        if folder:
            h.set_tls_certificates(folder)
        if psk:
            h.set_tls_psk_file(KEYS.psk)
            h.set_tls_username(psk)
        h.connect_tcp("127.0.0.1", str(gateway.port))
        return h

    def status(self, gateway):
        return gateway.local(get="status")["status"]

    def wait_reason(self, gateway, reason, n=1):
        wait_until(lambda: self.status(gateway)["connections"]["closed"][reason] >= n, f"{n} closed as {reason}")

    def hosts(self, gateway):
        return {s["host"] for s in gateway.local(get="streams")["streams"] if s["counters"]["read"]["arrivals"]}

    def check_data(self, h, size=16 * MIB, rounds=60):
        """Random writes of all sizes read back the same."""
        model = bytearray(size)
        h.zero(size, 0) if h.can_zero() else h.pwrite(bytes(size), 0)
        for _ in range(rounds):
            n = self.random.choice([1, 511, 4096, 16384, 16385, 65536, 262145, self.random.randrange(1, 2 * MIB)])
            at = self.random.randrange(0, size - n)
            data = self.random.randbytes(n)
            h.pwrite(data, at)
            model[at:at + n] = data
            back = self.random.randrange(0, size - n)
            self.assertEqual(h.pread(n, back), model[back:back + n])
        return model

    def host_by_hand(self, gateway, **kw):
        h = Host(gateway.address, handshake=False, **kw)
        self.addCleanup(h.sock.close)
        h.greet()
        return h

    def start_tls(self, h, folder=None):
        """The client's side of STARTTLS on a host by hand."""
        self.assertEqual(h.option(OPT_STARTTLS)[-1][0], REP_ACK)
        c = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        c.load_verify_locations(os.path.join(KEYS.good, "ca-cert.pem"))
        c.load_cert_chain(*(os.path.join(folder or KEYS.good, n) for n in ("client-cert.pem", "client-key.pem")))
        h.sock = c.wrap_socket(h.sock, server_hostname="localhost")
        self.addCleanup(h.sock.close)


class Hosts(TlsCase):
    def test_a_host_with_a_certificate_moves_its_data_and_is_known_by_the_name_in_it(self):
        storage = self.world.nbdkit("memory", "16M")
        g = self.world.gateway(config=config(storage.uri, listener()))
        h = self.client(g, KEYS.good)
        model = self.check_data(h)
        h.flush()
        direct = nbd.NBD()
        direct.connect_uri(storage.uri)
        self.assertEqual(hashlib.sha256(direct.pread(16 * MIB, 0)).digest(), hashlib.sha256(model).digest())
        other = self.client(g, KEYS.second)
        other.pread(512, 0)
        self.assertEqual(self.hosts(g), {"host-a", "host-b"})
        h.shutdown()
        other.shutdown()
        self.wait_reason(g, "host-disconnected", 2)

    def test_a_host_with_a_pre_shared_key_moves_its_data_and_is_known_by_its_identity(self):
        storage = self.world.nbdkit("memory", "16M")
        g = self.world.gateway(config=config(storage.uri, listener(client=False, cert=False, psk=True)))
        self.check_data(self.client(g, psk="alice"), rounds=30)
        self.client(g, psk="bob").pread(512, 0)
        self.assertEqual(self.hosts(g), {"alice", "bob"})
        with self.assertRaises(nbd.Error):
            self.client(g, psk="carol")
        self.wait_reason(g, "host-tls")

    def test_certificates_and_pre_shared_keys_may_be_offered_side_by_side(self):
        storage = self.world.nbdkit("memory", "1M")
        g = self.world.gateway(config=config(storage.uri, listener(psk=True)))
        self.client(g, KEYS.good).pread(512, 0)
        self.client(g, psk="bob").pread(512, 0)
        self.assertEqual(self.hosts(g), {"host-a", "bob"})

    def test_nbdcopy_with_many_connections_copies_exactly(self):
        weirtest.need("nbdcopy", "nbdinfo")
        storage = self.world.nbdkit("memory", "64M")
        g = self.world.gateway(config=config(storage.uri, listener()))
        uri = f"nbds://localhost:{g.port}/?tls-certificates={KEYS.good}"
        uri = uri.replace("localhost", "127.0.0.1")
        source, back = self.world.path("source"), self.world.path("back")
        with open(source, "wb") as f:
            f.write(self.random.randbytes(64 * MIB))
        for args in ([source, uri], [uri, back]):
            subprocess.run(["nbdcopy", "--connections=4", "--requests=64", *args], check=True, timeout=120)
        self.assertEqual(*(hashlib.sha256(open(p, "rb").read()).digest() for p in (source, back)))
        out = subprocess.run(["nbdinfo", uri], check=True, capture_output=True, text=True, timeout=60).stdout
        self.assertIn("with TLS", out)
        self.assertIn("export-size: 67108864", out)

    def test_the_tools_of_qemu_read_what_they_wrote(self):
        weirtest.need("qemu-io", "qemu-img")
        storage = self.world.nbdkit("memory", "16M")
        g = self.world.gateway(config=config(storage.uri, listener(psk=True)))
        image = f"driver=nbd,host=127.0.0.1,port={g.port},tls-creds=t"
        for creds in (f"tls-creds-x509,id=t,endpoint=client,dir={KEYS.good}",
                      f"tls-creds-psk,id=t,endpoint=client,dir={KEYS.good},username=alice"):
            for command in ("write -P 0x5a 65536 3M", "read -P 0x5a 65536 3M", "write -z 1M 1M", "read -P 0 1M 1M"):
                r = subprocess.run(["qemu-io", "--object", creds, "--image-opts", image, "-c", command],
                                   capture_output=True, text=True, timeout=60)
                self.assertEqual(r.returncode, 0, r.stderr)
                self.assertNotIn("failed", r.stdout + r.stderr)
            copy = self.world.path("copy-" + creds[10:13])
            subprocess.run(["qemu-img", "convert", "--object", creds, "--image-opts", image, "-O", "raw", copy], check=True,
                           capture_output=True, timeout=60)
            direct = nbd.NBD()
            direct.connect_uri(storage.uri)
            with open(copy, "rb") as f:
                self.assertEqual(f.read(), direct.pread(16 * MIB, 0))
            direct.shutdown()

    def test_limits_hold_under_tls_and_follow_the_name_in_the_certificate(self):
        storage = self.world.nbdkit("memory", "16M")
        limits = "[limit a]\nhost = host-a\niops = 60\nbandwidth = 20MiB/s\n"
        g = self.world.gateway(config=config(storage.uri, listener(), limits=limits))
        h = self.client(g, KEYS.good)
        self.check_data(h, rounds=100)
        self.client(g, KEYS.second).pread(512, 0)
        held = {s["host"]: sum(c["held"] for c in s["counters"].values()) for s in g.local(get="streams")["streams"]}
        self.assertGreater(held["host-a"], 0)
        self.assertEqual(held["host-b"], 0)

    def test_sixty_four_hosts_at_once_all_get_in(self):
        storage = self.world.nbdkit("memory", "1M")
        g = self.world.gateway(config=config(storage.uri, listener()))

        def one(_):
            h = self.client(g, KEYS.good)
            data = bytes(h.pread(65536, 0))
            h.shutdown()
            return data
        with concurrent.futures.ThreadPoolExecutor(64) as pool:
            self.assertEqual(set(pool.map(one, range(64))), {bytes(65536)})
        wait_until(lambda: self.status(g)["connections"]["active"] == 0, "no connection left")

    def test_a_name_has_no_more_connections_than_one_host_may_have(self):
        storage = self.world.nbdkit("memory", "1M")
        g = self.world.gateway(config=config(storage.uri, listener(), gateway="max-connections-per-host = 3"))
        hosts = [self.client(g, KEYS.good) for _ in range(3)]
        with self.assertRaises(nbd.Error):
            self.client(g, KEYS.good)
        for h in hosts:
            h.pread(512, 0)


class Refused(TlsCase):
    def gateway(self, patience="2s", **kw):
        self.storage = self.world.nbdkit("memory", "1M")
        return self.world.gateway(config=config(self.storage.uri, listener(**kw), gateway=f"handshake-timeout = {patience}"))

    def good_host_still_works(self, g):
        h = self.client(g, KEYS.good)
        h.pwrite(b"x" * 512, 0)
        self.assertEqual(h.pread(512, 0), b"x" * 512)
        h.shutdown()

    def refused(self, g, folder):
        """TLS 1.3 lets a client believe in its success until it reads."""
        with self.assertRaises(nbd.Error):
            self.client(g, folder).pread(512, 0)

    def refused_by_hand(self, g, folder):
        """libnbd shows no certificate that the server would not know; this host does."""
        h = self.host_by_hand(g)
        with self.assertRaises((OSError, EOFError)):
            self.start_tls(h, folder)
            h.option(OPT_LIST)

    def test_strangers_the_expired_and_the_nameless_do_not_get_in(self):
        g = self.gateway()
        for n, folder in enumerate((KEYS.bare, KEYS.expired, KEYS.nameless, KEYS.stranger), 1):
            (self.refused_by_hand if folder == KEYS.stranger else self.refused)(g, folder)
            self.wait_reason(g, "host-tls", n)
            self.good_host_still_works(g)
        for words in ("issuer is unknown", "shows no certificate", "expired", "names nobody"):
            self.assertIn(words, g.output())
        self.assertEqual(self.hosts(g), {"host-a"})

    def test_an_optional_certificate_may_be_missing_but_not_wrong(self):
        storage = self.world.nbdkit("memory", "1M")
        g = self.world.gateway(config=config(storage.uri, listener() + "tls-client-certificate = optional\n"))
        self.client(g, KEYS.bare).pread(512, 0)
        self.assertEqual(self.hosts(g), {"127.0.0.1"})
        self.refused_by_hand(g, KEYS.stranger)
        self.wait_reason(g, "host-tls")
        self.assertIn("issuer is unknown", g.output())

    def test_a_host_finds_out_a_gateway_that_is_not_the_one_it_wants(self):
        for folder, n in ((KEYS.foreign, 1), (KEYS.misnamed, 1), (KEYS.expired, 1)):
            storage = self.world.nbdkit("memory", "1M")
            g = self.world.gateway(config=config(storage.uri, listener(folder=folder, client=False)))
            self.refused(g, KEYS.good)
            self.wait_reason(g, "host-tls", n)

    def test_without_tls_a_host_learns_nothing_where_it_is_required(self):
        g = self.gateway()
        h = self.host_by_hand(g)
        name = struct.pack(">I", 0) + struct.pack(">H", 0)
        for option, data in ((OPT_LIST, b""), (OPT_INFO, name), (rawnbd.OPT_GO, name), (rawnbd.OPT_STRUCTURED_REPLY, b""),
                             (rawnbd.OPT_EXTENDED_HEADERS, b""), (10, name + b"\0\0"), (77, b"")):
            self.assertEqual([r[0] for r in h.option(option, data)], [ERR_TLS_REQD], option)
        h.sock.sendall(rawnbd.IHAVEOPT + struct.pack(">II", OPT_EXPORT_NAME, 0))
        self.assertEqual(h.closed(), b"")
        with self.assertRaises(nbd.Error):
            self.client(g, tls=nbd.TLS_DISABLE)
        # It may still begin TLS after it was told to, and go without a word.
        h = self.host_by_hand(g)
        self.assertEqual(h.option(OPT_LIST)[-1][0], ERR_TLS_REQD)
        self.start_tls(h)
        self.assertEqual(h.option(OPT_STARTTLS)[-1][0], ERR_INVALID)
        h.go()
        h.send(READ, 7, 0, 512)
        self.assertEqual(h.reply(512), (7, 0, bytes(512)))
        self.assertEqual(self.hosts(g), {"host-a"})

    def test_bytes_in_the_clear_behind_starttls_end_the_connection(self):
        g = self.gateway()
        # With the option, before its acknowledgement: as an injected command would come (CVE-2021-3716).
        h = self.host_by_hand(g)
        option = rawnbd.IHAVEOPT + struct.pack(">II", OPT_STARTTLS, 0)
        go = rawnbd.IHAVEOPT + struct.pack(">II", rawnbd.OPT_GO, 6) + bytes(6)
        h.sock.sendall(option + go)
        h.closed()
        self.wait_reason(g, "host-protocol")
        self.assertIn("in the clear", g.output())
        # Behind the acknowledgement.
        h = self.host_by_hand(g)
        self.assertEqual(h.option(OPT_STARTTLS)[-1][0], REP_ACK)
        h.sock.sendall(go)
        h.closed()
        self.wait_reason(g, "host-tls")
        # STARTTLS with data is refused and changes nothing.
        h = self.host_by_hand(g)
        self.assertEqual(h.option(OPT_STARTTLS, b"x")[-1][0], ERR_INVALID)
        self.assertEqual(h.option(OPT_LIST)[-1][0], ERR_TLS_REQD)
        self.good_host_still_works(g)

    def half_handshakes(self, g):
        halves = []
        hello = bytes.fromhex("1603010200010001fc0303") + bytes(20)
        for n in range(20):
            h = self.host_by_hand(g)
            self.assertEqual(h.option(OPT_STARTTLS)[-1][0], REP_ACK)
            h.sock.sendall(hello[:n])
            halves.append(h)
        return halves

    def test_half_handshakes_hold_up_nobody(self):
        g = self.gateway("600s")
        halves = self.half_handshakes(g)
        self.good_host_still_works(g)
        wait_until(lambda: self.status(g)["connections"]["active"] == len(halves), "all of them to be still waited for")

    def test_half_handshakes_end_with_their_time(self):
        g = self.gateway()
        for h in self.half_handshakes(g):
            h.closed()
        self.wait_reason(g, "host-timeout", 20)

    def test_starttls_is_not_offered_where_tls_is_off(self):
        storage = self.world.nbdkit("memory", "1M")
        g = self.world.gateway(config=config(storage.uri))
        h = self.host_by_hand(g)
        self.assertEqual(h.option(OPT_STARTTLS)[-1][0], ERR_UNSUP)
        h.go()
        h.send(READ, 7, 0, 512)
        self.assertEqual(h.reply(512), (7, 0, bytes(512)))


class Forgotten(TlsCase):
    def test_where_tls_is_allowed_hosts_come_with_it_or_without(self):
        storage = self.world.nbdkit("memory", "16M")
        g = self.world.gateway(config=config(storage.uri, listener("allow")))
        self.client(g, KEYS.good).pread(512, 0)
        self.client(g, tls=nbd.TLS_DISABLE).pread(512, 0)
        h = self.client(g, KEYS.good, tls=nbd.TLS_ALLOW)
        self.assertTrue(h.get_tls_negotiated())
        self.assertEqual(self.hosts(g), {"host-a", "127.0.0.1"})

    def test_what_was_agreed_in_the_clear_counts_for_nothing_after_tls(self):
        with Target(structured=True) as target:
            g = self.world.gateway(config=config(target.uri, listener("allow")))
            h = self.host_by_hand(g)
            self.assertEqual(h.option(rawnbd.OPT_STRUCTURED_REPLY)[-1][0], REP_ACK)
            self.start_tls(h)
            h.go()
            h.send(READ, 7, 0, 512)
            # A simple reply, and from a target that has agreed to nothing else.
            self.assertEqual(h.reply(512), (7, 0, bytes(512)))
            target.wait_closed(1)
            self.assertEqual(len(target.sessions), 2)
            h.send(rawnbd.DISC, 8)
            h.closed()
            wait_until(lambda: self.status(g)["connections"]["active"] == 0, "no connection left")
            # With nothing said before, nothing is dialled anew.
            h = self.host_by_hand(g)
            self.start_tls(h)
            h.option(rawnbd.OPT_STRUCTURED_REPLY)
            h.go()
            self.assertEqual(len(target.sessions), 3)


class Trickle:
    """Passes one connection on, a byte at a time in both directions."""

    def __init__(self, port):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port, self.to = self.listener.getsockname()[1], port
        threading.Thread(target=self.run, daemon=True).start()

    def run(self):
        with self.listener:
            near, _ = self.listener.accept()
        far = socket.create_connection(("127.0.0.1", self.to))
        for s in (near, far):
            s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for a, b in ((near, far), (far, near)):
            threading.Thread(target=self.carry, args=(a, b), daemon=True).start()

    def carry(self, a, b):
        try:
            while data := a.recv(4096):
                for i in range(len(data)):
                    b.sendall(data[i:i + 1])
        except OSError:
            pass
        finally:
            for s in (a, b):
                try:
                    s.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass


class Trickling(TlsCase):
    def test_a_byte_at_a_time_is_enough_on_both_sides(self):
        storage = self.world.nbdkit("--tls=require", f"--tls-certificates={KEYS.good}", "memory", "1M")
        slow = Trickle(storage.port)
        g = self.world.gateway(config=config(
            f"nbds://127.0.0.1:{slow.port}", listener(), f"tls-ca = {KEYS.good}/ca-cert.pem",
            gateway="handshake-timeout = 60s"))
        near = Trickle(g.port)
        h = nbd.NBD()
        h.set_tls(nbd.TLS_REQUIRE)
        h.set_tls_certificates(KEYS.good)
        h.connect_tcp("127.0.0.1", str(near.port))
        data = self.random.randbytes(20000)
        h.pwrite(data, 5)
        self.assertEqual(h.pread(20000, 5), data)
        h.shutdown()


class Targets(TlsCase):
    def through(self, storage, tls, scheme="nbds", host_tls="", host="127.0.0.1"):
        return self.world.gateway(config=config(f"{scheme}://{host}:{storage.port}", host_tls, tls))

    def plain(self, gateway):
        h = nbd.NBD()
        h.connect_uri(gateway.uri())
        return h

    def test_a_target_with_certificates_is_reached_and_knows_the_gateway(self):
        storage = self.world.nbdkit("--tls=require", f"--tls-certificates={KEYS.good}", "--tls-verify-peer", "memory", "16M")
        own = f"tls-certificate = {KEYS.good}/client-cert.pem\ntls-key = {KEYS.good}/client-key.pem\n"
        ca = f"tls-ca = {KEYS.good}/ca-cert.pem\n"
        g = self.through(storage, ca + own, host_tls=listener())
        self.check_data(self.client(g, KEYS.good))
        # The same by keys alone, under another name of the target.
        g = self.through(storage, ca + own + "tls = require\ntls-verify-name = localhost\n", scheme="nbd")
        self.check_data(self.plain(g), rounds=10)
        # Without a certificate of its own the gateway is refused, and says so.
        g = self.through(storage, ca)
        with self.assertRaises(nbd.Error):
            self.plain(g)
        wait_until(lambda: any(self.status(g)["connections"]["closed"][r] for r in
                               ("target-tls", "target-closed", "target-reset")), "the refusal to be counted")

    def test_a_target_with_a_pre_shared_key_is_reached(self):
        storage = self.world.nbdkit("--tls=require", f"--tls-psk={KEYS.psk}", "memory", "16M")
        g = self.through(storage, f"tls-psk-file = {KEYS.psk}\ntls-psk-identity = bob\n")
        self.check_data(self.plain(g), rounds=20)
        limits = "[limit a]\niops = 20\n"
        g = self.world.gateway(config=config(f"nbds://127.0.0.1:{storage.port}", listener(psk=True, cert=False, client=False),
                                             f"tls-psk-file = {KEYS.psk}\n", limits))
        self.check_data(self.client(g, psk="alice"), rounds=30)
        self.assertGreater(sum(c["held"] for s in g.local(get="streams")["streams"] for c in s["counters"].values()), 0)

    def test_the_server_looks_at_targets_by_tls_with_the_keys_of_its_file(self):
        w = self.world
        require = ("--tls=require", "memory", "1M")
        storages = {
            "cert": w.nbdkit(f"--tls-certificates={KEYS.good}", "--tls-verify-peer", *require),
            "key": w.nbdkit(f"--tls-psk={KEYS.psk}", *require),
            "elsewhere": w.nbdkit(f"--tls-certificates={KEYS.misnamed}", *require),
            "misnamed": w.nbdkit(f"--tls-certificates={KEYS.misnamed}", *require),
            "foreign": w.nbdkit(f"--tls-certificates={KEYS.foreign}", *require),
            "clear": w.nbdkit("memory", "1M"),
        }
        for name in ("cert", "elsewhere"):  # other files, the same for both sides
            storages[name].tls = (f"tls-ca = {KEYS.good}/ca-cert.pem\ntls-certificate = {KEYS.good}/client-cert.pem\n"
                                  f"tls-key = {KEYS.good}/client-key.pem\n")
        storages["misnamed"].tls = f"tls-ca = {KEYS.good}/ca-cert.pem\n"
        storages["foreign"].tls = f"tls-ca = {KEYS.foreign}/ca-cert.pem\n"
        storages["key"].tls = f"tls-psk-file = {KEYS.psk}\ntls-psk-identity = bob\n"
        storages["clear"].tls = ""
        text = "[listener l]\naddress = 127.0.0.1:0\ntarget = cert\n"
        for name, s in storages.items():
            # tls = require says the same as nbds does.
            tls = s.tls and s.tls + ("tls = require\n" if name == "cert" else "")
            scheme = "nbds" if s.tls and name != "cert" else "nbd"
            text += f"[target {name}]\nuri = {scheme}://localhost:{s.port}\n{tls}"
        conf = w.path("server.conf")

        def write(more):
            with open(conf, "w") as f:
                f.write("[resource]\nprobe-period = 1s\n" + storages["cert"].tls + more)
        write(f"[target key]\n{storages['key'].tls}[target elsewhere]\ntls-verify-name = elsewhere.example\n")
        server = w.server("--config", conf)
        w.gateway(config=text, server=server)

        def health():
            return {t["name"]: t["probe"] for t in server.items("/targets")}

        def known():
            found = health()
            return found if len(found) == 6 and all(h and h["probes"] > 0 for h in found.values()) else None
        found = wait_until(known, "every target to be looked at")
        for name in ("cert", "key", "elsewhere", "clear"):
            self.assertTrue(found[name]["reachable"], (name, found[name]))
            self.assertEqual(found[name]["size"], MIB)
        for name, words in (("misnamed", "name in the certificate does not match"), ("foreign", "certificate is NOT trusted")):
            self.assertFalse(found[name]["reachable"])
            self.assertIn(words, found[name]["error"])
        # New keys count from the next look on; what cannot be read changes nothing.
        write(f"[target foreign]\n{storages['foreign'].tls}[target key]\ntls-psk-file = {KEYS.psk}.gone\n")
        os.kill(server.pid, signal.SIGHUP)
        wait_until(lambda: "nothing is changed" in server.output(), "the refusal")
        # One out of date is told, and used: nobody's I/O hangs on it.
        write(f"[target foreign]\n{storages['foreign'].tls}[target misnamed]\ntls-certificate = {KEYS.expired}/client-cert.pem\n"
              f"tls-key = {KEYS.expired}/client-key.pem\n")
        os.kill(server.pid, signal.SIGHUP)
        wait_until(lambda: re.search(r"\[target misnamed\] tls-certificate: found .*, expected a certificate that is in date \(it ended",
                                     server.output()), "the word of the one that has ended")
        found = wait_until(lambda: (lambda h: h if h["foreign"]["reachable"] and not h["key"]["reachable"] else None)(health()),
                           "the new keys to count")
        self.assertEqual(server.stop(), 0)
        # Without keys nothing is said to a target with TLS.
        with open(conf, "w") as f:
            f.write("[resource]\nprobe-period = 1s\n")
        server = w.server("--config", conf)
        w.gateway(config=text, server=server)
        found = wait_until(known, "every target to be looked at")
        self.assertTrue(found["clear"]["reachable"])
        self.assertIn("for which the server has no keys", found["cert"]["error"])
        self.assertEqual(server.stop(), 0)

    def test_a_target_that_is_not_the_one_is_left_before_anything_is_said_to_it(self):
        ca = f"tls-ca = {KEYS.good}/ca-cert.pem\n"
        for folder, words in ((KEYS.foreign, "issuer is unknown"), (KEYS.misnamed, "name"), (KEYS.expired, "expired")):
            storage = self.world.nbdkit("--tls=require", f"--tls-certificates={folder}", "memory", "1M")
            g = self.through(storage, ca)
            with self.assertRaises(nbd.Error):
                self.plain(g)
            self.wait_reason(g, "target-tls")
            self.assertIn(words, g.output())
        g = self.through(self.world.nbdkit("--tls=require", f"--tls-certificates={KEYS.good}", "memory", "1M"),
                         ca + "tls-verify-name = another.example\n")
        with self.assertRaises(nbd.Error):
            self.plain(g)
        self.wait_reason(g, "target-tls")

    def test_a_target_without_tls_is_refused_where_tls_is_wanted(self):
        storage = self.world.nbdkit("memory", "1M")
        g = self.through(storage, f"tls-ca = {KEYS.good}/ca-cert.pem\n")
        with self.assertRaises(nbd.Error):
            self.plain(g)
        self.wait_reason(g, "target-protocol")
        self.assertIn("target does not offer TLS", g.output())


class Reload(TlsCase):
    def test_new_certificates_count_from_the_next_connection_on_and_broken_ones_never(self):
        folder = self.world.path("keys")
        shutil.copytree(KEYS.good, folder)
        storage = self.world.nbdkit("memory", "1M")
        g = self.world.gateway(config=config(storage.uri, listener(folder=folder)))
        old = self.client(g, KEYS.good)
        for name in ("ca-cert.pem", "server-cert.pem", "server-key.pem"):
            shutil.copy(os.path.join(KEYS.foreign, name), folder)
        g.popen.send_signal(signal.SIGHUP)
        wait_until(lambda: "certificates and keys" in g.output(), "the reload")
        self.client(g, KEYS.foreign).pread(512, 0)
        with self.assertRaises(nbd.Error):
            self.client(g, KEYS.good).pread(512, 0)
        old.pread(512, 0)  # began before
        with open(os.path.join(folder, "server-key.pem"), "w") as f:
            f.write("not a key\n")
        g.popen.send_signal(signal.SIGHUP)
        wait_until(lambda: "everything stays as it was" in g.output(), "the refusal to reload")
        self.assertIn(os.path.join(folder, "server-key.pem"), g.output())
        self.client(g, KEYS.foreign).pread(512, 0)
        old.pread(512, 0)


    def test_a_certificate_out_of_date_is_told_and_never_takes_the_place_of_one_in_date(self):
        """A gateway starts with it: hosts that do not mind, or have keys, have their I/O."""
        folder = self.world.path("keys")
        shutil.copytree(KEYS.expired, folder)
        storage = self.world.nbdkit("memory", "1M")
        g = self.world.gateway(config=config(storage.uri, listener(folder=folder, client=False, psk=True)))
        self.assertRegex(g.output(), r"\.conf:7: " + re.escape(
            f'[listener l] tls-certificate: found "{folder}/server-cert.pem", expected a certificate that is in date (it ended on '
            "2002-01-01 00:00:00 UTC, ") + r"\d+ days ago\)")
        self.client(g, psk="alice").pread(512, 0)
        careless = nbd.NBD()
        careless.set_tls(nbd.TLS_REQUIRE)
        careless.set_tls_certificates(KEYS.good)
        careless.set_tls_verify_peer(False)
        careless.connect_tcp("127.0.0.1", str(g.port))
        careless.pread(512, 0)
        with self.assertRaises(nbd.Error):
            self.client(g, KEYS.good)
        (shown,) = self.status(g)["certificates"]
        self.assertEqual(shown, {"of": "listener l", "file": f"{folder}/server-cert.pem", "notBefore": "2001-01-01T00:00:00.000Z",
                                 "notAfter": "2002-01-01T00:00:00.000Z"})

        def renew(source):
            for name in ("server-cert.pem", "server-key.pem"):
                shutil.copy(os.path.join(source, name), folder)
            before = len(g.output())
            g.popen.send_signal(signal.SIGHUP)
            return wait_until(lambda: (lambda s: s if re.search("SIGHUP: .*\n", s) else None)(g.output()[before:]), "the reload")
        self.assertIn("certificates and keys", renew(KEYS.good))
        self.client(g, KEYS.good).pread(512, 0)
        self.assertGreater(self.status(g)["certificates"][0]["notAfter"], shown["notAfter"])
        said = renew(KEYS.expired)
        self.assertIn("everything stays as it was", said)
        self.assertIn(f"{folder}/server-cert.pem: it ended on 2002-01-01 00:00:00 UTC, ", said)
        self.client(g, KEYS.good).pread(512, 0)
        careless.pread(512, 0)

    def test_an_upgrade_does_not_put_a_certificate_out_of_date_in_the_place_of_one_in_date(self):
        folder = self.world.path("keys")
        shutil.copytree(KEYS.good, folder)
        storage = self.world.nbdkit("memory", "1M")
        g = self.world.gateway(config=config(storage.uri, listener(folder=folder)))

        def upgrade(source):
            for name in ("server-cert.pem", "server-key.pem"):
                shutil.copy(os.path.join(source, name), folder)
            before = len(g.output())
            r = subprocess.run([weirtest.GATEWAY, "--upgrade", "--socket", g.socket_path], capture_output=True, text=True,
                               timeout=2 * weirtest.PATIENCE)
            return r.returncode, g.output()[before:]
        worker = g.pid
        code, said = upgrade(KEYS.expired)
        self.assertEqual(code, 1, said)
        self.assertIn(f"{folder}/server-cert.pem: it ended on 2002-01-01 00:00:00 UTC, ", said)
        self.assertIn("the old goes on", said)
        self.assertEqual(g.pid, worker)
        self.client(g, KEYS.good).pread(512, 0)
        code, said = upgrade(KEYS.good)
        self.assertEqual(code, 0, said)
        self.client(g, KEYS.good).pread(512, 0)
        # Where the one in force has ended, another such is no worse, and an upgrade goes on as a start does.
        h = self.world.gateway(config=config(storage.uri, listener(folder=KEYS.expired)))
        r = subprocess.run([weirtest.GATEWAY, "--upgrade", "--socket", h.socket_path], capture_output=True, text=True,
                           timeout=2 * weirtest.PATIENCE)
        self.assertEqual(r.returncode, 0, r.stderr + h.output())

    def test_what_was_read_last_outlives_the_worker_whatever_became_of_the_files(self):
        folder = self.world.path("keys")
        shutil.copytree(KEYS.good, folder)
        storage = self.world.nbdkit("memory", "1M")
        target = self.world.nbdkit("--tls=require", f"--tls-certificates={KEYS.good}", "memory", "1M")

        def text(folder):
            return (config(storage.uri, listener(folder=folder), gateway="worker-timeout = 60s") + "[listener m]\naddress = 127.0.0.1:0\n"
                    f"target = u\n[target u]\nuri = nbds://localhost:{target.port}\ntls-ca = {folder}/ca-cert.pem\n")
        g = self.world.gateway(config=text(folder))
        other = g.wait_line(r"^weir-gateway: listening on 127.0.0.1:(\d+) for target u").group(1)

        def put(source, names=("ca-cert.pem", "server-cert.pem", "server-key.pem")):
            for name in names:
                shutil.copy(os.path.join(source, name), folder)

        def serves(keys):
            self.client(g, keys).pread(512, 0)
            with self.assertRaises(nbd.Error):
                self.client(g, KEYS.good if keys == KEYS.foreign else KEYS.foreign)

        def killed_and_back(keys):
            g.kill_worker()
            serves(keys)

        def reload(words):
            before = len(g.output())
            g.popen.send_signal(signal.SIGHUP)
            wait_until(lambda: words in g.output()[before:], "the reload")
        for name in ("ca-cert.pem", "server-cert.pem", "server-key.pem"):
            with open(os.path.join(folder, name), "w") as f:
                f.write("half a file\n")
        killed_and_back(KEYS.good)
        h = nbd.NBD()
        h.connect_tcp("127.0.0.1", other)
        h.pread(512, 0)
        reload("everything stays as it was")
        killed_and_back(KEYS.good)
        # A worker that comes to it late takes nothing that its manager did not.
        os.kill(g.pid, signal.SIGSTOP)
        reload("everything stays as it was")
        put(KEYS.foreign)
        os.kill(g.pid, signal.SIGCONT)
        serves(KEYS.good)
        reload("certificates and keys")
        put(KEYS.expired)
        killed_and_back(KEYS.foreign)
        reload("everything stays as it was")
        killed_and_back(KEYS.foreign)
        # Other files: a worker to come names those.
        elsewhere = self.world.path("elsewhere")
        shutil.copytree(KEYS.good, elsewhere)
        with open(next(a for a in g.argv if a.endswith(".conf")), "w") as f:
            f.write(text(elsewhere))
        reload("certificates and keys")
        killed_and_back(KEYS.good)
        self.assertEqual([c["file"] for c in self.status(g)["certificates"]], [f"{elsewhere}/server-cert.pem"])

    def test_the_server_hears_when_a_gateways_certificate_ends_and_tells_of_its_own(self):
        w = self.world
        folder = KEYS.ca.folder("soon", days=5)
        conf = w.path("server.conf")
        with open(conf, "w") as f:
            f.write(f"[control]\ntls-certificate = {folder}/server-cert.pem\ntls-key = {folder}/server-key.pem\n")
        server = w.server("--config", conf)
        wait_until(lambda: "the certificate of [control]: it ends on " in server.output(), "the word of the server's own")
        storage = w.nbdkit("memory", "1M")
        g = w.gateway(config=config(storage.uri, listener(folder=folder)), server=server, name="gw")
        wait_until(lambda: "[listener l] certificate" in g.output(), "the gateway's own word")

        def record():
            return next((x["certificate"] for x in server.items("/gateways") if x["certificate"]), None)
        shown = wait_until(record, "the server to hear of it")
        self.assertEqual(shown["of"], "listener l")
        event = wait_until(lambda: [e for e in server.items("/events") if e["kind"] == "gateway-certificate-ends"], "the event")
        self.assertIn("the certificate of [listener l] in its gateway.conf: it ends on ", event[0]["text"])
        ends = datetime.datetime.fromisoformat(shown["notAfter"].replace("Z", "+00:00")).timestamp()
        self.assertTrue(4 < (ends - time.time()) / 86400 < 5.1)
        page = server.request("GET", "/metrics")[2]
        for name in ("weir_gateway_certificate_expiry_timestamp_seconds", "weir_control_certificate_expiry_timestamp_seconds"):
            values = [float(line.rsplit(" ", 1)[1]) for line in page.splitlines() if line.startswith(name)]
            self.assertEqual(len(values), 1, name)
            self.assertLess(abs(values[0] - ends), 120)
        self.assertIn("notAfter: ", w.cli(server, "describe", "gateway", "gw", check=True).stdout)
        # The same rule for the server: what counts stays.
        for name in ("server-cert.pem", "server-key.pem"):
            shutil.copy(os.path.join(KEYS.expired, name), folder)
        os.kill(server.pid, signal.SIGHUP)
        wait_until(lambda: "nothing is changed: [control] tls-certificate: it ended on 2002-01-01" in server.output(), "the refusal")
        self.assertEqual(record(), shown)
        self.assertEqual(server.stop(), 0)


class Configuration(TlsCase):
    def errors(self, tls="", target_tls="", uri="nbd://127.0.0.1:1"):
        path = self.world.path("check.conf")
        with open(path, "w") as f:
            f.write(config(uri, tls, target_tls))
        r = subprocess.run([weirtest.GATEWAY, "--check-config", path], capture_output=True, text=True, timeout=30)
        self.assertEqual(r.returncode, 2, r.stdout + r.stderr)
        return r.stderr.replace(path, "FILE")

    def test_what_is_wrong_is_told_with_file_line_found_and_expected(self):
        good = KEYS.good
        pair = f"tls-certificate = {good}/server-cert.pem\ntls-key = {good}/server-key.pem\n"
        for tls, words in (
                ("tls = maybe\n", "FILE:6: "),
                ("tls = maybe\n", "expected off, allow (a host may begin TLS) or require"),
                ("tls = require\n", "FILE:6: [listener l]: TLS without a secret"),
                (pair, "tls keys without TLS"),
                ("tls = require\ntls-certificate = x\n", "absolute path"),
                (f"tls = require\ntls-certificate = {good}/server-cert.pem\n", "expected both"),
                (f"tls = require\ntls-certificate = {good}/none.pem\ntls-key = {good}/server-key.pem\n",
                 f'FILE:7: [listener l] tls-certificate: found "{good}/none.pem", expected a certificate in PEM form (No such file'),
                (f"tls = require\ntls-certificate = {good}/server-cert.pem\ntls-key = {good}/client-key.pem\n",
                 f'FILE:8: [listener l] tls-key: found "{good}/client-key.pem", expected the private key'),
                (f"tls = require\ntls-psk-file = {good}/server-cert.pem\n", f'found "{good}/server-cert.pem", expected IDENTITY'),
                ("tls = require\n" + pair + "tls-client-certificate = required\n", "without tls-client-ca"),
                ("tls = require\n" + pair + "tls-client-certificate = perhaps\n", "none, optional or required"),
                ("tls = require\n" + pair + "tls-sertificate = /x\n", "tls-certificate")):
            self.assertIn(words, self.errors(tls))
        for tls, uri, words in (
                ("tls = allow\n", "nbd://127.0.0.1:1", "off or require"),
                ("tls = off\n", "nbds://127.0.0.1:1", "tls = off with an nbds uri"),
                (f"tls-ca = {good}/ca-cert.pem\n", "nbd://127.0.0.1:1", "tls keys without TLS"),
                (f"tls-psk-file = {KEYS.psk}\ntls-psk-identity = carol\n", "nbds://127.0.0.1:1", "identity"),
                (f"tls-ca = {good}/ca-cert.pem\n", "nbds+unix:///?socket=/x", "no tls-verify-name")):
            self.assertIn(words, self.errors(target_tls=tls, uri=uri))


if __name__ == "__main__":
    weirtest.main()
