# SPDX-License-Identifier: Apache-2.0
"""Goal: whatever hosts and targets do or leave undone, what the relay keeps for them stays within its bounds and is free again.
Method: hosts and a recording target by hand (rawnbd). Limits that hold are so low that nothing could slip through in a test's
time; nothing asserts a speed."""
import concurrent.futures
import contextlib
import random
import socket
import time

import rawnbd
import weirtest
from rawnbd import DISC, FLUSH, READ, WRITE, Host
from relaycase import MIB, RelayCase, config, sanitized, waiting
from weirtest import wait_until


class Bounds(RelayCase):
    def test_held_payload_beyond_the_bound_stops_the_host_and_all_arrives_in_the_end(self):
        t = self.target()
        g = self.world.gateway(config=config(t.uri, "bandwidth-write = 1KiB/s", gateway="max-hold = 1s\nhold-memory = 1MiB"))
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
        hold = round(weirtest.PATIENCE / 3)  # time to send it all before the first are let go, on a busy machine too
        g = self.world.gateway(config=config(t.uri, "bandwidth-write = 1KiB/s", gateway=f"max-hold = {hold}s"))
        h, count, size = self.host(g), 24, MIB + 4711
        before, pieces = g.rss_kib(), [random.randbytes(size) for _ in range(count)]
        begin = time.monotonic()
        for i, piece in enumerate(pieces):
            h.send(WRITE, i, i * size, size, payload=piece)
        wait_until(lambda: self.stream(g)["heldNow"] >= count // 2, "most writes read and held")
        self.assertGreater(self.status(g)["holdMemoryBytes"], (count // 2 - 1) * MIB)
        h.send(READ, 99, 0, 512)
        self.assertEqual([h.reply(0)[0], h.reply(512)[0]], [0, 99])  # a read passes those that are held
        self.assertEqual([h.reply()[0] for _ in range(1, count)], list(range(1, count)))
        # One after the other they would take 24 times max-hold.
        self.assertLess(time.monotonic() - begin, 12 * hold)
        self.assertEqual([x.payload for x in t.requests if x.kind == WRITE], pieces)
        wait_until(lambda: self.status(g)["holdMemoryBytes"] == 0, "the memory given back")
        self.assertEqual(self.status(g)["holdMemoryFull"], 0)
        if not sanitized(g):
            self.assertLess(g.rss_kib() - before, 4 * 1024)

    def test_what_holds_payload_is_bounded_over_all_connections_and_freed_when_they_vanish(self):
        t = self.target()
        g = self.world.gateway(config=config(t.uri, "iops-write = 1", gateway="max-hold = 600s\nhold-memory = 8MiB"))
        hosts = [self.host(g) for _ in range(8)]
        unsent = [memoryview(b"".join(rawnbd.request(WRITE, k, 0, MIB, payload=bytes([i]) * MIB) for k in range(6))) for i in range(8)]

        def left_unread():
            for i, h in enumerate(hosts):
                h.sock.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    unsent[i] = unsent[i][h.sock.send(unsent[i]):]
            return self.status(g)["holdMemoryFull"] >= 4
        wait_until(left_unread, "hosts left unread")
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
        g = self.world.gateway(config=config(t.uri, gateway="handshake-timeout = 2s"))
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


if __name__ == "__main__":
    weirtest.main()
