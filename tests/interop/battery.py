# SPDX-License-Identifier: Apache-2.0
"""The client battery: what real NBD clients do to a server, and what came of it, as lists that can be compared.

Every outcome is (label, result); a result holds nothing that differs between two runs against equal servers:
addresses are masked, times are cut off, data is shown by its checksum.
"""

import hashlib
import json
import os
import re
import socket
import struct
import subprocess

import nbd

MIB = 1 << 20
TOOL_PATIENCE = 120
# How long a server may think before it counts as silent: nbd-server leaves some options unanswered.
WIRE_PATIENCE = 5


def digest(data):
    return f"{len(data)} bytes {hashlib.sha256(bytes(data)).hexdigest()[:16]}"


def pattern(seed, size):
    """Bytes that look random and are the same each time."""
    block = hashlib.sha512(str(seed).encode()).digest()
    return (block * (size // len(block) + 1))[:size]


def mask(text):
    text = re.sub(r"(127\.0\.0\.1|localhost|\[::1\]):\d+", "ADDRESS", text)
    text = re.sub(r"socket=[^\s\"&]+", "socket=PATH", text)
    text = re.sub(r'("port":\s*")\d+"', r'\1PORT"', text)
    return re.sub(r"\S*weir-test-\w+/", "DIR/", text)


class Outcomes(list):
    def note(self, label, result):
        self.append((label, result))

    def attempt(self, label, function):
        """Note what a libnbd call returns or which error it raises; returns whether it succeeded."""
        try:
            self.note(label, function())
            return True
        except nbd.Error as e:
            self.note(label, ("error", e.errno, mask(e.string)))
        except (OSError, ValueError) as e:
            self.note(label, ("error", type(e).__name__, mask(str(e))))
        return False

    def run(self, label, *argv, trim=lambda text: text):
        """Note status, output and errors of a program."""
        r = subprocess.run(argv, capture_output=True, text=True, timeout=TOOL_PATIENCE, stdin=subprocess.DEVNULL)
        self.note(label, (r.returncode, mask(trim(r.stdout)), mask(trim(r.stderr))))
        return r.returncode


def compare(direct, through, known=()):
    """The differences of two lists of outcomes, in words, but for those of the steps in @known."""
    found = []
    for (a, x), (b, y) in zip(direct, through):
        if a != b:
            found.append(f"different steps: {a} / {b}")
            break
        if x != y and a not in known:
            found.append(f"{a}:\n    direct:  {x}\n    through: {y}")
    if len(direct) != len(through):
        found.append(f"{len(direct)} steps against {len(through)}")
    return found


# --- programs -----------------------------------------------------------------------------------------------------


def nbdinfo(o, uri, base, work):
    o.run("nbdinfo", "nbdinfo", uri)
    o.run("nbdinfo --json", "nbdinfo", "--json", uri)
    o.run("nbdinfo --size", "nbdinfo", "--size", uri)
    o.run("nbdinfo --list", "nbdinfo", "--list", base)
    o.run("nbdinfo --list --json", "nbdinfo", "--list", "--json", base)
    o.run("nbdinfo of what is not there", "nbdinfo", base + "/no%20such%20export")
    o.run("nbdinfo --map", "nbdinfo", "--map", uri)
    o.run("nbdinfo --map --totals", "nbdinfo", "--map", "--totals", uri)
    o.run("qemu-nbd --list", "qemu-nbd", "--list", "-b", "127.0.0.1", "-p", base.rsplit(":", 1)[1])


def nbdinfo_questions(o, uri, base, work):
    """One process for each; what they tell is in nbdinfo --json too."""
    for what in ("read-only", "rotational"):
        o.run(f"nbdinfo --is {what}", "nbdinfo", "--is", what, uri)
    for what in ("cache", "connect", "df", "fast-zero", "flush", "fua", "multi-conn", "read", "trim", "write", "zero",
                 "structured-reply"):
        o.run(f"nbdinfo --can {what}", "nbdinfo", "--can", what, uri)


NBDCOPY = (("plain", []), ("4 connections", ["-C", "4"]), ("synchronous", ["--synchronous"]),
           ("small requests", ["--request-size=65536", "-R", "64"]), ("allocated", ["--allocated"]), ("flush", ["--flush"]))


def nbdcopy(o, uri, base, work):
    copies(o, uri, work, NBDCOPY[:2])


def nbdcopy_every_way(o, uri, base, work):
    copies(o, uri, work, NBDCOPY)


def copies(o, uri, work, ways):
    def trim(text):
        # Of requests in flight together any may be the first to fail.
        return re.sub(r"at offset \d+ failed", "failed", text)

    source, back = os.path.join(work, "source"), os.path.join(work, "back")
    with nbd_handle(uri) as h:
        size = h.get_size()
    with open(source, "wb") as f:
        f.write(pattern("copy", min(size, 3 * MIB)))
        f.truncate(size)
        f.seek(size // 2)
        f.write(pattern("middle", min(size // 4, 2 * MIB)))
        f.truncate(size)
    for name, options in ways:
        o.run(f"nbdcopy in, {name}", "nbdcopy", *options, source, uri, trim=trim)
        o.run(f"nbdcopy out, {name}", "nbdcopy", *options, uri, back, trim=trim)
        if os.path.exists(back):
            with open(back, "rb") as f:
                o.note(f"what came back, {name}", digest(f.read()))
            os.unlink(back)
    o.run("nbdcopy to nothing", "nbdcopy", uri, "null:", trim=trim)


NBDSH = """
h.set_full_info(True)
h.add_meta_context("base:allocation")
h.connect_uri(uri)
print(h.get_size(), h.can_multi_conn(), h.get_protocol(), h.get_structured_replies_negotiated())
try:
    h.pwrite(b"0123456789" * 100, 511)
    print(h.pread(1000, 511))
    h.zero(100, 600)
    h.trim(512, 1024)
    print(h.pread(1000, 511))
    h.flush()
    h.block_status(65536, 0, lambda *args: print(args[:3]))
except nbd.Error as e:
    print(e.errno, e.string)
h.shutdown()
"""


def nbdsh(o, uri, base, work):
    o.run("nbdsh", "nbdsh", "-c", f"uri = {uri!r}", "-c", NBDSH)
    o.run("nbdsh --base-allocation", "nbdsh", "--base-allocation", "-u", uri, "-c", "print(h.can_meta_context('base:allocation'))")


def qemu_img(o, uri, base, work):
    source, back = os.path.join(work, "qsource"), os.path.join(work, "qback")
    with nbd_handle(uri) as h:
        size = h.get_size()
    with open(source, "wb") as f:
        f.write(pattern("qemu", min(size // 2, 4 * MIB)))
        f.truncate(size)
    o.run("qemu-img info", "qemu-img", "info", "-f", "raw", uri)
    o.run("qemu-img info --output=json", "qemu-img", "info", "-f", "raw", "--output=json", uri)
    o.run("qemu-img info of what is not there", "qemu-img", "info", "-f", "raw", base + "/nowhere")
    o.run("qemu-img map", "qemu-img", "map", "-f", "raw", "--output=json", uri)
    o.run("qemu-img compare, unlike", "qemu-img", "compare", "-f", "raw", "-F", "raw", source, uri)
    o.run("qemu-img convert in", "qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", source, uri)
    o.run("qemu-img compare, alike", "qemu-img", "compare", "-f", "raw", "-F", "raw", source, uri)
    o.run("qemu-img convert out", "qemu-img", "convert", "-f", "raw", "-O", "raw", "-m", "8", "-W", uri, back)
    if os.path.exists(back):
        with open(back, "rb") as f:
            o.note("what qemu-img brought back", digest(f.read()))
        os.unlink(back)
    o.run("qemu-img convert in, direct and parallel", "qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", "-t", "none",
          "-m", "16", "-W", source, uri)
    o.run("qemu-img compare again", "qemu-img", "compare", "-f", "raw", "-F", "raw", source, uri)


QEMU_IO = """\
write -P 0xaa 0 64k
write -P 0x55 -f 64k 64k
read -P 0xaa 0 64k
read -P 0x55 64k 64k
read -P 0xaa 64k 512
write -z 0 32k
read -P 0 0 32k
write -z -u 128k 64k
write -z -n 192k 4k
discard 32k 32k
read 32k 32k
write -P 0x11 1000 1
read -P 0x11 1000 1
write -P 0x12 511 1026
read -P 0x12 511 1026
writev -P 0x33 256k 4k 8k 512
readv -P 0x33 256k 4k 8k 512
flush
aio_write -P 0x77 512k 64k
aio_write -P 0x78 640k 64k
aio_flush
aio_read -P 0x77 512k 64k
aio_read -P 0x78 640k 64k
aio_flush
write -P 0x99 1M 4M
read -P 0x99 1M 4M
read 0 32M
write -P 0x42 0 32M
read -P 0x42 0 32M
read 1024G 4k
write 1024G 4k
length
map
""".splitlines()


def qemu_io(o, uri, base, work):
    def trim(text):
        text = re.sub(r", \d+ ops; .*", "", text)
        return re.sub(r"(aio|read|wrote|discard).* (\d+)/(\d+) bytes", r"\1 \2/\3 bytes", text)

    # What fails ends with a process of its own; the rest shares one connection.
    for line in QEMU_IO[-4:]:
        o.run("qemu-io " + line, "qemu-io", "-f", "raw", "-c", line, uri, trim=trim)
    for line in QEMU_IO[:6]:
        o.run("qemu-io " + line, "qemu-io", "-f", "raw", "-c", line, uri, trim=trim)
    every = [word for line in QEMU_IO[:-4] for word in ("-c", line)]
    # Completions of asynchronous writes are told in any order.
    o.run("qemu-io, all on one connection", "qemu-io", "-f", "raw", *every, uri,
          trim=lambda text: "\n".join(sorted(trim(text).splitlines())))


def fio(o, uri, base, work):
    jobs = (
        ("random, 4k", ["--rw=randwrite", "--bs=4k", "--size=4m", "--iodepth=32"]),
        ("mixed sizes", ["--rw=randrw", "--bsrange=512-128k", "--size=8m", "--iodepth=16"]),
        ("in order, 1m", ["--rw=write", "--bs=1m", "--size=12m", "--iodepth=4"]),
        ("with fsync", ["--rw=randwrite", "--bs=8k", "--size=1m", "--iodepth=4", "--fsync=8"]),
        ("trim", ["--rw=randtrim", "--bs=64k", "--size=8m", "--iodepth=8", "--verify=0"]),
    )
    for name, options in jobs:
        report = os.path.join(work, "fio.json")
        argv = ["fio", "--name=battery", "--ioengine=nbd", "--uri=" + uri, "--verify=crc32c", "--verify_fatal=1",
                "--randseed=7", "--output-format=json", "--output=" + report, *options]
        r = subprocess.run(argv, capture_output=True, text=True, timeout=TOOL_PATIENCE, cwd=work)
        facts = []
        if r.returncode == 0:
            with open(report) as f:
                text = f.read()
            job = json.loads(text[text.index("{"):])["jobs"][0]
            facts = [job["error"], job.get("total_err", 0)] + [(job[d]["total_ios"], job[d]["io_bytes"], job[d]["short_ios"])
                                                        for d in ("read", "write", "trim")]
        o.note("fio " + name, (r.returncode, facts))


# --- libnbd -------------------------------------------------------------------------------------------------------


class nbd_handle:
    """A connected handle that is closed at the end."""

    def __init__(self, uri, prepare=lambda h: None):
        self.h = nbd.NBD()
        prepare(self.h)
        self.h.connect_uri(uri)

    def __enter__(self):
        return self.h

    def __exit__(self, *args):
        try:
            self.h.shutdown()
        except nbd.Error:
            pass
        del self.h


class Client:
    """A handle that comes back when the server has hung up, and notes that it did."""

    def __init__(self, o, uri, structured, strict, handshake):
        self.o, self.uri, self.structured, self.strict, self.handshake = o, uri, structured, strict, handshake
        self.h = None

    def connect(self):
        h = nbd.NBD()
        h.set_request_structured_replies(self.structured)
        h.set_full_info(True)
        if self.handshake is not None:
            h.set_handshake_flags(self.handshake)
        if not self.strict:
            h.set_strict_mode(0)
        h.add_meta_context("base:allocation")
        h.add_meta_context("qemu:allocation-depth")
        h.add_meta_context("x-nobody:knows")
        h.connect_uri(self.uri)
        self.h = h

    def call(self, label, function):
        if self.h is None:
            if not self.o.attempt(label + ", connecting", lambda: self.connect()):
                return
        ok = self.o.attempt(label, lambda: function(self.h))
        if not ok and not self.h.aio_is_ready():
            self.o.note(label + ", then", "the connection was gone")
            self.h = None

    def close(self):
        if self.h is not None:
            self.o.attempt("shutdown", self.h.shutdown)
            self.h = None


def facts(h):
    found = {}
    for name in ("get_size", "is_read_only", "is_rotational", "can_cache", "can_df", "can_fast_zero", "can_flush", "can_fua",
                 "can_multi_conn", "can_trim", "can_zero", "get_protocol", "get_structured_replies_negotiated",
                 "get_canonical_export_name", "get_export_description", "get_tls_negotiated"):
        try:
            found[name] = getattr(h, name)()
        except nbd.Error as e:
            found[name] = ("error", e.errno, mask(e.string))
    for kind in (nbd.SIZE_MINIMUM, nbd.SIZE_PREFERRED, nbd.SIZE_MAXIMUM):
        found[f"block size {kind}"] = h.get_block_size(kind)
    for context in ("base:allocation", "qemu:allocation-depth", "x-nobody:knows"):
        try:
            found[context] = h.can_meta_context(context)
        except nbd.Error as e:
            found[context] = ("error", e.errno)
    return found


def read(count, offset, flags=0):
    return lambda h: digest(h.pread(count, offset, flags))


def read_chunks(count, offset, flags=0):
    def call(h):
        chunks = []

        def chunk(data, at, status, error):
            chunks.append((at, status, error.value, digest(data)))
            return 0
        try:
            data = h.pread_structured(count, offset, chunk, flags)
        except nbd.Error as e:
            return ("error", e.errno, mask(e.string), sorted(chunks))
        return digest(data), sorted(chunks)
    return call


def status(count, offset, flags=0):
    def call(h):
        extents = []

        def extent(context, at, entries, error):
            extents.append((context, at, list(entries), error.value))
            return 0
        h.block_status(count, offset, extent, flags)
        return sorted(extents)
    return call


def write(seed, count, offset, flags=0):
    return lambda h: h.pwrite(pattern(seed, count), offset, flags)


def reads(size):
    for count, offset in ((512, 0), (1, 0), (1, 511), (513, 511), (4096, 1), (65536, 0), (65537, 4095), (MIB, MIB),
                          (32 * MIB, 0), (32 * MIB + 1, 0), (64 * MIB, 0), (64 * MIB + 1, 0)):
        yield f"read {count} at {offset}", read(count, offset)
    yield "read nothing", read(0, 0)
    yield "read nothing at the end", read(0, size)
    yield "read the last byte", read(1, size - 1)
    yield "read the last 512", read(512, size - 512)
    yield "read over the end", read(4096, size - 1)
    yield "read at the end", read(1, size)
    yield "read beyond the end", read(4096, size + 4096)
    yield "read far beyond the end", read(512, (1 << 63) - 512)
    yield "read with FUA", read(4096, 0, nbd.CMD_FLAG_FUA)


def writes(size):
    for n, (count, offset) in enumerate(((512, 0), (1, 1000), (513, 511), (4096, 4097), (65536, MIB), (MIB, 2 * MIB),
                                         (32 * MIB, 0), (32 * MIB + 4096, 4096), (33 * MIB, MIB), (64 * MIB, 0))):
        yield f"write {count} at {offset}", write(n, count, offset)
        yield f"read back at {offset}", read(min(count, 8 * MIB), offset)
    yield "write with FUA", write("fua", 8192, 8192, nbd.CMD_FLAG_FUA)
    yield "write nothing", write("", 0, 0)
    yield "write the last byte", write("end", 1, size - 1)
    yield "write over the end", write("over", 4096, size - 1)
    yield "write beyond the end", write("beyond", 4096, size + 4096)
    yield "read the last 4096", read(4096, size - 4096)
    yield "flush", lambda h: h.flush()


def others(size):
    for name in ("zero", "trim"):
        def call(count, offset, flags=0, name=name):
            return lambda h: getattr(h, name)(count, offset, flags)
        yield name, call(65536, 65536)
        yield f"read after {name}", read(3 * 65536, 0)
        yield f"{name}, unaligned", call(1000, 100001)
        yield f"{name}, one byte", call(1, 5)
        yield f"{name}, nothing", call(0, 0)
        yield f"{name}, with FUA", call(4096, 0, nbd.CMD_FLAG_FUA)
        yield f"{name}, much", call(size, 0)
        yield f"{name}, over the end", call(4096, size - 1)
        yield f"{name}, beyond the end", call(4096, size + 4096)
        yield f"write again after {name}", write(name, MIB, 0)
        yield f"status after {name}", status(min(size, 8 * MIB), 0)
    yield "zero, no hole", lambda h: h.zero(8192, 0, nbd.CMD_FLAG_NO_HOLE)
    yield "zero, fast", lambda h: h.zero(8192, 8192, nbd.CMD_FLAG_FAST_ZERO)
    yield "trim, with a flag of zero's", lambda h: h.trim(4096, 0, nbd.CMD_FLAG_NO_HOLE)
    yield "cache", lambda h: h.cache(65536, 0)
    yield "cache, nothing", lambda h: h.cache(0, 0)
    yield "cache, beyond the end", lambda h: h.cache(4096, size)
    yield "flush", lambda h: h.flush()
    yield "flush, with FUA", lambda h: h.flush(nbd.CMD_FLAG_FUA)
    yield "read again", read(4 * 65536, 0)


def statuses(size):
    yield "status", status(min(size, 16 * MIB), 0)
    yield "status of all", status(size, 0)
    yield "status of one extent", status(size, 0, nbd.CMD_FLAG_REQ_ONE)
    yield "status, unaligned", status(1, 511)
    yield "status of nothing", status(0, 0)
    yield "status over the end", status(4096, size - 1)
    yield "status beyond the end", status(4096, size + 4096)
    yield "chunks", read_chunks(8 * MIB, 0)
    yield "chunks, not to be split", read_chunks(65536, 0, nbd.CMD_FLAG_DF)
    yield "chunks, many, not to be split", read_chunks(32 * MIB, 0, nbd.CMD_FLAG_DF)
    yield "chunks over the end", read_chunks(4096, size - 1)
    yield "chunks of nothing", read_chunks(0, 0)
    yield "chunks, unaligned", read_chunks(100001, 777)


def in_flight(h):
    """Many at once, all answered; what each brought is noted in the order of asking."""
    buffers = [nbd.Buffer(4096 + n) for n in range(200)]
    cookies = [h.aio_pread(b, n * 8192) for n, b in enumerate(buffers)]
    cookies += [h.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(pattern(n, 3000))), 4 * MIB + n * 4096) for n in range(100)]
    cookies += [h.aio_flush() for _ in range(3)]
    waiting, results = set(cookies), {}
    while waiting:
        h.poll(-1)
        for c in list(waiting):
            try:
                if h.aio_command_completed(c):
                    waiting.remove(c)
            except nbd.Error as e:
                waiting.remove(c)
                results[cookies.index(c)] = (e.errno, mask(e.string))
    return sorted(results.items()), digest(b"".join(bytes(b.to_bytearray()) for b in buffers))


def libnbd_ops(structured, strict, handshake=None):
    def ops(o, uri, base, work):
        c = Client(o, uri, structured, strict, handshake)
        sizes = []
        c.call("facts", facts)
        c.call("size", lambda h: sizes.append(h.get_size()))
        size = sizes[0] if sizes else 0
        for steps in (writes, reads, statuses, others):
            for label, step in steps(size):
                c.call(label, step)
        c.call("200 in flight", in_flight)
        c.close()
    ops.__name__ = "libnbd_" + ("structured" if structured else "simple") + ("" if strict else "_lax")
    return ops


def libnbd_options(o, uri, base, work):
    """Option haggling by hand."""
    def prepare(h):
        h.set_opt_mode(True)
        h.set_full_info(True)
        h.add_meta_context("base:allocation")

    def contexts(h):
        names = []
        h.clear_meta_contexts()
        h.opt_list_meta_context(lambda name: names.append(name) or 0)
        return names

    def exports(h):
        names = []
        h.opt_list(lambda name, description: names.append((name, description)) or 0)
        return names

    with nbd_handle(uri, prepare) as h:
        name = h.get_export_name()
        o.attempt("list", lambda: exports(h))
        o.attempt("list again", lambda: exports(h))
        o.attempt("info", lambda: h.opt_info())
        o.attempt("facts after info", lambda: facts(h))
        o.attempt("contexts", lambda: contexts(h))
        for bad in ("no such export", "x" * 4096, "\u00fcml\u00e4ut", " "):
            h.set_export_name(bad)
            o.attempt(f"info of {bad[:20]}", lambda: h.opt_info())
            o.attempt(f"facts of {bad[:20]}", lambda: facts(h))
        h.set_export_name(name)
        o.attempt("go", lambda: h.opt_go())
        if h.aio_is_ready():
            o.attempt("facts", lambda: facts(h))
            o.attempt("read", lambda: read(4096, 0)(h))
    with nbd_handle(uri, prepare) as h:
        o.attempt("abort", lambda: h.opt_abort())
        o.note("closed", (h.aio_is_closed(), h.aio_is_dead()))


# --- bytes by hand ------------------------------------------------------------------------------------------------


class Wire:
    """A client without manners, over a plain socket."""

    OPTION_REPLY = 0x3E889045565A9

    def __init__(self, address, flags=3):
        self.s = socket.create_connection(address, timeout=WIRE_PATIENCE)
        self.greeting = self.take(18)
        self.s.sendall(struct.pack(">I", flags))

    def __enter__(self):
        return self

    def __exit__(self, *args):
        self.s.close()

    def take(self, n):
        data = b""
        while len(data) < n:
            more = self.s.recv(n - len(data))
            if not more:
                raise EOFError(f"closed after {len(data)} of {n} bytes")
            data += more
        return data

    def closed(self):
        """Whether the server has hung up; what it still said counts."""
        said = 0
        try:
            while True:
                more = self.s.recv(65536)
                if not more:
                    return ("closed", said)
                said += len(more)
        except ConnectionResetError:
            return ("closed", said)
        except TimeoutError:
            return ("silent", said)

    @staticmethod
    def message(kind, data=b""):
        return b"IHAVEOPT" + struct.pack(">II", kind, len(data)) + data

    def replies(self, kind, words=True):
        """All replies to option @kind, with the words of errors or without."""
        found = []
        while True:
            magic, option, reply, length = struct.unpack(">QIII", self.take(20))
            data = self.take(length)
            if magic != self.OPTION_REPLY:
                return found + [("magic", magic)]
            shown = mask(data.decode("latin-1")) if words or reply < 1 << 31 else "words"
            found.append((option, hex(reply), shown))
            if reply == 1 or reply >= 1 << 31:
                return found

    def option(self, kind, data=b"", words=True):
        self.s.sendall(self.message(kind, data))
        return self.replies(kind, words)

    @staticmethod
    def named(name, rest):
        return struct.pack(">I", len(name)) + name + rest

    def go(self, name):
        return self.option(7, self.named(name, struct.pack(">HH", 1, 3)))

    def request(self, kind, offset=0, length=0, cookie=0, flags=0, data=b"", magic=0x25609513):
        self.s.sendall(struct.pack(">IHHQQI", magic, flags, kind, cookie, offset, length) + data)

    def reply(self, read_length=0):
        """One simple or structured reply."""
        (magic,) = struct.unpack(">I", self.take(4))
        if magic == 0x67446698:
            error, cookie = struct.unpack(">IQ", self.take(12))
            return "simple", error, cookie, digest(self.take(read_length)) if error == 0 and read_length else ""
        flags, kind, cookie, length = struct.unpack(">HHQI", self.take(16))
        return "chunk", flags, kind, cookie, digest(self.take(length))

    def whole(self, read_length=0):
        """Replies up to the last word on a request."""
        found = []
        while True:
            found.append(self.reply(read_length))
            if found[-1][0] == "simple" or found[-1][1] & 1:
                return found


def guarded(o, label, function):
    try:
        o.note(label, function())
        return True
    except (EOFError, ConnectionError):
        # Whether a hang-up is an end or a reset depends on what was still unread, and so on time.
        o.note(label, "closed")
    except TimeoutError:
        o.note(label, "silent")
    return False


def wire_options(o, uri, base, work):
    host, port = base.split("//")[1].split(":")
    address, name = (host, int(port)), uri[len(base) + 1:].encode()
    info = lambda n, count, *asked: Wire.named(n, struct.pack(f">H{len(asked)}H", count, *asked))
    query = lambda n, *queries: Wire.named(n, struct.pack(">I", len(queries)) + b"".join(Wire.named(q, b"") for q in queries))
    steps = (
        ("an unknown option", 99, b"data", False), ("option 4", 4, b"", False), ("list", 3, b"", True),
        ("list with data", 3, b"data", True), ("structured replies with data", 8, b"data", True),
        ("contexts before structured replies", 9, query(name), True),
        ("setting contexts before structured replies", 10, query(name, b"base:allocation"), True),
        ("structured replies", 8, b"", True), ("structured replies again", 8, b"", True),
        ("extended headers", 11, b"", True), ("contexts", 9, query(name), True), ("contexts of base", 9, query(name, b"base:"), True),
        ("setting contexts", 10, query(name, b"base:allocation", b"", b"x:y"), True),
        ("setting no context", 10, query(name), True), ("contexts, queries overrun", 9, Wire.named(name, b"\0\0\0\2\0\0\0\0"), True),
        ("info, nothing asked", 6, info(name, 0), True), ("info, all asked", 6, info(name, 4, 0, 1, 2, 3), True),
        ("info, unknown asked", 6, info(name, 1, 999), True), ("info, counts do not add up", 6, info(name, 2, 3), True),
        ("info of nobody", 6, info(b"nobody", 1, 3), True),
    )
    for label, kind, data, words in steps:
        with Wire(address) as w:
            guarded(o, label, lambda: w.option(kind, data, words))
    with Wire(address) as w:
        o.note("greeting", w.greeting)
        for label, kind, data, words in steps:
            # nbd-server refuses a list with data and then lists all the same: two answers to one
            # question, which the gateway takes for what it is.
            if label == "list with data":
                continue
            if not guarded(o, label + ", all on one", lambda: w.option(kind, data, words)):
                break
        else:
            guarded(o, "go at the end", lambda: w.go(name))
    with Wire(address) as w:
        w.s.sendall(w.message(8) + w.message(6, info(name, 0)) + w.message(7, info(name, 0)))
        for kind in (8, 6, 7):
            guarded(o, f"sent at once, {kind}", lambda: w.replies(kind))
    for flags in (0, 1, 3):
        with Wire(address, flags) as w:
            w.s.sendall(w.message(1, name))
            if guarded(o, f"export name, flags {flags}", lambda: w.take(10 if flags & 2 else 134)):
                w.request(0, 0, 4096)
                guarded(o, f"then a read, flags {flags}", lambda: w.whole(4096))
    for flags in (4, 0x80000003):
        with Wire(address, flags) as w:
            o.note(f"client flags {flags}", w.closed()[0])
    with Wire(address) as w:
        w.s.sendall(w.message(1, b"nobody knows this export"))
        guarded(o, "export name of nobody", lambda: len(w.take(10)))
    with Wire(address) as w:
        guarded(o, "abort", lambda: w.option(2))
        o.note("after abort", w.closed()[0])
    with Wire(address) as w:
        w.s.sendall(b"I HAVE NO OPTION AT ALL")
        o.note("no option", w.closed())


def wire_requests(o, uri, base, work):
    host, port = base.split("//")[1].split(":")
    address, name = (host, int(port)), uri[len(base) + 1:].encode()
    for structured in (False, True):
        kind = "structured" if structured else "simple"

        def connected():
            w = Wire(address)
            if structured:
                w.option(8)
            w.go(name)
            return w

        with connected() as w:
            for n in range(32):
                w.request(0, n * 4096, 4096, cookie=42)
            # Any order is lawful, and with one cookie for all nobody can tell; compare as a set.
            guarded(o, f"one cookie for 32, {kind}", lambda: sorted(sum((w.whole(4096) for _ in range(32)), [])))
            w.request(1, 0, 8, cookie=42, data=b"8 bytes.")
            guarded(o, f"a write then, {kind}", lambda: w.whole())
        with connected() as w:
            for cookie in (0, 1, (1 << 64) - 1, 1 << 63):
                w.request(3, cookie=cookie)
                guarded(o, f"cookie {cookie}, {kind}", lambda: w.whole())
        for label, args in (
                ("an unknown command", {"kind": 99}), ("resize", {"kind": 8, "length": 4096}),
                ("unknown flags on a read", {"kind": 0, "length": 512, "flags": 0x8000}),
                ("every flag on a read", {"kind": 0, "length": 512, "flags": 0xFFFF}),
                ("unknown flags on a write", {"kind": 1, "length": 8, "flags": 0x4000, "data": b"8 bytes."}),
                ("payload flag on a read", {"kind": 0, "length": 512, "flags": 0x20}),
                ("a read of nothing", {"kind": 0}), ("a write of nothing", {"kind": 1}),
                ("a flush with a length", {"kind": 3, "offset": 4096, "length": 4096}),
                ("a status nobody negotiated", {"kind": 7, "length": 4096}),
                ("a read of 2 GiB", {"kind": 0, "length": 1 << 31}), ("a read of all there can be", {"kind": 0, "length": (1 << 32) - 1}),
                ("a read at the end of the world", {"kind": 0, "offset": (1 << 64) - 512, "length": 512}),
                ("a trim of all there can be", {"kind": 4, "length": (1 << 32) - 1}),
                ("a write over the end", {"kind": 1, "offset": 1 << 40, "length": 8, "data": b"8 bytes."})):
            with connected() as w:
                w.request(cookie=7, **args)
                alive = guarded(o, f"{label}, {kind}", lambda: w.whole(args.get("length", 0) if args["kind"] == 0 else 0))
                if alive:
                    w.request(0, 0, 512, cookie=8)
                    guarded(o, f"after {label}, {kind}", lambda: w.whole(512))
        with connected() as w:
            w.request(0, 0, 512, magic=0x12345678)
            # qemu-nbd still sends an error reply, to a request that nobody can tell the end of.
            o.note(f"a wrong magic, {kind}", w.closed()[0])
        with connected() as w:
            w.request(2)
            o.note(f"disconnect, {kind}", w.closed())
        with connected() as w:
            w.request(1, 0, 1 << 20, data=b"half of it")
            w.s.shutdown(socket.SHUT_WR)
            o.note(f"half a write and silence, {kind}", w.closed()[0])
