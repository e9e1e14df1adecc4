# SPDX-License-Identifier: Apache-2.0
"""Goal: no host and no target hurts anybody but its own connection.
Method: hosts and targets by hand (rawnbd) that break the protocol or vanish, beside a bystander who must not notice."""
import random
import socket
import struct
import threading
import time

import rawnbd
import weirtest
from rawnbd import READ, WRITE, Host
from relaycase import MIB, RelayCase, config
from weirtest import wait_until


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

        def answer_all():
            for x in r:
                x.answer(data=bytes([x.cookie & 0xFF]) * MIB)
            t.sessions[0].sock.shutdown(socket.SHUT_WR)
        # Aside: how much of it all sockets on the way take while the host reads nothing is the kernel's to say.
        target = threading.Thread(target=answer_all)
        target.start()
        time.sleep(0.2)  # so that most of it has come, not because anything must have
        for i in range(8):
            self.assertEqual(h.reply(MIB)[0], i)
        target.join()
        self.assertEqual(h.closed(), b"")
        self.wait_reason(g, "target-closed")


if __name__ == "__main__":
    weirtest.main()
