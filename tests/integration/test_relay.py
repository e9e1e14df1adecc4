# SPDX-License-Identifier: Apache-2.0
"""Goal: the relay changes no byte, holds what a limit says and nothing else, keeps its rules of order, and lets no host and no
target hurt anybody but their own connection.
Method: real storage where data is judged; where order, timing or malice is judged, hosts and a recording target by hand
(rawnbd). Limits that hold are so low that nothing could slip through in a test's time; nothing asserts a speed. Random data
comes from a printed seed."""
import concurrent.futures
import fcntl
import hashlib
import os
import random
import signal
import socket
import struct
import subprocess
import termios
import time
import unittest

import nbd
import rawnbd
import weirtest
from rawnbd import BLOCK_STATUS, DISC, FLUSH, READ, TRIM, WRITE, Host, Target
from weirtest import wait_until

MIB = 1 << 20


def config(target, *limits, gateway="", listener="address = 127.0.0.1:0"):
    """A file with one listener and one target; limits as 'key = value' lines joined by ';'."""
    text = f"[gateway]\n{gateway}\n[listener l]\n{listener}\ntarget = t\n[target t]\nuri = {target}\n"
    for i, limit in enumerate(limits):
        text += f"[limit l{i}]\n" + limit.replace(";", "\n") + "\n"
    return text


def sanitized(process):
    """Whether it is built with ASan, as a library (gcc) or inside (clang)."""
    with open(f"/proc/{process.pid}/exe", "rb") as f:
        return b"__asan_init" in f.read()


def waiting(sock):
    """Bytes that lie in a socket's receive queue."""
    return struct.unpack("i", fcntl.ioctl(sock, termios.FIONREAD, bytes(4)))[0]


class RelayCase(unittest.TestCase):
    def setUp(self):
        self.world = self.enterContext(weirtest.World()) if hasattr(self, "enterContext") else self.enter()

    def enter(self):
        world = weirtest.World()
        world.__enter__()
        self.addCleanup(lambda: world.__exit__(None, None, None))
        return world

    def target(self, **kw):
        t = Target(**kw)
        self.addCleanup(t.__exit__)
        return t

    def host(self, gateway, **kw):
        h = Host(gateway.address, **kw)
        self.addCleanup(h.sock.close)
        return h

    def client(self, uri):
        h = nbd.NBD()
        h.connect_uri(uri)
        return h

    def status(self, gateway):
        return gateway.local(get="status")["status"]

    def closed(self, gateway, reason):
        return self.status(gateway)["connections"]["closed"][reason]

    def wait_reason(self, gateway, reason, n=1):
        wait_until(lambda: self.closed(gateway, reason) >= n, f"{n} connections closed as {reason}")

    def wait_idle(self, gateway):
        wait_until(lambda: self.status(gateway)["connections"]["active"] == 0, "no connection left")

    def stream(self, gateway, volume="default"):
        return next(s for s in gateway.local(get="streams")["streams"] if s["volume"] == volume)

    def assert_nothing_in_flight(self, gateway):
        for s in gateway.local(get="streams")["streams"]:
            for op, c in s["counters"].items():
                self.assertEqual(c["arrivals"], c["completions"] + c["dropped"], f"{s['key']} {op}: {c}")
            self.assertEqual(s["heldNow"], 0)
        for t in gateway.local(get="targets")["targets"]:
            self.assertEqual(t["inflight"], 0)


class Data(RelayCase):
    def setUp(self):
        super().setUp()
        self.seed = random.randrange(1 << 32)
        print(f"seed {self.seed}")
        self.random = random.Random(self.seed)

    def test_random_writes_of_all_sizes_read_back_the_same_through_the_gateway_and_beside_it(self):
        storage = self.world.nbdkit("memory", "32M")
        g = self.world.gateway(target=storage.uri)
        h, direct = self.client(g.uri()), self.client(storage.uri)
        model = bytearray(32 * MIB)
        for _ in range(300):
            size = self.random.choice([1, 511, 512, 4096, 65536, 262143, 262144, 262145, self.random.randrange(1, 3 * MIB)])
            offset = self.random.randrange(0, len(model) - size)
            data = self.random.randbytes(size)
            h.pwrite(data, offset, nbd.CMD_FLAG_FUA if self.random.random() < 0.1 else 0)
            model[offset:offset + size] = data
            back = self.random.randrange(0, len(model) - size)
            self.assertEqual(h.pread(size, back), model[back:back + size])
        h.flush()
        h.zero(MIB, 4096)
        model[4096:4096 + MIB] = bytes(MIB)
        for offset in range(0, len(model), 4 * MIB):
            self.assertEqual(direct.pread(4 * MIB, offset), model[offset:offset + 4 * MIB])
        h.shutdown()
        self.wait_idle(g)
        self.assert_nothing_in_flight(g)
        self.assertEqual(self.closed(g, "host-disconnected"), 1)

    def test_nbdcopy_with_many_connections_and_requests_copies_exactly(self):
        weirtest.need("nbdcopy")
        storage = self.world.nbdkit("memory", "128M")
        g = self.world.gateway(target=storage.uri)
        source, back = self.world.path("source"), self.world.path("back")
        with open(source, "wb") as f:
            f.write(self.random.randbytes(128 * MIB))
        for args in ([source, g.uri()], [g.uri(), back]):
            subprocess.run(["nbdcopy", "--connections=4", "--requests=64", *args], check=True, timeout=120)
        self.assertEqual(*(hashlib.sha256(open(p, "rb").read()).digest() for p in (source, back)))

    def test_data_is_the_same_while_limits_hold_reads_and_writes(self):
        storage = self.world.nbdkit("memory", "32M")
        g = self.world.gateway(config=config(storage.uri, "bandwidth = 60MiB/s", "iops = 200", "iops-write = 100"))
        h, model, busy = self.client(g.uri()), bytearray(8 * MIB), []
        for i in range(600):
            size = self.random.choice([512, 4096, 20000, 70000, 300000])
            offset = i * 13577 % (len(model) - size)
            if i % 3 == 2:
                for c in busy:
                    while not h.aio_command_completed(c):
                        h.poll(-1)
                busy = []
                self.assertEqual(h.pread(size, offset), model[offset:offset + size])
            else:
                # Two writes at once must not overlap; whole steps do not.
                data = self.random.randbytes(min(size, 13000))
                model[offset:offset + len(data)] = data
                busy.append(h.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(data)), offset))
        for c in busy:
            while not h.aio_command_completed(c):
                h.poll(-1)
        self.assertEqual(h.pread(len(model), 0), model)
        h.shutdown()
        self.wait_idle(g)
        self.assert_nothing_in_flight(g)
        self.assertGreater(sum(c["held"] for c in g.local(get="streams")["streams"][0]["counters"].values()), 0)

    def test_a_read_of_64_mib_passes_without_64_mib_of_memory(self):
        storage = self.world.nbdkit("memory", "128M")
        g = self.world.gateway(target=storage.uri)
        h, direct = self.client(g.uri()), self.client(storage.uri)
        piece = self.random.randbytes(MIB)
        for i in range(0, 64, 7):
            direct.pwrite(piece, i * MIB)
        before = g.rss_kib()
        # libnbd would refuse more than 64 MiB; nbdkit's own bound is the same.
        self.assertEqual(h.pread(64 * MIB, 0), direct.pread(64 * MIB, 0))
        self.assertLess(g.rss_kib() - before, 8 * 1024)

    def test_unix_sockets_and_ipv6_carry_the_same_data(self):
        storage = self.world.nbdkit("memory", "1M")
        path = self.world.path("listen.sock")
        argv = ["--listen", f"unix:{path}"]
        if os.path.exists("/proc/net/if_inet6"):
            argv += ["--listen", "[::1]:0"]
        g = self.world.gateway(*argv, target=storage.uri)
        lines = [line.split()[3] for line in g.output().splitlines() if "listening on" in line]
        self.assertEqual(len(lines), 1 + len(argv) // 2)
        self.assertIn(f"unix:{path}", lines)
        data = self.random.randbytes(4096)
        for i, address in enumerate(lines):
            uri = f"nbd+unix:///?socket={path}" if address.startswith("unix:") else f"nbd://{address}"
            h = self.client(uri)
            h.pwrite(data, 4096 * i)
            self.assertEqual(h.pread(4096, 4096 * i), data)
            h.shutdown()
        hosts = {s["host"] for s in g.local(get="streams")["streams"]}
        self.assertIn("127.0.0.1", hosts)
        self.assertTrue(any("uid" in name for name in hosts), hosts)
        self.assertEqual(g.stop(), 0)
        self.assertFalse(os.path.exists(path))

    def test_200_busy_connections_get_each_its_own_data(self):
        storage = self.world.nbdkit("-t", "16", "memory", "256M")
        g = self.world.gateway(target=storage.uri)
        handles = [self.client(g.uri()) for _ in range(200)]

        def work(i):
            rng, h = random.Random(self.seed + i), handles[i]
            for _ in range(20):
                data = rng.randbytes(rng.choice([512, 4096, 65536]))
                offset = i * MIB + rng.randrange(0, MIB - len(data))
                h.pwrite(data, offset)
                if h.pread(len(data), offset) != data:
                    return f"connection {i} read what it did not write"
            h.shutdown()
            return None

        with concurrent.futures.ThreadPoolExecutor(32) as pool:
            self.assertEqual([w for w in pool.map(work, range(200)) if w], [])
        self.wait_idle(g)
        self.assert_nothing_in_flight(g)


class Order(RelayCase):
    def test_a_held_write_is_passed_by_later_reads_and_keeps_its_payload(self):
        t = self.target()
        g = self.world.gateway(config=config(t.uri, "bandwidth-write = 8KiB/s", gateway="max-hold = 600s"))
        h = self.host(g)
        payload = random.randbytes(10000)
        h.send(WRITE, 1, 0, 32768, payload=bytes(32768))  # four seconds of debt
        h.send(WRITE, 2, 65536, 10000, payload=payload)
        h.send(READ, 3, 4096, 512)
        self.assertEqual(h.reply()[0], 1)
        self.assertEqual(h.reply(512)[0], 3)
        self.assertEqual(h.reply()[0], 2)
        r = t.wait_requests(3)
        self.assertEqual([x.kind for x in r], [WRITE, READ, WRITE])
        self.assertEqual(r[2].payload, payload)
        c = self.stream(g)["counters"]["write"]
        self.assertEqual((c["completions"], c["held"]), (2, 1))
        self.assertGreater(c["heldUs"], 100000)

    def test_flush_keeps_its_place_behind_held_writes_and_reads_do_not(self):
        t = self.target()
        g = self.world.gateway(config=config(t.uri, "iops-write = 2", gateway="max-hold = 600s"))
        h = self.host(g)
        for i in range(4):
            h.send(WRITE, i, i * 512, 512, payload=bytes([i]) * 512)
        h.send(FLUSH, 10)
        h.send(READ, 11, 0, 512)
        r = t.wait_requests(6)
        kinds = [x.kind for x in r]
        self.assertEqual([k for k in kinds if k != READ], [WRITE] * 4 + [FLUSH])
        self.assertLess(kinds.index(READ), kinds.index(FLUSH))
        self.assertEqual([x.payload[0] for x in r if x.kind == WRITE], [0, 1, 2, 3])

    def test_disc_after_held_writes_waits_for_them_and_all_are_answered(self):
        t = self.target()
        g = self.world.gateway(config=config(t.uri, "iops-write = 4", gateway="max-hold = 600s"))
        h = self.host(g)
        for i in range(5):
            h.send(WRITE, i, i * 512, 512, payload=bytes([i]) * 512)
        h.send(DISC, 99)
        self.assertEqual([h.reply()[0] for _ in range(5)], [0, 1, 2, 3, 4])
        self.assertEqual(h.closed(), b"")
        self.assertEqual([x.kind for x in t.wait_requests(6)], [WRITE] * 5 + [DISC])
        self.wait_reason(g, "host-disconnected")

    def test_a_host_that_sends_disc_and_leaves_still_has_its_held_writes_done(self):
        t = self.target()
        g = self.world.gateway(config=config(t.uri, "iops-write = 4", gateway="max-hold = 600s"))
        h = self.host(g)
        # In one piece, and seen to have arrived: closing with an answer unread throws away what was not yet sent.
        h.sock.sendall(b"".join(rawnbd.request(WRITE, i, i * 512, 512, payload=bytes([i]) * 512) for i in range(5)) +
                       rawnbd.request(DISC, 99))
        wait_until(lambda: self.stream(g)["counters"]["write"]["arrivals"] == 5, "all writes here")
        h.sock.close()
        self.assertEqual([x.kind for x in t.wait_requests(6)], [WRITE] * 5 + [DISC])
        self.wait_idle(g)
        self.assert_nothing_in_flight(g)

    def test_what_a_vanished_host_had_held_never_reaches_the_target(self):
        for leave in (lambda h: h.sock.close(), lambda h: h.reset()):
            t = self.target(automatic=False)
            g = self.world.gateway(config=config(t.uri, "iops-write = 1", gateway="max-hold = 600s"))
            h = self.host(g)
            for i in range(50):
                h.send(WRITE, i, i * 512, 512, payload=bytes([i]) * 512)
            wait_until(lambda: self.stream(g)["heldNow"] >= 45, "writes held")
            leave(h)
            wait_until(lambda: self.stream(g)["heldNow"] == 0, "what was held forgotten")
            # What was dispatched is still the target's to answer, on a connection that stays until it has.
            self.assertFalse(t.sessions[0].closed)
            done = t.requests[:]
            self.assertIn(len(done), range(1, 6))
            for r in done:
                r.answer()
            t.wait_closed()
            self.wait_idle(g)
            self.assertEqual(len(t.requests), len(done))
            self.assert_nothing_in_flight(g)
            c = self.stream(g)["counters"]["write"]
            self.assertEqual((c["arrivals"], c["completions"]), (50, len(done)))

    def test_duplicate_cookies_are_each_answered_with_their_own_data(self):
        t = self.target(automatic=False)
        g = self.world.gateway(target=t.uri)
        h = self.host(g)
        for i in range(3):
            h.send(READ, 7, i * 512, 512)
        r = t.wait_requests(3)
        self.assertEqual(len({x.cookie for x in r}), 3)
        for x in (r[2], r[0], r[1]):
            x.answer(data=bytes([x.offset // 512]) * 512)
        self.assertEqual([h.reply(512) for _ in range(3)], [(7, 0, bytes([i]) * 512) for i in (2, 0, 1)])

    def test_offsets_lengths_flags_and_unknown_commands_pass_unchanged(self):
        t = self.target()
        g = self.world.gateway(target=t.uri)
        h = self.host(g)
        sent = [(READ, 0, 0, 0), (TRIM, 0xFFFFFFFFFFFFFFFF, 0xFFFFFFFF, 0x7), (77, 123456789, 4242, 0xABCD), (FLUSH, 0, 0, 0)]
        for i, (kind, offset, length, flags) in enumerate(sent):
            h.send(kind, i, offset, length, flags)
            self.assertEqual(h.reply()[:2], (i, 0))
        self.assertEqual([(x.kind, x.offset, x.length, x.flags) for x in t.wait_requests(4)], sent)
        self.assertEqual(self.stream(g)["counters"]["other"]["completions"], 1)

    def test_a_host_that_sends_one_byte_at_a_time_is_served(self):
        t = self.target()
        g = self.world.gateway(config=config(t.uri, "iops-write = 1000"))
        h = self.host(g)
        h.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        data = rawnbd.request(WRITE, 5, 512, 600, payload=bytes(range(200)) * 3) + rawnbd.request(READ, 6, 0, 512)
        for i in range(len(data)):
            h.sock.sendall(data[i:i + 1])
        self.assertEqual(h.reply()[0], 5)
        self.assertEqual(h.reply(512)[0], 6)
        self.assertEqual(t.wait_requests(2)[0].payload, bytes(range(200)) * 3)

    def test_a_target_that_answers_one_byte_at_a_time_is_understood(self):
        t = self.target(automatic=False)
        g = self.world.gateway(target=t.uri)
        h = self.host(g)
        h.send(READ, 0x1122334455667788, 0, 300)
        r = t.wait_requests(1)[0]
        answer = struct.pack(">IIQ", rawnbd.SIMPLE_MAGIC, 0, r.cookie) + bytes(range(100)) * 3
        for i in range(len(answer)):
            r.session.send(answer[i:i + 1])
        self.assertEqual(h.reply(300), (0x1122334455667788, 0, bytes(range(100)) * 3))

    def test_chunks_of_a_structured_reply_carry_the_hosts_cookie_each(self):
        t = self.target(automatic=False, structured=True)
        g = self.world.gateway(target=t.uri)
        h = self.host(g, structured=True)
        h.send(READ, 0xC0FFEE, 0, 1024)
        r = t.wait_requests(1)[0]
        chunks = [(0, 1, struct.pack(">Q", 0) + b"a" * 512), (1, 2, struct.pack(">QI", 512, 512))]
        for flags, kind, data in chunks:
            r.session.send(struct.pack(">IHHQI", rawnbd.CHUNK_MAGIC, flags, kind, r.cookie, len(data)) + data)
        for flags, kind, data in chunks:
            self.assertEqual(struct.unpack(">IHHQI", rawnbd.receive(h.sock, 20)),
                             (rawnbd.CHUNK_MAGIC, flags, kind, 0xC0FFEE, len(data)))
            self.assertEqual(rawnbd.receive(h.sock, len(data)), data)
        wait_until(lambda: self.stream(g)["counters"]["read"]["completions"] == 1, "one completion")

    def test_extended_headers_pass_with_their_payloads_and_64_bit_lengths(self):
        t = self.target(automatic=False, extended=True)
        g = self.world.gateway(config=config(t.uri, "iops-write = 2", gateway="max-hold = 600s"))
        h = self.host(g, extended=True)
        sent = [(WRITE, 0, 3, 4096, rawnbd.FLAG_PAYLOAD_LEN, b"w" * 4096), (WRITE, 1, 4099, 5, rawnbd.FLAG_PAYLOAD_LEN, b"12345"),
                (BLOCK_STATUS, 2, 7, 12, rawnbd.FLAG_PAYLOAD_LEN, b"\0" * 12), (TRIM, 3, 1 << 40, 1 << 35, 0, b""),
                (BLOCK_STATUS, 4, 0, 1 << 33, 0, b"")]
        for kind, cookie, offset, length, flags, payload in sent:
            h.sock.sendall(rawnbd.request_extended(kind, 0xABC0 + cookie, offset, length, flags, payload))
        got = t.wait_requests(5)
        for kind, cookie, offset, length, flags, payload in sent:
            r = next(x for x in got if (x.kind, x.offset) == (kind, offset))
            self.assertEqual((r.length, r.flags, r.payload), (length, flags, payload))
            r.session.send(struct.pack(">IHHQQQ", rawnbd.CHUNK_EXT_MAGIC, 0, 5, r.cookie, offset, 12) + b"s" * 12 +
                           struct.pack(">IHHQQQ", rawnbd.CHUNK_EXT_MAGIC, 1, 0, r.cookie, offset, 0))
            self.assertEqual(struct.unpack(">IHHQQQ", rawnbd.receive(h.sock, 32)),
                             (rawnbd.CHUNK_EXT_MAGIC, 0, 5, 0xABC0 + cookie, offset, 12))
            self.assertEqual(rawnbd.receive(h.sock, 12), b"s" * 12)
            self.assertEqual(struct.unpack(">IHHQQQ", rawnbd.receive(h.sock, 32)),
                             (rawnbd.CHUNK_EXT_MAGIC, 1, 0, 0xABC0 + cookie, offset, 0))
        h.sock.sendall(rawnbd.request_extended(DISC, 99))
        self.assertEqual(t.wait_requests(6)[5].kind, DISC)
        self.assertEqual(h.closed(), b"")
        self.wait_idle(g)
        self.assert_nothing_in_flight(g)

    def test_a_held_read_that_carries_a_payload_takes_no_bytes_of_a_held_write(self):
        t = self.target(automatic=False, extended=True)
        g = self.world.gateway(config=config(t.uri, "iops-write = 1", "iops-read = 5", gateway="max-hold = 600s"))
        h = self.host(g, extended=True)
        first = [rawnbd.request_extended(READ, 1, 0, 512), rawnbd.request_extended(WRITE, 2, 0, 4, rawnbd.FLAG_PAYLOAD_LEN, b"free")]
        held = [rawnbd.request_extended(WRITE, 3, 4096, 4096, rawnbd.FLAG_PAYLOAD_LEN, b"w" * 4096),
                rawnbd.request_extended(READ, 4, 8192, 4096, rawnbd.FLAG_PAYLOAD_LEN, b"r" * 4096),
                rawnbd.request_extended(WRITE, 5, 12288, 4096, rawnbd.FLAG_PAYLOAD_LEN, b"x" * 4096)]
        h.sock.sendall(b"".join(first + held))
        got = {(r.kind, r.offset): r.payload for r in t.wait_requests(5)}
        self.assertEqual(got[WRITE, 4096], b"w" * 4096)
        self.assertEqual(got[READ, 8192], b"r" * 4096)
        self.assertEqual(got[WRITE, 12288], b"x" * 4096)

    def test_errors_of_the_target_reach_the_host_and_are_counted(self):
        t = self.target(automatic=False)
        g = self.world.gateway(target=t.uri)
        h = self.host(g)
        h.send(READ, 1, 0, 512)
        t.wait_requests(1)[0].answer(error=5)
        self.assertEqual(h.reply(512), (1, 5, b""))
        wait_until(lambda: self.stream(g)["counters"]["read"]["errors"] == 1, "an error counted")

    def test_max_hold_lets_every_io_go_in_the_end_and_counts_it(self):
        t = self.target()
        g = self.world.gateway(config=config(t.uri, "iops = 1", gateway="max-hold = 300ms"))
        h = self.host(g)
        for i in range(40):
            h.send(*((READ, i, 0, 512) if i % 2 else (WRITE, i, 0, 512)), payload=b"" if i % 2 else bytes(512))
        t.wait_requests(40)
        self.assertGreater(self.stream(g)["maxHoldHits"], 20)


class Bounds(RelayCase):
    def test_held_payload_beyond_the_bound_stops_the_host_and_all_arrives_in_the_end(self):
        t = self.target()
        g = self.world.gateway(config=config(t.uri, "iops-write = 1", gateway="max-hold = 2s\nhold-memory = 1MiB"))
        h = self.host(g)
        before, size, count = g.rss_kib(), 5 * MIB, 6  # more than both sockets' buffers take
        pieces = [random.randbytes(size) for _ in range(count)]
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            def send():
                for i, piece in enumerate(pieces):
                    h.send(WRITE, i, i * size, size, payload=piece)
            sending = pool.submit(send)
            wait_until(lambda: self.stream(g)["heldNow"] >= 1, "a write held")
            self.assertFalse(sending.done())
            self.assertLess(g.rss_kib() - before, 8 * 1024)  # of 30 MiB; a sanitizer has its own needs
            self.assertEqual(sorted(h.reply()[0] for _ in range(count)), list(range(count)))
            sending.result()
        self.assertEqual([x.payload for x in t.requests], pieces)
        self.assertLess(g.rss_kib() - before, 4 * 1024)
        self.assertGreater(self.status(g)["holdMemoryFull"], 0)

    def test_max_hold_counts_for_a_deep_queue_of_large_writes_as_a_whole(self):
        t = self.target()
        hold = round(weirtest.PATIENCE / 6)  # time to send it all before the first are let go
        g = self.world.gateway(config=config(t.uri, "bandwidth-write = 1KiB/s", gateway=f"max-hold = {hold}s"))
        h, count, size = self.host(g), 40, MIB + 4711
        before, pieces = g.rss_kib(), [random.randbytes(size) for _ in range(count)]
        begin = time.monotonic()
        for i, piece in enumerate(pieces):
            h.send(WRITE, i, i * size, size, payload=piece)
        wait_until(lambda: self.stream(g)["heldNow"] >= count // 2, "most writes read and held")
        self.assertGreater(self.status(g)["holdMemoryBytes"], 19 * MIB)
        h.send(READ, 99, 0, 512)
        self.assertEqual([h.reply(0)[0], h.reply(512)[0]], [0, 99])  # a read passes those that are held
        self.assertEqual([h.reply()[0] for _ in range(1, count)], list(range(1, count)))
        # One after the other they would take 40 times max-hold.
        self.assertLess(time.monotonic() - begin, 20 * hold)
        self.assertEqual([x.payload for x in t.requests if x.kind == WRITE], pieces)
        wait_until(lambda: self.status(g)["holdMemoryBytes"] == 0, "the memory given back")
        self.assertEqual(self.status(g)["holdMemoryFull"], 0)
        if not sanitized(g):
            self.assertLess(g.rss_kib() - before, 4 * 1024)

    def test_what_holds_payload_is_bounded_over_all_connections_and_freed_when_they_vanish(self):
        t = self.target()
        g = self.world.gateway(config=config(t.uri, "iops-write = 1", gateway="max-hold = 600s\nhold-memory = 8MiB"))
        hosts = [self.host(g) for _ in range(8)]
        for i, h in enumerate(hosts):
            h.sock.settimeout(0.2)
            try:
                for k in range(6):
                    h.send(WRITE, k, 0, MIB, payload=bytes([i]) * MIB)
            except TimeoutError:
                pass
        wait_until(lambda: self.status(g)["holdMemoryFull"] >= 4, "hosts left unread")
        self.assertIn(self.status(g)["holdMemoryBytes"], range(MIB, 8 * MIB + 1))
        for h in hosts:
            h.reset()
        self.wait_idle(g)
        self.assertEqual(self.status(g)["holdMemoryBytes"], 0)
        self.assert_nothing_in_flight(g)

    def test_a_write_larger_than_every_buffer_streams_through_when_nothing_holds_it(self):
        t = self.target()
        g = self.world.gateway(target=t.uri)
        h = self.host(g)
        before, payload = g.rss_kib(), random.randbytes(40 * MIB)
        h.send(WRITE, 1, 0, len(payload), payload=payload)
        self.assertEqual(h.reply()[:2], (1, 0))
        self.assertEqual(t.requests[0].payload, payload)
        self.assertLess(g.rss_kib() - before, 4 * 1024)

    def test_a_host_that_does_not_read_its_replies_stops_its_own_target_connection_only(self):
        t = self.target()
        g = self.world.gateway(target=t.uri)
        slow, other = self.host(g, receive_buffer=65536), self.host(g)
        before = g.rss_kib()
        for i in range(256):
            slow.send(READ, i, 0, 256 * 1024)
        for i in range(50):
            other.send(READ, i, 0, 4096)
            self.assertEqual(other.reply(4096)[0], i)
        self.assertLess(g.rss_kib() - before, 4 * 1024)
        self.assertLess(self.stream(g)["counters"]["read"]["completions"], 256 + 50)
        for i in range(256):
            self.assertEqual(slow.reply(256 * 1024)[0], i)

    def test_a_target_that_does_not_read_stops_the_host_and_goes_on_when_it_reads(self):
        t = self.target()
        g = self.world.gateway(target=t.uri)
        h = self.host(g)
        t.sessions[0].paused.clear()
        before, count = g.rss_kib(), 96
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            sending = pool.submit(lambda: [h.send(WRITE, i, 0, MIB, payload=bytes([i]) * MIB) for i in range(count)])
            wait_until(lambda: self.stream(g)["counters"]["write"]["arrivals"] >= 1, "a write")
            time.sleep(0.5)
            self.assertFalse(sending.done())
            self.assertLess(g.rss_kib() - before, 4 * 1024)
            t.sessions[0].paused.set()
            self.assertEqual([h.reply()[0] for _ in range(count)], list(range(count)))
            sending.result()
        self.assertEqual([x.payload[0] for x in t.requests], list(range(count)))

    def test_more_requests_than_slots_wait_and_are_all_answered_once(self):
        t = self.target(automatic=False)
        g = self.world.gateway(target=t.uri)
        h = self.host(g)
        count = 5000
        for i in range(count):
            h.send(READ, i, i * 512, 512)
        first = t.wait_requests(1024)
        time.sleep(0.3)
        self.assertEqual(len(t.requests), 1024)
        self.assertEqual(len({x.cookie for x in first}), 1024)
        t.automatic = True
        seen = set()
        for x in first:
            x.answer()
        for _ in range(count):
            seen.add(h.reply(512)[0])
        self.assertEqual(seen, set(range(count)))

    def test_a_host_that_stalls_inside_a_write_holds_up_nobody_else_under_the_same_limit(self):
        t = self.target()
        g = self.world.gateway(config=config(t.uri, "iops = 200", gateway="max-hold = 600s"))
        stalled, other = self.host(g), self.host(g)
        for size in (4096, 400000):
            stalled.sock.sendall(rawnbd.request(WRITE, 1, 0, size, payload=b"x" * 100))
            for i in range(20):
                other.send(WRITE, i, 0, 512, payload=bytes(512))
                self.assertEqual(other.reply()[0], i)
            stalled.sock.sendall(b"x" * (size - 100))
            self.assertEqual(stalled.reply()[0], 1)

    def test_a_flush_behind_the_held_write_of_a_lost_connection_goes_at_once(self):
        t = self.target(automatic=False)
        path = self.world.path("listener.sock")
        g = self.world.gateway(config=config(t.uri, "bandwidth-write = 1KiB/s", gateway="max-hold = 600s",
                                             listener=f"address = unix:{path}"))
        lost, other = Host(f"unix:{path}"), Host(f"unix:{path}")
        self.addCleanup(lost.sock.close)
        self.addCleanup(other.sock.close)
        lost.send(WRITE, 1, 0, 65536, payload=bytes(65536))
        for i in range(2):
            lost.send(READ, 2 + i, 0, 200 * 1024)
        debt, *reads = t.wait_requests(3)
        lost.send(WRITE, 4, 0, 512, payload=bytes(512))
        wait_until(lambda: self.stream(g)["heldNow"] == 1, "the write held")
        other.send(FLUSH, 5)
        wait_until(lambda: self.stream(g)["heldNow"] == 2, "the flush held behind it")
        # The first answer fills the host's socket, the rest of the second waits in the gateway when the target ends.
        reads[0].answer()
        wait_until(lambda: waiting(lost.sock) >= 200 * 1024, "the first answer in the host's socket")
        reads[1].answer()
        debt.session.sock.shutdown(socket.SHUT_WR)
        self.assertEqual(t.wait_requests(4)[3].kind, FLUSH)

    def test_both_sides_are_probed_when_silent_so_that_a_peer_without_power_is_noticed(self):
        t = self.target()
        g = self.world.gateway(target=t.uri)
        h = self.host(g)
        h.send(READ, 1, 0, 512)
        h.reply(512)
        here = f"{h.sock.getsockname()[1]:04X}"

        def timers():
            """The kernel's running timer of each of the gateway's two sockets: 02 is the keep-alive."""
            with open("/proc/net/tcp") as f:
                rows = [line.split() for line in f.readlines()[1:]]
            return {("host" if r[2].endswith(here) else "target"): r[5][:2] for r in rows if r[3] == "01" and
                    (r[2].endswith(":" + here) or r[2].endswith(f":{t.port:04X}"))}
        wait_until(lambda: timers() == {"host": "02", "target": "02"}, f"keep-alive timers on both sides: {timers()}")

    def test_connections_beyond_the_caps_are_refused_by_name(self):
        t = self.target()
        g = self.world.gateway(config=config(t.uri, gateway="max-connections = 8\nmax-connections-per-host = 4"))
        hosts = [self.host(g) for _ in range(4)]
        self.assertEqual(self.host(g, handshake=False).closed(), b"")
        self.wait_reason(g, "host-connection-limit")
        hosts[0].sock.close()
        wait_until(lambda: self.status(g)["connections"]["active"] == 3, "one gone")
        self.host(g)
        g.stop()
        g = self.world.gateway(config=config(t.uri, gateway="max-connections = 2\nmax-connections-per-host = 4"))
        hosts = [self.host(g) for _ in range(2)]
        self.assertEqual(self.host(g, handshake=False).closed(), b"")
        self.wait_reason(g, "connection-limit")

    def test_a_host_that_never_negotiates_is_closed_when_its_time_is_over(self):
        t = self.target()
        g = self.world.gateway(config=config(t.uri, gateway="handshake-timeout = 300ms"))
        h = self.host(g, handshake=False)
        self.assertEqual(h.closed()[:16], rawnbd.NBDMAGIC + rawnbd.IHAVEOPT)
        self.wait_reason(g, "host-timeout")

    def test_2000_connections_leave_no_descriptor_and_no_memory_behind(self):
        storage = self.world.nbdkit("memory", "1M")
        g = self.world.gateway(target=storage.uri)

        def visit(i):
            h = Host(g.address)
            h.send(WRITE, i, 0, 4096, payload=bytes(4096))
            h.reply()
            if i % 3 == 0:
                h.send(DISC, 0)
                h.closed()
            elif i % 3 == 1:
                h.reset()
            h.sock.close()

        with concurrent.futures.ThreadPoolExecutor(20) as pool:
            list(pool.map(visit, range(200)))
            self.wait_idle(g)
            wait_until(lambda: g.descriptors() < 20, "few descriptors")
            descriptors, memory = g.descriptors(), g.rss_kib()
            list(pool.map(visit, range(2000)))
        self.wait_idle(g)
        # The gateway closes a connection to its local socket a moment after the test did.
        wait_until(lambda: g.descriptors() <= descriptors, "as few descriptors as before")
        if not sanitized(g):  # ASan keeps what was freed for a while, and looks for leaks by itself
            self.assertLess(g.rss_kib() - memory, 2048)
        self.assertEqual(self.status(g)["connections"]["accepted"], 2200)
        self.assert_nothing_in_flight(g)


class Malice(RelayCase):
    def bystander(self, gateway):
        """A connection that must go on whatever the others do; returns a check."""
        h = self.host(gateway)

        def check():
            h.send(READ, 4711, 0, 512)
            self.assertEqual(h.reply(512)[0], 4711)
        check()
        return check

    def test_a_bad_request_magic_closes_its_own_connection_only(self):
        t = self.target()
        g = self.world.gateway(target=t.uri)
        check, h = self.bystander(g), self.host(g)
        h.sock.sendall(b"\xde\xad\xbe\xef" * 7)
        self.assertEqual(h.closed(), b"")
        self.wait_reason(g, "host-protocol")
        check()

    def test_rubbish_instead_of_a_handshake_closes_its_own_connection_only(self):
        t = self.target()
        g = self.world.gateway(target=t.uri)
        check = self.bystander(g)
        for i in range(20):
            h = self.host(g, handshake=False)
            h.sock.sendall(random.randbytes(1000))
            h.closed()
        self.wait_idle_but(g, 1)
        check()

    def wait_idle_but(self, gateway, n):
        wait_until(lambda: self.status(gateway)["connections"]["active"] == n, f"{n} connections left")

    def test_what_a_target_invents_closes_its_own_connection_only(self):
        t = self.target(automatic=False)
        g = self.world.gateway(target=t.uri)
        other = self.host(g)

        def stale(r):
            r.answer()
            r.answer()

        inventions = [
            lambda r: r.answer(cookie=0xFFFFFFFFFFFFFFFF),
            lambda r: r.answer(cookie=r.cookie ^ 1),
            lambda r: r.answer(cookie=r.cookie + (1 << 32)),
            stale,
            lambda r: r.session.send(b"\0" * 64),
            lambda r: r.session.send(struct.pack(">IHHQI", rawnbd.CHUNK_MAGIC, 1, 0, r.cookie, 0)),
        ]
        for i, invent in enumerate(inventions):
            h = self.host(g)
            n = len(t.requests)
            h.send(READ, 1, 0, 16)
            invent(t.wait_requests(n + 1)[n])
            h.closed()
            self.wait_reason(g, "target-protocol", i + 1)
        n = len(t.requests)
        other.send(READ, 2, 0, 512)
        t.wait_requests(n + 1)[n].answer()
        self.assertEqual(other.reply(512)[0], 2)

    def test_an_answer_to_a_request_still_held_is_refused(self):
        t = self.target(automatic=False)
        g = self.world.gateway(config=config(t.uri, "iops-write = 1", gateway="max-hold = 600s"))
        h = self.host(g)
        for i in range(20):
            h.send(WRITE, i, 0, 512, payload=bytes(512))
        r = t.wait_requests(1)[0]
        wait_until(lambda: self.stream(g)["heldNow"] >= 15, "writes held")
        # The newest slot's cookie can be guessed from the first one's.
        r.answer(cookie=r.cookie + (19 << 32) + 19)
        h.closed()
        self.wait_reason(g, "target-protocol")
        self.wait_idle(g)
        self.assert_nothing_in_flight(g)

    def test_hosts_killed_in_the_middle_of_requests_leave_nothing_behind(self):
        storage = self.world.nbdkit("--filter=delay", "memory", "4M", "delay-write=50ms", "delay-read=50ms")
        g = self.world.gateway(config=config(storage.uri, "iops = 2000"))
        check = self.bystander(g)
        whole = b"".join(rawnbd.request(WRITE, i, 0, 8192, payload=bytes(8192)) + rawnbd.request(READ, i, 0, 65536)
                         for i in range(20))
        rng = random.Random(4)
        for i in range(60):
            h = Host(g.address)
            h.sock.sendall(whole[:rng.randrange(1, len(whole))])
            h.reset() if i % 2 else h.sock.close()
        self.wait_idle_but(g, 1)
        # nbdkit 1.32 aborts when a client vanishes while it answers; a gateway before it does not let that happen.
        self.assertTrue(storage.alive())
        check()
        descriptors = g.descriptors()
        self.assertLess(descriptors, 40)

    def test_a_target_killed_in_the_middle_takes_only_its_own_connections_along(self):
        dying = self.world.nbdkit("--filter=delay", "memory", "4M", "rdelay=300")
        living = self.world.nbdkit("memory", "4M")
        g = self.world.gateway(config=(
            f"[listener a]\naddress = 127.0.0.1:0\ntarget = dying\n[target dying]\nuri = {dying.uri}\n"
            f"[listener b]\naddress = 127.0.0.1:0\ntarget = living\n[target living]\nuri = {living.uri}\n"))
        addresses = {line.split()[-1]: line.split()[3] for line in g.output().splitlines() if "listening on" in line}
        a, b = Host(addresses["dying"]), self.client("nbd://" + addresses["living"])
        for i in range(100):
            a.send(READ, i, 0, 4096)
        wait_until(lambda: any(x["inflight"] == 100 for x in g.local(get="targets")["targets"]), "100 in flight")
        dying.kill()
        a.closed()
        wait_until(lambda: self.closed(g, "target-closed") + self.closed(g, "target-reset") == 1, "a named close")
        for i in range(20):
            b.pwrite(bytes([i]) * 4096, 0)
            self.assertEqual(b.pread(4096, 0), bytes([i]) * 4096)
        with self.assertRaises((EOFError, ConnectionError)):
            Host(addresses["dying"])
        self.wait_reason(g, "target-unreachable")
        self.world.nbdkit("memory", "4M", port=dying.port)
        c = Host(addresses["dying"])
        c.send(READ, 1, 0, 512)
        self.assertEqual(c.reply(512)[0], 1)
        b.shutdown()

    def test_replies_that_came_before_the_target_closed_reach_the_host(self):
        t = self.target(automatic=False)
        g = self.world.gateway(target=t.uri)
        h = self.host(g, receive_buffer=65536)
        for i in range(8):
            h.send(READ, i, 0, MIB)
        r = t.wait_requests(8)
        for x in r:
            x.answer(data=bytes([x.cookie & 0xFF]) * MIB)
        t.sessions[0].sock.shutdown(socket.SHUT_WR)
        for i in range(8):
            self.assertEqual(h.reply(MIB)[0], i)
        self.assertEqual(h.closed(), b"")
        self.wait_reason(g, "target-closed")


class Program(RelayCase):
    def run_gateway(self, *args):
        return subprocess.run([weirtest.GATEWAY, *args], capture_output=True, text=True, timeout=20,
                              env={**os.environ, "HOME": self.world.dir})

    def test_without_listener_and_target_it_says_what_to_do(self):
        for args in ((), ("--listen", "127.0.0.1:0"), ("--target", "nbd://127.0.0.1")):
            r = self.run_gateway(*args)
            self.assertEqual(r.returncode, 2)
            self.assertIn("--listen 127.0.0.1:10810 --target nbd://127.0.0.1:10809", r.stderr)

    def test_wrong_values_are_refused_with_what_was_expected(self):
        good = ("--listen", "127.0.0.1:0", "--target", "nbd://127.0.0.1:1", "--state-dir", self.world.dir, "--check-config")
        self.assertEqual(self.run_gateway(*good).returncode, 0)
        for bad in (("--target", "http://x"), ("--listen", "127.0.0.1:99999"), ("--max-hold", "5"), ("--log-level", "loud"),
                    ("--server", "192.0.2.1:99999"), ("--name", "a b"), ("--nonsense",), ("extra",)):
            r = self.run_gateway(*good, *bad)
            self.assertEqual(r.returncode, 2, bad)
            self.assertTrue(r.stderr.startswith("weir-gateway: ") or "--nonsense" in r.stderr, r.stderr)

    def test_a_port_in_use_is_named(self):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            s.listen()
            r = self.run_gateway("--listen", "127.0.0.1:%d" % s.getsockname()[1], "--target", "nbd://127.0.0.1:1",
                                 "--state-dir", self.world.dir)
        self.assertEqual(r.returncode, 1)
        self.assertIn("in use", r.stderr)

    def test_terminated_with_hosts_connected_it_ends_in_order(self):
        t = self.target(automatic=False)
        g = self.world.gateway(target=t.uri)
        h = self.host(g)
        h.send(READ, 1, 0, 512)
        t.wait_requests(1)
        self.assertEqual(g.stop(), 0)
        self.assertEqual(h.closed(), b"")

    def test_terminated_it_still_passes_on_what_the_target_has_yet_to_answer(self):
        t = self.target(automatic=False)
        g = self.world.gateway(config=config(t.uri, "bandwidth-write = 1KiB/s", gateway="max-hold = 600s"))
        h = self.host(g)
        size = 256 * 1024  # the first goes at once, the second minutes later
        h.send(READ, 1, 0, 4096)
        h.send(WRITE, 2, 0, size, payload=b"a" * size)
        h.send(WRITE, 3, 0, 512, payload=b"b" * 512)
        read, write = t.wait_requests(2)
        g.tell(signal.SIGTERM)
        wait_until(lambda: not weirtest.can_connect(g.port), "a gateway that takes no more hosts")
        h.send(READ, 4, 0, 512)
        read.answer(data=b"r" * 4096)
        self.assertEqual(h.reply(4096), (1, 0, b"r" * 4096))
        write.answer()
        self.assertEqual(h.reply()[0], 2)
        self.assertEqual(h.closed(), b"")
        t.wait_closed()
        self.assertEqual(g.popen.wait(rawnbd.PATIENCE), 0)
        self.assertEqual(len(t.requests), 2)

    def test_terminated_it_ends_although_a_target_never_answers(self):
        t = self.target(automatic=False)
        for signals in (1, 2):
            g = self.world.gateway(target=t.uri)
            h = self.host(g)
            h.send(READ, 1, 0, 4096)
            t.wait_requests(signals)
            for _ in range(signals):
                g.tell(signal.SIGTERM)
                wait_until(lambda: not weirtest.can_connect(g.port), "a gateway that takes no more hosts")
            self.assertEqual(g.popen.wait(rawnbd.PATIENCE), 0)

    def test_hangup_applies_changed_limits_and_keeps_everything_when_the_file_is_wrong(self):
        t = self.target()
        g = self.world.gateway(config=config(t.uri, "iops = 1", gateway="max-hold = 600s"))
        path = next(a for a in g.argv if a.endswith(".conf"))
        h = self.host(g)
        for i in range(50):
            h.send(READ, i, 0, 512)
        wait_until(lambda: self.stream(g)["heldNow"] > 40, "reads held")

        def rewrite(text):
            with open(path, "w") as f:
                f.write(text)
            g.popen.send_signal(signal.SIGHUP)
        rewrite("[limit l0]\niops = 0\n")
        g.wait_line("everything stays as it was")
        self.assertGreater(self.stream(g)["heldNow"], 30)
        rewrite(config(t.uri, "iops = 100000", gateway="max-hold = 600s"))
        self.assertEqual(sorted(h.reply(512)[0] for _ in range(50)), list(range(50)))
        g.wait_line("1 limits, max-hold, log-level")


if __name__ == "__main__":
    weirtest.main()
