# SPDX-License-Identifier: Apache-2.0
"""Starts the real parts (storage servers, gateway, SLA server) for tests and demo, each on free loopback ports in a
temporary folder, and ends them again by the process ids it knows.

    with weirtest.World() as w:
        t = w.nbdkit("memory", "64M")
        s = w.server()
        g = w.gateway(target=t.uri, server=s)
        ...
"""

import contextlib
import ctypes
import fcntl
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import unittest
import urllib.error
import urllib.request

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.path.abspath(os.environ.get("WEIR_BUILD", os.path.join(ROOT, "build")))
GATEWAY = os.path.join(BUILD, "src/gateway/weir-gateway")
SERVER = os.path.join(BUILD, "src/server/weir-server")
WEIR = os.path.join(BUILD, "src/cli/weir")
# Sanitizer builds are slower; every wait below is a bound on a polling loop, not a measurement.
PATIENCE = float(os.environ.get("WEIR_PATIENCE", "30"))


def some(things):
    """All of them; under a sanitizer, where each program takes several times as long to start, every third."""
    return list(things)[::3 if "WEIR_PATIENCE" in os.environ else 1]


# Keep the memory once had: on virtual machines fresh pages for each buffer take most of a test's time.
# M_MMAP_MAX, M_TRIM_THRESHOLD, M_TOP_PAD of mallopt(3); only of this process, not of those it starts.
for option, value in ((-4, 0), (-1, 1 << 30), (-2, 1 << 26)):
    ctypes.CDLL(None).mallopt(option, value)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait_until(check, what, patience=PATIENCE, step=0.05):
    """Poll until check() is true and return its value; AssertionError naming `what` when patience ends."""
    deadline = time.monotonic() + patience
    while True:
        value = check()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {patience:.0f} s in vain for: {what}")
        time.sleep(step)


def need(*programs):
    """Skip the test (counted) where a program is missing."""
    missing = [p for p in programs if shutil.which(p) is None and not os.path.exists(p)]
    if missing:
        raise unittest.SkipTest("not installed: " + ", ".join(missing))


def can_connect(port, host="127.0.0.1"):
    with contextlib.closing(socket.socket()) as s:
        s.settimeout(1)
        return s.connect_ex((host, port)) == 0


def own_network(*addresses):
    """Move this process, and with it all that it starts, into a network of its own, whose loopback device has these (IPv4)
    addresses beside 127.0.0.1: what is bound to them is beyond loopback and yet leaves no machine. Skip where that may not be."""
    libc, uid, gid = ctypes.CDLL(None, use_errno=True), os.getuid(), os.getgid()
    if libc.unshare(0x40000000) != 0:  # CLONE_NEWNET; without the right to, as root of an own user namespace
        if libc.unshare(0x40000000 | 0x10000000) != 0:
            raise unittest.SkipTest("no network namespace: " + os.strerror(ctypes.get_errno()))
        for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
            with open(f"/proc/self/{name}", "w") as f:
                f.write(text)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        names = ["lo"] + [f"lo:{n + 1}" for n in range(len(addresses))]
        for name, address in zip(names, ("127.0.0.1",) + addresses):
            device = name.encode().ljust(16, b"\0")
            fcntl.ioctl(s, 0x8916, device + struct.pack("=HH4s8x", socket.AF_INET, 0, socket.inet_aton(address)))  # SIOCSIFADDR
            fcntl.ioctl(s, 0x8914, device + struct.pack("=H14x", 0x49))  # SIOCSIFFLAGS: up, loopback, running


class Process:
    """A program of ours or of others, with its output in a file; ended by pid only. It stays in the test's process group, so that
    whoever ends a test that hangs (meson does) ends what it has started too."""

    def __init__(self, world, name, argv, env=None):
        self.name, self.argv, self.world = name, argv, world
        self.log_path = os.path.join(world.dir, f"{name}-{len(world.processes)}.log")
        self.log = open(self.log_path, "wb")
        self.popen = subprocess.Popen(
            argv, stdout=self.log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
            env={**os.environ, **(env or {})})
        world.processes.append(self)

    @property
    def pid(self):
        return self.popen.pid

    def output(self):
        with open(self.log_path, "rb") as f:
            return f.read().decode("utf-8", "replace")

    def alive(self):
        return self.popen.poll() is None

    def wait_line(self, pattern, patience=PATIENCE):
        """Wait for a line of output that matches; returns the match."""
        def look():
            m = re.search(pattern, self.output(), re.M)
            if m is None and not self.alive():
                raise AssertionError(f"{self.name} ended ({self.popen.returncode}) before /{pattern}/:\n{self.output()}")
            return m
        return wait_until(look, f"/{pattern}/ from {self.name}", patience)

    def stop(self, sig=signal.SIGTERM, patience=PATIENCE):
        """End it and return its exit status; killed when it does not end by itself."""
        if self.alive():
            self.popen.send_signal(sig)
            try:
                self.popen.wait(patience)
            except subprocess.TimeoutExpired:
                self.popen.kill()
                self.popen.wait()
                self.world.hung.append(self.name)
        self.log.close()
        return self.popen.returncode

    def kill(self):
        return self.stop(signal.SIGKILL)

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def rss_kib(self):
        with open(f"/proc/{self.pid}/status") as f:
            return int(re.search(r"VmRSS:\s+(\d+)", f.read()).group(1))


class Server(Process):
    http = control = state_dir = None

    @property
    def admin_token(self):
        with open(os.path.join(self.state_dir, "admin.token")) as f:
            return f.read().strip()

    def request(self, method, path, body=None, token=True, headers=None, raw=False):
        """(status, headers, parsed body); errors of HTTP are answers, not exceptions."""
        h = {"Accept": "application/json", **(headers or {})}
        data = None
        if body is not None:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            h.setdefault("Content-Type", "application/json")
        if token:
            h["Authorization"] = "Bearer " + (self.admin_token if token is True else token)
        req = urllib.request.Request(self.http + path, data=data, method=method, headers=h)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(req, timeout=PATIENCE) as r:
                text = r.read()
                status, hdrs = r.status, r.headers
        except urllib.error.HTTPError as e:
            text, status, hdrs = e.read(), e.code, e.headers
        if raw or "json" not in (hdrs.get("Content-Type") or ""):
            return status, hdrs, text.decode("utf-8", "replace")
        return status, hdrs, json.loads(text) if text else None

    def get(self, path):
        status, _, body = self.request("GET", "/api/v1" + path)
        if status != 200:
            raise AssertionError(f"GET {path}: {status} {body}")
        return body

    def items(self, path):
        return self.get(path)["items"]

    def put(self, path, body):
        status, _, answer = self.request("PUT", "/api/v1" + path, body)
        if status not in (200, 201):
            raise AssertionError(f"PUT {path}: {status} {answer}")
        return answer


class Gateway(Process):
    """popen is the manager, pid the worker that carries I/O."""
    address = socket_path = state_dir = None
    deaths_expected = False  # a worker that dies of itself fails the test, unless it says so

    def workers(self):
        try:
            with open(f"/proc/{self.popen.pid}/task/{self.popen.pid}/children") as f:
                return [int(p) for p in f.read().split()]
        except OSError:
            return []

    @property
    def pid(self):
        """The newest worker's; without one (--single-process, or between two) the program's own."""
        return (self.workers() or [self.popen.pid])[-1]

    def tell(self, sig):
        """To the manager."""
        self.popen.send_signal(sig)

    def kill_worker(self, sig=signal.SIGKILL):
        """Kill the worker and wait for the next one to serve."""
        self.deaths_expected = True
        old = self.pid
        os.kill(old, sig)
        return self.wait_worker(old)

    def wait_worker(self, old, patience=PATIENCE):
        """Wait for a worker other than `old` that answers."""
        def other():
            if not self.alive():
                raise AssertionError(f"the gateway ended:\n{self.output()}")
            with contextlib.suppress(OSError, ValueError, KeyError):
                pid = self.local(get="status")["status"]["manager"]["workerPid"]
                return pid if pid not in (0, old) else None
        return wait_until(other, "another worker", patience)

    def stop(self, sig=signal.SIGTERM, patience=PATIENCE):
        workers = self.workers()
        status = super().stop(sig, patience)
        for pid in workers:  # they die with their manager, a moment later
            wait_until(lambda: not os.path.exists(f"/proc/{pid}"), f"worker {pid} to end", patience)
        return status

    @property
    def port(self):
        return int(self.address.rsplit(":", 1)[1])

    def uri(self, export=""):
        if self.address.startswith("unix:"):
            return f"nbd+unix:///{export}?socket={self.address[5:]}"
        return f"nbd://{self.address}/{export}"

    def local(self, **request):
        """Ask the local socket; again if the worker that heard it died before it answered."""
        return wait_until(lambda: self.local_once(request), f"an answer to {request}")

    def local_once(self, request):
        with contextlib.closing(socket.socket(socket.AF_UNIX)) as s:
            s.settimeout(PATIENCE)
            s.connect(self.socket_path)
            s.sendall(json.dumps(request).encode() + b"\n")
            data = b""
            while not data.endswith(b"\n"):
                more = s.recv(1 << 20)
                if not more:
                    return None
                data += more
        return json.loads(data)


class Storage(Process):
    uri = port = None


class Daemon(Storage):
    """Storage that goes to the background by itself (nbd-server -d would serve one client only); known by its pid file."""

    def __init__(self, world, name, argv, pid_file):
        super().__init__(world, name, argv)
        if self.popen.wait(PATIENCE) != 0:
            raise AssertionError(f"{name} did not start:\n{self.output()}")

        def written():
            with contextlib.suppress(OSError, ValueError), open(pid_file) as f:
                return int(f.read())
        self.daemon_pid = wait_until(written, f"the pid file of {name}")

    @property
    def pid(self):
        return self.daemon_pid

    def alive(self):
        try:
            with open(f"/proc/{self.daemon_pid}/stat") as f:
                return f.read().rsplit(")", 1)[1].split()[0] != "Z"
        except OSError:
            return False

    def stop(self, sig=signal.SIGTERM, patience=PATIENCE):
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.daemon_pid, sig)
        wait_until(lambda: not self.alive(), f"{self.name} to end", patience)
        self.log.close()
        return 0


WORKER_DIED = re.compile(r"worker \d+ died after")
SANITIZER = re.compile(r"ERROR: AddressSanitizer|runtime error:|ERROR: LeakSanitizer|WARNING: ThreadSanitizer")


class World(contextlib.AbstractContextManager):
    def __init__(self, keep=False):
        self.dir = tempfile.mkdtemp(prefix="weir-test-")
        self.processes, self.hung, self.keep = [], [], keep

    def __exit__(self, kind, value, trace):
        for p in reversed(self.processes):
            p.stop()
        ours = [p for p in self.processes if isinstance(p, (Gateway, Server))]
        crashed = [(p.name, p.popen.returncode, p.output()) for p in ours
                   if p.popen.returncode in (-4, -6, -7, -8, -11) or SANITIZER.search(p.output())
                   or (isinstance(p, Gateway) and not p.deaths_expected and WORKER_DIED.search(p.output()))]
        if kind is not None:
            for p in self.processes:
                text = p.output()
                if text:
                    sys.stderr.write(f"--- output of {p.name}\n{text[-4000:]}\n")
        if not self.keep:
            shutil.rmtree(self.dir, ignore_errors=True)
        if kind is None and crashed:
            name, code, text = crashed[0]
            raise AssertionError(f"{name} died of its own ({code}):\n{text[-8000:]}")
        if kind is None and self.hung:
            raise AssertionError("did not end when asked to: " + ", ".join(self.hung))
        return False

    def path(self, name):
        return os.path.join(self.dir, name)

    def nbdkit(self, *args, port=None, env=None):
        """nbdkit on a loopback port: nbdkit("memory", "64M"), nbdkit("--filter=delay", "memory", "1G", "rdelay=1ms")."""
        need("nbdkit")
        port = port or free_port()
        p = Storage(self, "nbdkit", ["nbdkit", "-f", "-i", "127.0.0.1", "-p", str(port), *args], env)
        p.port, p.uri = port, f"nbd://127.0.0.1:{port}"
        self._wait_port(p)
        return p

    def qemu_nbd(self, image, *args, fmt="raw"):
        need("qemu-nbd")
        port = free_port()
        p = Storage(self, "qemu-nbd", ["qemu-nbd", "-t", "-f", fmt, "-b", "127.0.0.1", "-p", str(port), "-e", "64",
                                       *args, image])
        p.port, p.uri = port, f"nbd://127.0.0.1:{port}"
        self._wait_port(p)
        return p

    def nbd_server(self, image, export="", extra=""):
        need("nbd-server")
        port = free_port()
        conf = self.path(f"nbd-server-{port}.conf")
        with open(conf, "w") as f:
            f.write(f"[generic]\nallowlist = true\nlistenaddr = 127.0.0.1\nport = {port}\n"
                    f"[{export or 'default'}]\nexportname = {image}\n{extra}\n")
        p = Daemon(self, "nbd-server", ["nbd-server", "-C", conf, "-p", conf + ".pid"], conf + ".pid")
        p.port, p.uri = port, f"nbd://127.0.0.1:{port}"
        self._wait_port(p)
        # It listens, and only then looks for a large prime for TLS: a matter of chance, seconds on a machine that is busy.
        with socket.create_connection(("127.0.0.1", port)) as s:
            s.settimeout(PATIENCE)
            if s.recv(18) == b"":
                raise AssertionError(f"{p.name} hung up on its first guest:\n{p.output()}")
        return p

    def _wait_port(self, p):
        def up():
            if not p.alive():
                raise AssertionError(f"{p.name} ended at once:\n{p.output()}")
            return can_connect(p.port)
        wait_until(up, f"{p.name} on port {p.port}")

    def server(self, *args, state_dir=None, http=None, control=None):
        state = state_dir or self.path("server")
        os.makedirs(state, mode=0o700, exist_ok=True)
        p = Server(self, "weir-server", [SERVER, "--state-dir", state, "--http", http or "127.0.0.1:0",
                                         "--listen", control or "127.0.0.1:0", *args])
        p.state_dir = state
        p.control = p.wait_line(r"^weir-server: control on (\S+)$").group(1)
        p.http = p.wait_line(r"^weir-server: http on (\S+)$").group(1)
        wait_until(lambda: p.request("GET", "/readyz", token=False)[0] == 200, "the server to be ready")
        return p

    def gateway(self, *args, target=None, listen="127.0.0.1:0", server=None, config=None, name=None, state_dir=None):
        state = state_dir or self.path(f"gateway-{name or len(self.processes)}")
        os.makedirs(state, mode=0o700, exist_ok=True)
        argv = [GATEWAY, "--state-dir", state, "--socket", os.path.join(state, "gateway.sock")]
        if config is not None:
            path = self.path(f"gateway-{len(self.processes)}.conf")
            with open(path, "w") as f:
                f.write(config)
            argv += ["--config", path]
        else:
            argv += ["--listen", listen]
        if target is not None:
            argv += ["--target", target]
        if name is not None:
            argv += ["--name", name]
        if server is not None:
            argv += ["--server", server.control, "--key-file", os.path.join(server.state_dir, "gateway.key")]
        p = Gateway(self, "weir-gateway", [*argv, *args])
        p.state_dir, p.socket_path = state, os.path.join(state, "gateway.sock")
        p.address = p.wait_line(r"^weir-gateway: listening on (\S+) for target").group(1)
        wait_until(lambda: os.path.exists(p.socket_path), "the gateway's local socket")
        return p

    def cli(self, server, *args, stdin=None, check=False, env=None):
        """Run `weir ...` against a server; returns subprocess.CompletedProcess with text output."""
        e = {**os.environ, "HOME": self.dir, "NO_COLOR": "1"}
        if server is not None:
            e["WEIR_SERVER"] = server.http
            e["WEIR_TOKEN"] = server.admin_token
        e.update(env or {})
        r = subprocess.run([WEIR, *args], input=stdin, capture_output=True, text=True, env=e, timeout=PATIENCE * 2)
        if check and r.returncode != 0:
            raise AssertionError(f"weir {' '.join(args)}: {r.returncode}\n{r.stdout}\n{r.stderr}")
        return r


def each_test(suite):
    for t in suite:
        if isinstance(t, unittest.TestSuite):
            yield from each_test(t)
        else:
            yield t


class Timed(unittest.TextTestResult):
    """Knows how long each test took."""

    def __init__(self, *args):
        super().__init__(*args)
        self.times = []

    def startTest(self, test):
        self.began = time.monotonic()
        super().startTest(test)

    def stopTest(self, test):
        self.times.append((time.monotonic() - self.began, test.id().rsplit(".", 1)[-1]))
        super().stopTest(test)


def main():
    """Run the tests of the calling script, with a closing line that a shell can add up: 'N passed, N failed, N skipped'.
    Arguments name single tests; WEIR_SHARD=2/3 takes the second third."""
    loader, module = unittest.defaultTestLoader, sys.modules["__main__"]
    if sys.argv[1:]:
        tests = list(each_test(loader.loadTestsFromNames(sys.argv[1:], module)))
    else:
        tests = list(each_test(loader.loadTestsFromModule(module)))
        part, parts = (int(n) for n in os.environ.get("WEIR_SHARD", "1/1").split("/"))
        tests = tests[part - 1::parts]
    r = unittest.TextTestRunner(verbosity=2, resultclass=Timed).run(unittest.TestSuite(tests))
    bad = len(r.failures) + len(r.errors) + len(r.unexpectedSuccesses)
    skipped = len(r.skipped)
    for seconds, name in sorted(r.times, reverse=True)[:5]:
        print(f"{seconds:7.1f} s  {name}")
    print(f"{r.testsRun - bad - skipped} passed, {bad} failed, {skipped} skipped", flush=True)
    sys.exit(1 if bad or not r.testsRun else 0)
