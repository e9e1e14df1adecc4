#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Goal: a host cannot tell the gateway from the target behind it.

Method: each client of the battery runs twice, against a fresh server directly and against an equal fresh server
through a gateway, and every outcome must be the same: statuses, error numbers and their texts, data, what programs
print (addresses and times masked). Servers differ in what they answer to the same request; so must the gateway.

WEIR_BATTERY_DIRECT=1 compares two direct runs: then a difference is one of the battery itself.
"""

import os
import subprocess
import sys
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import battery  # noqa: E402
import weirtest  # noqa: E402

MIB = battery.MIB
SIZE = 96 * MIB  # 64 MiB in one request, and more
SMALL = 36 * MIB  # for programs that read and write all of it, again and again
BOTH_DIRECT = os.environ.get("WEIR_BATTERY_DIRECT") == "1"


def image(world, name, size=SIZE):
    """A sparse file with data, holes and data again."""
    path = world.path(name)
    with open(path, "wb") as f:
        f.write(battery.pattern("first", MIB))
        f.seek(3 * MIB)
        f.write(battery.pattern("second", 2 * MIB))
        f.seek(size - 4096)
        f.write(battery.pattern("last", 4096))
    return path


def nbdkit(*args):
    return lambda world, n: (world.nbdkit(*args), "")


def qemu_raw(*args, export="", size=SIZE):
    def start(world, n):
        return world.qemu_nbd(image(world, f"raw-{n}", size), *args), export
    return start


def qemu_qcow2(world, n):
    path = world.path(f"qcow2-{n}")
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, str(SIZE)], check=True)
    return world.qemu_nbd(path, fmt="qcow2"), ""


def nbd_server(world, n, size=SIZE):
    return world.nbd_server(image(world, f"served-{n}", size), export="disk"), "disk"


def small_nbd_server(world, n):
    return nbd_server(world, n, SMALL)


# Where a server breaks the protocol document and the gateway keeps to it: nbd-server goes on with a client that sets
# unknown flags ("the server MUST drop the TCP connection"), and hangs up on ABORT ("the server MUST reply with ACK").
KNOWN = {nbd_server: ("client flags 4", "client flags 2147483651", "abort")}


class Compared(unittest.TestCase):
    maxDiff = None

    def outcomes(self, start, clients, through, config=None):
        found = battery.Outcomes()
        with weirtest.World() as world:
            server, export = start(world, 0)
            base = server.uri
            if through and not BOTH_DIRECT:
                if config is not None:
                    gateway = world.gateway(config=config.format(uri=server.uri))
                else:
                    gateway = world.gateway(target=server.uri)
                base = gateway.uri().rstrip("/")
            work = world.path("work")
            os.mkdir(work)
            for client in clients:
                found.note("begins", client.__name__)
                client(found, f"{base}/{export}", base, work)
        return found

    def same(self, start, *clients, config=None):
        direct = self.outcomes(start, clients, False)
        through = self.outcomes(start, clients, True, config)
        differences = battery.compare(direct, through, KNOWN.get(start, ()))
        self.assertGreater(len(direct), 1)
        if differences:
            self.fail(f"{len(differences)} of {len(direct)} outcomes differ:\n" + "\n".join(differences[:20]))


class Battery(Compared):
    """Its tests are made below, one for each pair of server and client."""


def case(start, *clients):
    def test(self):
        weirtest.need("nbdinfo", "nbdcopy", "qemu-img", "qemu-io", "fio")
        self.same(start, *clients)
    return test


SIMPLE, STRUCTURED = battery.libnbd_ops(False, True), battery.libnbd_ops(True, True)
LAX, LAX_SIMPLE = battery.libnbd_ops(True, False), battery.libnbd_ops(False, False)
OPTIONS, WIRE_OPTIONS, WIRE_REQUESTS = battery.libnbd_options, battery.wire_options, battery.wire_requests
PROGRAMS = (battery.nbdinfo, battery.nbdsh, battery.nbdcopy, battery.qemu_img, battery.qemu_io, battery.fio)
CALLS = (SIMPLE, STRUCTURED, LAX, OPTIONS, WIRE_OPTIONS, WIRE_REQUESTS)
THOROUGH = (LAX_SIMPLE, battery.nbdinfo_questions, battery.nbdcopy_every_way)  # before one server: they take long

# For calls, and for programs.
SERVERS = {
    "nbdkit": (nbdkit("memory", str(SIZE)), nbdkit("memory", str(SMALL))),
    "qemu_nbd": (qemu_raw(), qemu_raw(size=SMALL)),
    "nbd_server": (nbd_server, small_nbd_server),
}
OTHERS = {
    "qemu_nbd_qcow2": (qemu_qcow2, STRUCTURED, battery.nbdinfo, battery.qemu_io),
    "qemu_nbd_named_read_only": (qemu_raw("-r", "-x", "disk", "-D", "a described disk", export="disk"), LAX, battery.nbdinfo, OPTIONS),
    "nbdkit_of_an_odd_size": (nbdkit("memory", str(7 * MIB + 513)), STRUCTURED, LAX_SIMPLE, battery.nbdcopy),
    "nbdkit_read_only": (nbdkit("-r", "memory", "8M"), LAX, battery.nbdinfo),
    "nbdkit_without_structured_replies": (nbdkit("--no-sr", "memory", "8M"), LAX, battery.nbdinfo, OPTIONS),
    "nbdkit_without_zeroes_flag": (nbdkit("--mask-handshake=1", "memory", "8M"), STRUCTURED, WIRE_OPTIONS),
    "nbdkit_not_fixed": (nbdkit("--mask-handshake=0", "memory", "8M"), SIMPLE, battery.nbdinfo),
    "nbdkit_whose_writes_fail": (
        nbdkit("--filter=error", "memory", "8M", "error=ENOSPC", "error-pwrite-rate=100%", "error-zero-rate=100%"),
        STRUCTURED, LAX_SIMPLE, battery.nbdcopy, battery.qemu_io),
    "nbdkit_whose_reads_fail": (
        nbdkit("--filter=error", "memory", "8M", "error=EIO", "error-pread-rate=100%", "error-extents-rate=100%"),
        STRUCTURED, LAX_SIMPLE, battery.qemu_img),
    "nbdkit_with_block_sizes": (
        nbdkit("--filter=blocksize-policy", "memory", "8M", "blocksize-minimum=4096", "blocksize-preferred=65536",
               "blocksize-maximum=1M", "blocksize-error-policy=error"),
        LAX, STRUCTURED, battery.nbdinfo, battery.qemu_io),
    "nbdkit_that_answers_late": (
        nbdkit("--filter=delay", "memory", "8M", "rdelay=5ms", "wdelay=3ms"), battery.nbdcopy, WIRE_REQUESTS),
}
for server, (for_calls, for_programs) in SERVERS.items():
    for start, clients in ((for_calls, CALLS), (for_programs, PROGRAMS)):
        for client in clients:
            setattr(Battery, f"test_{client.__name__}_on_{server}", case(start, client))
for client in THOROUGH:
    setattr(Battery, f"test_{client.__name__}_on_nbdkit", case(nbdkit("memory", str(SMALL)), client))
for server, (start, *clients) in OTHERS.items():
    setattr(Battery, f"test_{server}", case(start, *clients))


HELD = """
[target storage]
uri = {uri}
[listener hosts]
address = 127.0.0.1:0
target = storage
[limit tight]
iops = 400
bandwidth = 150MiB/s
"""


class Held(Compared):
    """What is held for a limit comes to the same in the end."""

    def test_libnbd(self):
        self.same(nbdkit("memory", "96M"), STRUCTURED, LAX_SIMPLE, config=HELD)

    def test_errors(self):
        self.same(OTHERS["nbdkit_whose_writes_fail"][0], STRUCTURED, config=HELD)

    def test_qemu(self):
        self.same(qemu_raw(), battery.qemu_io, WIRE_REQUESTS, config=HELD)


class Unix(unittest.TestCase):
    def test_programs_see_the_same_over_unix_sockets(self):
        weirtest.need("nbdinfo", "nbdcopy")
        results = []
        for through in (False, True):
            with weirtest.World() as world:
                path = world.path("storage.sock")
                weirtest.Process(world, "nbdkit", ["nbdkit", "-f", "-U", path, "memory", "16M"])
                uri = f"nbd+unix:///disk?socket={path}"
                weirtest.wait_until(lambda: os.path.exists(path), "nbdkit's socket")
                if through:
                    uri = world.gateway(target=f"nbd+unix:///?socket={path}", listen="unix:" + world.path("gw.sock")).uri("disk")
                found, work = battery.Outcomes(), world.path("work")
                os.mkdir(work)
                found.run("nbdinfo", "nbdinfo", "--json", uri)
                battery.nbdsh(found, uri, None, work)
                battery.nbdcopy(found, uri, None, work)
                results.append(found)
        self.assertEqual(battery.compare(*results), [])


VOLUMES = """
[target storage]
uri = {uri}
[listener hosts]
address = 127.0.0.1:0
target = storage
[volume orders]
target = storage
export = lun7
"""


class Volumes(unittest.TestCase):
    """With volumes, hosts use our names and the target hears its own."""

    def setUp(self):
        weirtest.need("nbdinfo", "qemu-nbd")
        self.world = weirtest.World()
        self.addCleanup(self.world.__exit__, None, None, None)
        self.storage = self.world.qemu_nbd(image(self.world, "volume"), "-x", "lun7", "-D", "words for people")
        self.gateway = self.world.gateway(config=VOLUMES.format(uri=self.storage.uri))
        self.base = self.gateway.uri().rstrip("/")

    def run_both(self, *argv):
        outcomes = []
        for uri, name in ((self.storage.uri, "lun7"), (self.base, "orders")):
            o = battery.Outcomes()
            o.run("", *argv, f"{uri}/{name}")
            status, out, err = o[0][1]
            outcomes.append((status, out.replace(name, "NAME"), err.replace(name, "NAME")))
        return outcomes

    def test_a_volume_shows_itself_under_its_own_name(self):
        for argv in (("nbdinfo",), ("nbdinfo", "--json"), ("nbdinfo", "--map"), ("qemu-img", "info", "-f", "raw")):
            with self.subTest(argv):
                direct, through = self.run_both(*argv)
                self.assertEqual(direct[0], 0)
                self.assertEqual(direct, through)

    def test_a_list_shows_volumes_with_the_targets_descriptions(self):
        o = battery.Outcomes()
        o.run("", "nbdinfo", "--list", self.base)
        status, out, _ = o[0][1]
        self.assertEqual(status, 0)
        self.assertIn('export="orders"', out)
        self.assertIn("words for people", out)
        self.assertNotIn("lun7", out)

    def test_the_targets_own_name_is_unknown_to_hosts(self):
        for name in ("lun7", "", "order"):
            o = battery.Outcomes()
            o.run("", "nbdinfo", f"{self.base}/{name}")
            status, _, err = o[0][1]
            self.assertNotEqual(status, 0)
            self.assertIn("No such file or directory for ", err)

    def test_data_goes_to_the_right_place(self):
        with battery.nbd_handle(f"{self.base}/orders") as h:
            h.pwrite(b"through the gateway", 12345)
            h.flush()
        with battery.nbd_handle(f"{self.storage.uri}/lun7") as h:
            self.assertEqual(bytes(h.pread(19, 12345)), b"through the gateway")


if __name__ == "__main__":
    weirtest.main()
