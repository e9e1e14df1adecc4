#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Goal: the programs that others test storage with find nothing wrong with a gateway in between, however the storage behaves.
Method: random scripts for qemu-io (write, zero, discard, flush, edges off every boundary) whose end is known byte by byte from a
model; qemu-img's convert, compare and bench; libnbd with many connections, 64 requests in flight on each and random sizes,
every byte checked; nbdkit's filters that fail, delay and pause; and a database on a journalling file system on a block device
that is the gateway, stopped without warning and checked by its own tools. Seeds are printed."""
import contextlib
import os
import random
import shutil
import socket
import subprocess
import sys
import threading
import time
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import nbd  # noqa: E402
import weirtest  # noqa: E402
from weirtest import wait_until  # noqa: E402

MIB = 1 << 20
LIMITS = "[limit all]\niops = 3000\nbandwidth = 200MiB/s\n"


def config(uri, limits=LIMITS):
    return f"[listener l]\naddress = 127.0.0.1:0\ntarget = t\n[target t]\nuri = {uri}\n{limits}"


def run(*argv, **kw):
    r = subprocess.run(argv, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL, **kw)
    if r.returncode:
        raise AssertionError(f"{' '.join(argv)[:400]}: {r.returncode}\n{r.stdout[-2000:]}\n{r.stderr[-2000:]}")
    return r.stdout


class Workload(unittest.TestCase):
    def setUp(self):
        self.world = weirtest.World()
        self.world.__enter__()
        self.addCleanup(lambda: self.world.__exit__(None, None, None))
        self.seed = random.randrange(1 << 32)
        print(f"seed {self.seed}")
        self.random = random.Random(self.seed)

    def gateway(self, storage, limits=LIMITS):
        return self.world.gateway(config=config(storage.uri, limits))

    def image(self, size, name="image"):
        path = self.world.path(name)
        with open(path, "wb") as f:
            f.truncate(size)
        return path

    def settled(self, gateway):
        """No connection left, and every request accounted for. Returns the counters of all streams by operation."""
        wait_until(lambda: gateway.local(get="status")["status"]["connections"]["active"] == 0, "no connection left")
        total = {}
        for s in gateway.local(get="streams")["streams"]:
            self.assertEqual(s["heldNow"], 0)
            for op, c in s["counters"].items():
                self.assertEqual(c["arrivals"], c["completions"] + c["dropped"], op)
                for k, v in c.items():
                    total.setdefault(op, {}).setdefault(k, 0)
                    total[op][k] += v
        return total


class QemuIo(Workload):
    SIZE = 8 * MIB

    def script(self, steps):
        """Commands of qemu-io and what is on the device after them."""
        model, commands = bytearray(self.SIZE), []
        edges = [0, 1, 511, 512, 513, 4095, 4096, 4097, 65535, 65536, 262143, 262144, 262145]
        for _ in range(steps):
            offset = self.random.choice([self.random.randrange(self.SIZE), self.random.choice(edges),
                                         self.SIZE - 1 - self.random.choice(edges)])
            length = min(1 + self.random.choice(edges + [self.random.randrange(MIB)]), self.SIZE - offset)
            kind = self.random.randrange(7)
            if kind <= 2:
                byte = self.random.randrange(1, 256)
                commands.append(f"{'write' if kind else 'write -f'} -P {byte} {offset} {length}")
                model[offset:offset + length] = bytes([byte]) * length
            elif kind == 3:
                commands.append(f"write -z {'-u ' if self.random.random() < 0.5 else ''}{offset} {length}")
                model[offset:offset + length] = bytes(length)
            elif kind == 4:  # what a discard leaves is not said: zeroes are written over it
                commands += [f"discard {offset} {length}", f"write -z {offset} {length}"]
                model[offset:offset + length] = bytes(length)
            elif kind == 5:
                commands.append("flush")
            else:
                end = next((i for i in range(offset, offset + length) if model[i] != model[offset]), offset + length)
                commands.append(f"read -P {model[offset]} {offset} {end - offset}")
        return commands, model

    def play(self, storage, limits):
        g = self.gateway(storage, limits)
        commands, model = self.script(300)
        argv = [w for c in commands for w in ("-c", c)]
        out = run("qemu-io", "-f", "raw", *argv, g.uri())
        self.assertNotIn("Pattern verification failed", out)
        expected, back = self.world.path("expected"), self.world.path("back")
        with open(expected, "wb") as f:
            f.write(model)
        self.assertIn("identical", run("qemu-img", "compare", "-f", "raw", "-F", "raw", expected, g.uri()))
        run("qemu-img", "convert", "-f", "raw", "-O", "raw", g.uri(), back)
        with open(back, "rb") as f:
            self.assertEqual(f.read(), model)
        # The other way, over what is there, sparse parts and all; and seen from the storage itself.
        run("qemu-img", "convert", "-n", "-W", "-m", "16", "-f", "raw", "-O", "raw", expected, g.uri())
        self.assertIn("identical", run("qemu-img", "compare", "-f", "raw", "-F", "raw", expected, storage.uri))
        self.assertEqual(run("qemu-img", "map", "-f", "raw", "--output=json", g.uri()),
                         run("qemu-img", "map", "-f", "raw", "--output=json", storage.uri))
        for write in ([], ["-w", "--flush-interval=64"]):
            run("qemu-img", "bench", "-f", "raw", "-c", "1500", "-d", "64", "-s", "4096", "-S", "8192", "-t", "none", *write,
                g.uri())
        c = self.settled(g)
        self.assertGreaterEqual(c["write"]["completions"], 1500)
        self.assertGreaterEqual(c["flush"]["completions"], 1500 // 64 - 1)
        self.assertEqual(sum(x["errors"] for x in c.values()), 0)

    def test_random_scripts_on_qemu_nbd(self):
        weirtest.need("qemu-io", "qemu-img", "qemu-nbd")
        self.play(self.world.qemu_nbd(self.image(self.SIZE), "--discard=unmap", "--detect-zeroes=unmap"), LIMITS)

    def test_random_scripts_on_nbdkit(self):
        weirtest.need("qemu-io", "qemu-img")
        self.play(self.world.nbdkit("file", self.image(self.SIZE)), "")


class Stress(Workload):
    """libnbd: many connections, 64 requests in flight on each."""
    REGION = 2 * MIB

    def worker(self, uri, index, requests, failed, may_fail):
        rng, h = random.Random(self.seed + index), nbd.NBD()
        h.connect_uri(uri)
        model, base = bytearray(self.REGION), index * self.REGION
        flying = []  # (cookie, what it is, buffer, offset, size)
        busy = bytearray(self.REGION // 512)

        def done(cookie):
            try:
                return h.aio_command_completed(cookie)
            except nbd.Error as e:
                if not may_fail or e.errno != "EIO":
                    raise
                failed.append(index)
                return None  # it failed as it may

        def reap(wanted):
            while len(flying) > wanted:
                h.poll(-1)
                for x in flying[:]:
                    cookie, write, buffer, at, size = x
                    result = done(cookie)
                    if result is False:
                        continue
                    flying.remove(x)
                    for i in range(at // 512, (at + size + 511) // 512):
                        busy[i] = 0
                    if result and write:
                        model[at:at + size] = buffer.to_bytearray()
                    elif result and buffer.to_bytearray() != model[at:at + size]:
                        raise AssertionError(f"connection {index} read {at}+{size} wrongly")
        for _ in range(requests):
            size = rng.choice([512, 1, 4096, 513, 65536, rng.randrange(1, 200000)])
            at = rng.randrange(0, self.REGION - size)
            blocks = range(at // 512, (at + size + 511) // 512)
            if any(busy[i] for i in blocks):
                reap(max(0, len(flying) - 8))
                continue
            for i in blocks:
                busy[i] = 1
            if rng.random() < 0.5:
                buffer = nbd.Buffer.from_bytearray(bytearray(rng.randbytes(size)))
                flying.append((h.aio_pwrite(buffer, base + at), True, buffer, at, size))
            else:
                buffer = nbd.Buffer(size)
                flying.append((h.aio_pread(buffer, base + at), False, buffer, at, size))
            reap(63)
        reap(0)
        h.shutdown()

    def play(self, g, connections, requests, may_fail=False):
        errors, failed = [], []

        def work(i):
            try:
                self.worker(g.uri(), i, requests, failed, may_fail)
            except Exception as e:  # noqa: BLE001: told below, whatever it is
                errors.append(f"connection {i}: {e!r}")
        threads = [threading.Thread(target=work, args=(i,)) for i in range(connections)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        self.assertEqual(errors, [])
        return len(failed), self.settled(g)

    def test_24_connections_with_64_in_flight_each_read_what_they_wrote(self):
        g = self.gateway(self.world.nbdkit("-t", "16", "memory", "64M"), "")
        _, c = self.play(g, 24, 250)
        self.assertGreater(c["read"]["completions"] + c["write"]["completions"], 1000)

    def test_the_same_while_limits_hold_them_and_change(self):
        g = self.gateway(self.world.nbdkit("-t", "16", "memory", "64M"))
        path = next(a for a in g.argv if a.endswith(".conf"))
        with open(path) as f:
            text = f.read()
        stop = threading.Event()

        def change():
            n = 0
            while not stop.wait(0.1):
                n += 1
                with open(path, "w") as f:
                    f.write(text.replace("iops = 3000", f"iops = {(500, 3000, 20000)[n % 3]}\niops-write = 2000"))
                g.popen.send_signal(1)
        changer = threading.Thread(target=change)
        changer.start()
        try:
            _, c = self.play(g, 12, 200)
        finally:
            stop.set()
            changer.join()
        self.assertGreater(c["read"]["held"] + c["write"]["held"], 100)

    def test_a_target_that_fails_one_in_twenty_fails_no_other_request(self):
        g = self.gateway(self.world.nbdkit("-t", "16", "--filter=error", "memory", "64M", "error=EIO", "error-rate=5%",
                                           "error-extents-rate=0%"), "")
        failed, c = self.play(g, 8, 250, may_fail=True)
        self.assertGreater(failed, 5)
        self.assertEqual(sum(x["errors"] for x in c.values()), failed)

    def test_a_target_that_delays_at_random_loses_nothing(self):
        g = self.gateway(self.world.nbdkit("-t", "64", "--filter=delay", "memory", "64M", "delay-read=7ms", "delay-write=3ms"), "")
        self.play(g, 8, 150)


class Paused(Workload):
    def control(self, path, command):
        with contextlib.closing(socket.socket(socket.AF_UNIX)) as s:
            s.settimeout(weirtest.PATIENCE)
            s.connect(path)
            s.sendall(command)
            return s.recv(1)

    def test_while_a_target_is_paused_nothing_is_answered_and_afterwards_everything_is(self):
        path = self.world.path("pause.sock")
        g = self.gateway(self.world.nbdkit("-t", "64", "--filter=pause", "memory", "8M", f"pause-control={path}"), "")
        handles = [nbd.NBD() for _ in range(4)]
        for h in handles:
            h.connect_uri(g.uri())
        self.assertEqual(self.control(path, b"p"), b"P")
        data, flying = self.random.randbytes(65536), []
        for i, h in enumerate(handles):
            for k in range(16):
                buffer = nbd.Buffer.from_bytearray(bytearray(data))
                flying.append((h, h.aio_pwrite(buffer, (16 * i + k) * 65536), buffer))
        target = lambda: g.local(get="targets")["targets"][0]  # noqa: E731
        end = time.monotonic() + 1.5
        while time.monotonic() < end or target()["inflight"] < 60:
            for h in handles:
                h.poll(10)
        self.assertFalse(any(h.aio_command_completed(c) for h, c, _ in flying))
        self.assertEqual(self.control(path, b"r"), b"R")
        for h, cookie, _ in flying:
            while not h.aio_command_completed(cookie):
                h.poll(-1)
        for n in range(64):
            self.assertEqual(handles[n % 4].pread(65536, n * 65536), data)
        for h in handles:
            h.shutdown()
        c = self.settled(g)
        self.assertEqual(c["write"]["completions"], 64)
        self.assertEqual(target()["disconnects"], 4)


class Database(Workload):
    """PostgreSQL on ext4 on a loop device on nbdfuse on the gateway."""
    SIZE = 512 * MIB

    def setUp(self):
        super().setUp()
        self.pg = next((f"/usr/lib/postgresql/{v}/bin" for v in ("17", "16", "15")
                        if os.path.exists(f"/usr/lib/postgresql/{v}/bin/initdb")), None)
        weirtest.need("nbdfuse", "losetup", "mkfs.ext4", "e2fsck")
        if self.pg is None:
            self.skipTest("not installed: postgresql")
        if os.geteuid() != 0:
            self.skipTest("mounting needs root")
        if not os.path.exists("/dev/fuse") or not os.path.exists("/dev/loop-control"):
            self.skipTest("no FUSE or no loop devices here")
        os.chmod(self.world.dir, 0o711)

    def attach(self, uri):
        """The gateway's volume as a block device."""
        folder = self.world.path("fuse")
        os.makedirs(folder, exist_ok=True)
        file = os.path.join(folder, "disk")
        fuse = weirtest.Process(self.world, "nbdfuse", ["nbdfuse", "-C", "1", file, uri])
        try:
            wait_until(lambda: os.path.exists(file) or not fuse.alive(), "the FUSE file")
            if not fuse.alive():
                self.skipTest(f"FUSE is forbidden here: {fuse.output().strip()[-200:]}")
            self.addCleanup(lambda: subprocess.run(["fusermount3", "-u", "-z", folder], capture_output=True))
            r = subprocess.run(["losetup", "--show", "-f", file], capture_output=True, text=True)
            if r.returncode:
                self.skipTest(f"loop devices are forbidden here: {r.stderr.strip()}")
        except BaseException:
            fuse.stop()
            raise
        device = r.stdout.strip()
        self.addCleanup(lambda: subprocess.run(["losetup", "-d", device], capture_output=True))
        return device, fuse

    def detach(self, device, fuse):
        run("losetup", "-d", device)
        wait_until(lambda: not run("losetup", "-j", self.world.path("fuse/disk")), "the loop device gone")
        subprocess.run(["fusermount3", "-u", self.world.path("fuse")], check=True, timeout=60)
        fuse.popen.wait(60)

    def mount(self, device):
        mnt = self.world.path("mnt")
        os.makedirs(mnt, exist_ok=True)
        run("mount", "-t", "ext4", device, mnt)
        self.addCleanup(lambda: subprocess.run(["umount", "-l", mnt], capture_output=True))
        return mnt

    def as_postgres(self, *argv):
        return run("runuser", "-u", "postgres", "--", *argv, cwd="/")

    def start(self, data):
        log = os.path.join(os.path.dirname(data), "log")
        try:
            self.as_postgres(f"{self.pg}/pg_ctl", "-D", data, "-w", "-t", "60", "-l", log, "-o", f"-k {self.socket} -h ''", "start")
        except AssertionError as e:
            with open(log) as f:
                raise AssertionError(f"{e}\n{f.read()[-3000:]}") from e
        self.addCleanup(lambda: subprocess.run(["runuser", "-u", "postgres", "--", f"{self.pg}/pg_ctl", "-D", data, "-m", "immediate",
                                                "stop"], capture_output=True, cwd="/"))

    def query(self, text):
        return self.as_postgres(f"{self.pg}/psql", "-h", self.socket, "-d", "postgres", "-Atc", text).strip()

    def balances(self):
        """The sums that pgbench's transactions keep equal, and how many there were."""
        return self.query("select (select sum(abalance) from pgbench_accounts), (select sum(tbalance) from pgbench_tellers), "
                          "(select sum(bbalance) from pgbench_branches), (select coalesce(sum(delta), 0) from pgbench_history), "
                          "(select count(*) from pgbench_history)").split("|")

    def test_postgresql_on_ext4_survives_being_stopped_at_once_and_its_file_system_is_clean(self):
        image = self.image(self.SIZE)
        g = self.gateway(self.world.nbdkit("-t", "8", "file", image), "[limit all]\niops = 4000\nbandwidth = 200MiB/s\n")
        self.socket = self.world.path("pg")
        os.mkdir(self.socket)
        shutil.chown(self.socket, "postgres")
        device, fuse = self.attach(g.uri())
        run("mkfs.ext4", "-q", "-E", "nodiscard", device)
        mnt = self.mount(device)
        data = os.path.join(mnt, "db", "data")
        os.mkdir(os.path.dirname(data))
        shutil.chown(os.path.dirname(data), "postgres")
        self.as_postgres(f"{self.pg}/initdb", "-k", "-A", "trust", "-D", data)
        self.start(data)
        bench = (f"{self.pg}/pgbench", "-h", self.socket)
        self.as_postgres(*bench, "-q", "-i", "-s", "2", "postgres")
        self.as_postgres(*bench, "-n", "-c", "8", "-t", "20", "postgres")
        before = self.balances()
        self.assertEqual(len(set(before[:4])), 1, before)
        self.assertEqual(int(before[4]), 8 * 20)

        # Stopped in the middle: what was committed is there again, and the file system has no fault.
        with subprocess.Popen(["runuser", "-u", "postgres", "--", *bench, "-n", "-c", "4", "-t", "1000000", "postgres"], cwd="/",
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as busy:
            wait_until(lambda: int(self.balances()[4]) > int(before[4]) + 20, "more transactions")
            committed = int(self.balances()[4])
            self.as_postgres(f"{self.pg}/pg_ctl", "-D", data, "-m", "immediate", "stop")
            busy.kill()
        run("umount", mnt)
        run("e2fsck", "-fn", device)
        self.detach(device, fuse)
        run("e2fsck", "-fn", image)  # and so does the storage see it

        device, fuse = self.attach(g.uri())
        self.mount(device)
        self.start(data)
        after = self.balances()
        self.assertEqual(len(set(after[:4])), 1, after)
        self.assertGreaterEqual(int(after[4]), committed)
        self.as_postgres(f"{self.pg}/pg_ctl", "-D", data, "-m", "fast", "-w", "stop")
        self.as_postgres(f"{self.pg}/pg_checksums", "--check", "-D", data)
        run("umount", mnt)
        self.detach(device, fuse)
        c = self.settled(g)
        self.assertGreater(c["flush"]["completions"], 20)
        self.assertEqual(sum(x["errors"] for x in c.values()), 0)


if __name__ == "__main__":
    weirtest.main()
