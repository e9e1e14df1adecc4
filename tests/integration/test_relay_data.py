# SPDX-License-Identifier: Apache-2.0
"""Goal: the relay changes no byte, whatever the sizes, the sockets and the number of connections, held or not.
Method: real storage, read back through the gateway and beside it. Random data comes from a printed seed."""
import concurrent.futures
import hashlib
import os
import random
import subprocess

import nbd
import weirtest
from relaycase import MIB, RelayCase, config


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


if __name__ == "__main__":
    weirtest.main()
