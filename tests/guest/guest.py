# SPDX-License-Identifier: Apache-2.0
"""Goal: a Linux kernel's own NBD client makes, fills, checks and mounts a file system through the gateway, under limits and
while connections are cut, and gets back what it wrote.
Method: Debian's cloud kernel, out of its package, boots in QEMU without hardware help (TCG) from an initramfs made here of
busybox, nbd-client and e2fsprogs; init.sh is its only process and says how it ended on the serial console. Afterwards the
image is checked from outside, and the gateway's counters are held against what must have happened. Not part of `make test`:
it takes minutes; `make test-guest` runs it."""
import os
import re
import shutil
import subprocess
import sys
import threading
import time
import unittest

import weirtest
from weirtest import wait_until

HERE = os.path.dirname(os.path.abspath(__file__))
CACHE = os.path.join(weirtest.BUILD, "guest")
GUEST_PATIENCE = int(os.environ.get("GUEST_SECONDS", "600"))
SIZE = 96 << 20
# With what they depend on; those that a kernel has built in are left out.
MODULES = ["virtio_pci", "virtio_net", "crc32c_intel", "ext4", "nbd"]
PROGRAMS = ["nbd-client", "mke2fs", "e2fsck"]


def kernel():
    """The unpacked package of Debian's cloud kernel: (folder, version). Downloaded once, never installed."""
    os.makedirs(CACHE, exist_ok=True)
    text = subprocess.run(["apt-cache", "depends", "linux-image-cloud-amd64"], capture_output=True, text=True, check=True).stdout
    package = re.search(r"Depends: (linux-image-\S+)", text).group(1)
    folder = os.path.join(CACHE, package)
    if not os.path.exists(folder):
        subprocess.run(["apt-get", "-q", "download", package], cwd=CACHE, check=True, stdout=subprocess.DEVNULL)
        deb = next(f for f in os.listdir(CACHE) if f.startswith(package + "_"))
        subprocess.run(["dpkg-deb", "-x", deb, folder + ".part"], cwd=CACHE, check=True)
        os.rename(folder + ".part", folder)
        os.remove(os.path.join(CACHE, deb))
    return folder, package.removeprefix("linux-image-")


def libraries(program):
    """What the dynamic loader maps for a program."""
    text = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    return set(re.findall(r"(/\S+) \(0x", text))


def module_order(modules):
    """The files of MODULES and of what they depend on, each after what it needs."""
    found = {f[:-3].replace("-", "_"): os.path.join(d, f) for d, _, files in os.walk(modules) for f in files if f.endswith(".ko")}
    order = []

    def add(name):
        if name not in found or found[name] in order:
            return
        with open(found[name], "rb") as f:
            needs = re.search(rb"\0depends=([^\0]*)\0", f.read())
        for other in needs.group(1).decode().split(",") if needs else []:
            add(other.replace("-", "_"))
        order.append(found[name])
    for name in MODULES:
        add(name)
    return order


def initramfs(root, folder, version):
    """Put the guest's whole world into @root and return the archive."""
    for name in ("bin", "sbin", "modules"):
        os.makedirs(os.path.join(root, name))
    shutil.copy("/bin/busybox", os.path.join(root, "bin/busybox"))
    for name in PROGRAMS:
        path = shutil.which(name, path="/usr/sbin:/sbin:/usr/bin:/bin")
        if path is None:
            raise unittest.SkipTest(f"not installed: {name}")
        shutil.copy(path, os.path.join(root, "bin", name))
        for library in libraries(path):
            to = root + library
            os.makedirs(os.path.dirname(to), exist_ok=True)
            shutil.copy(os.path.realpath(library), to)
    order = module_order(os.path.join(folder, "lib/modules", version, "kernel"))
    for path in order:
        shutil.copy(path, os.path.join(root, "modules"))
    with open(os.path.join(root, "modules.order"), "w") as f:
        f.write("\n".join(map(os.path.basename, order)) + "\n")
    shutil.copy(os.path.join(HERE, "init.sh"), os.path.join(root, "init"))
    os.chmod(os.path.join(root, "init"), 0o755)
    archive = root + ".cpio"
    with open(archive, "wb") as out:
        files = subprocess.run(["find", "."], cwd=root, capture_output=True, check=True).stdout
        subprocess.run(["cpio", "--quiet", "-o", "-H", "newc"], cwd=root, input=files, stdout=out, check=True)
    return archive


class Guest(unittest.TestCase):
    def boot(self, world, port, name):
        weirtest.need("qemu-system-x86_64", "cpio", "/bin/busybox")
        folder, version = kernel()
        archive = initramfs(world.path("initramfs"), folder, version)
        argv = ["qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "384", "-display", "none",
                "-no-reboot", "-nodefaults", "-serial", "stdio", "-nic", "user,model=virtio-net-pci",
                "-kernel", os.path.join(folder, f"boot/vmlinuz-{version}"), "-initrd", archive,
                "-append", f"console=ttyS0 panic=-1 quiet weir.port={port} weir.name={name}"]
        return weirtest.Process(world, "guest", argv)

    def finish(self, guest):
        m = wait_until(lambda: re.search(r"^guest: exit (\d+)", guest.output(), re.M) or not guest.alive(),
                       "the guest to end", GUEST_PATIENCE, 0.5)
        sys.stdout.write("".join(line for line in guest.output().splitlines(True) if line.startswith("guest: ")))
        self.assertTrue(m is not True, f"the guest ended without a word:\n{guest.output()[-4000:]}")
        self.assertEqual(m.group(1), "0", guest.output()[-4000:])

    def play(self, limits, trouble=None):
        with weirtest.World() as world:
            image = world.path("image")
            with open(image, "wb") as f:
                f.truncate(SIZE)
            storage = world.nbdkit("-t", "8", "file", image)
            g = world.gateway(config=f"[listener l]\naddress = 127.0.0.1:0\ntarget = t\n[target t]\nuri = {storage.uri}\n"
                                     f"[volume disk]\ntarget = t\n{limits}")
            begin = time.monotonic()
            guest = self.boot(world, g.port, "disk")
            stop = threading.Event()
            worker = threading.Thread(target=trouble, args=(world, g, guest, stop)) if trouble else None
            if worker:
                worker.start()
            try:
                self.finish(guest)
            finally:
                stop.set()
                if worker:
                    worker.join()
            print(f"took {time.monotonic() - begin:.0f} s")
            wait_until(lambda: g.local(get="status")["status"]["connections"]["active"] == 0, "no connection left")
            for s in g.local(get="streams")["streams"]:
                self.assertEqual(s["volume"], "disk")
                for op, c in s["counters"].items():
                    self.assertEqual(c["arrivals"], c["completions"] + c["dropped"], op)
                self.assertGreater(s["counters"]["write"]["bytes"], 3 << 20)
                self.assertGreater(s["counters"]["read"]["bytes"], 3 << 20)
                self.assertGreater(s["counters"]["flush"]["completions"], 0)
                held = sum(c["held"] for c in s["counters"].values())
                self.assertEqual(held > 0, bool(limits))
            self.assertEqual(subprocess.run(["e2fsck", "-fn", image], capture_output=True).returncode, 0)
            return g.local(get="status")["status"]["connections"]["closed"]

    def test_a_kernels_client_makes_fills_and_checks_a_file_system(self):
        closed = self.play("")
        self.assertEqual({k for k, n in closed.items() if n}, {"host-disconnected"})

    def test_a_kernels_client_does_the_same_while_limits_hold_it(self):
        closed = self.play("[limit l]\nvolume = disk\niops = 400\nbandwidth = 6MiB/s\n")
        self.assertEqual({k for k, n in closed.items() if n}, {"host-disconnected"})


if __name__ == "__main__":
    weirtest.main()
