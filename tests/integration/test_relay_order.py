# SPDX-License-Identifier: Apache-2.0
"""Goal: the relay holds what a limit says and nothing else, and keeps its rules of order.
Method: hosts and a recording target by hand (rawnbd). Limits that hold are so low that nothing could slip through in a test's
time; nothing asserts a speed."""
import random
import socket
import struct

import rawnbd
import weirtest
from rawnbd import BLOCK_STATUS, DISC, FLUSH, READ, TRIM, WRITE
from relaycase import RelayCase, config
from weirtest import wait_until


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
        asked = [rawnbd.request(WRITE, i, i * 512, 512, payload=bytes([i]) * 512) for i in range(4)]
        h.sock.sendall(b"".join(asked + [rawnbd.request(FLUSH, 10), rawnbd.request(READ, 11, 0, 512)]))
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


if __name__ == "__main__":
    weirtest.main()
