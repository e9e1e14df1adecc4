# SPDX-License-Identifier: Apache-2.0
"""A host and a target by hand at the two ends of one gateway, brought into a state of the protocol, with a ledger of what each
sent and got; and a bystander who must notice nothing. For tests of faults: a case is made, entered, struck and balanced."""
import collections
import concurrent.futures
import contextlib
import queue
import random
import socket
import struct
import threading
import time
import unittest

import rawnbd
import weirtest
from rawnbd import READ, WRITE, Host, receive, request
from weirtest import wait_until

KIB, MIB = 1 << 10, 1 << 20
LIVES = "lives"
SIZE = 8192
HALF = SIZE // 2
DATA = random.Random(1).randbytes(SIZE)
GARBAGE = b"\xde\xad\xbe\xef" * 32


def config(target, gateway="", limits=""):
    return (f"[gateway]\nmax-hold = 600s\n{gateway}\n[listener l]\naddress = 127.0.0.1:0\ntarget = t\n"
            f"[target t]\nuri = {target}\n[limit held]\nvolume = held-*\nper = stream\niops-write = 1\n"
            f"[limit stuck]\nvolume = stuck-*\nper = stream\nbandwidth-write = 64\n{limits}")


class Store:
    """A target by hand. Its first connection serves the bystander out of memory; later ones are handed to the cases."""
    size, extended, structured = 1 << 30, False, False

    def __init__(self, address="127.0.0.1"):
        self.listener = socket.socket()
        self.listener.bind((address, 0))
        self.listener.listen(128)
        self.port = self.listener.getsockname()[1]
        self.uri = f"nbd://{address}:{self.port}"
        self.accepted = queue.Queue()
        self.memory = bytearray(MIB)
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self):
        self.listener.close()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self.listener.accept()
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.settimeout(rawnbd.PATIENCE)
                self.accepted.put(sock)

    def take(self):
        return self.accepted.get(timeout=rawnbd.PATIENCE)

    def serve(self, sock):
        sock.settimeout(None)
        with contextlib.suppress(EOFError, OSError):
            rawnbd.Session(self, sock).handshake()
            while True:
                _, _, kind, cookie, offset, length = struct.unpack(">IHHQQI", receive(sock, 28))
                if kind == WRITE:
                    self.memory[offset:offset + length] = receive(sock, length)
                data = bytes(self.memory[offset:offset + length]) if kind == READ else b""
                sock.sendall(struct.pack(">IIQ", rawnbd.SIMPLE_MAGIC, 0, cookie) + data)


class Bystander(threading.Thread):
    """Writes, reads back and compares for as long as it is let."""

    def __init__(self, gateway, store):
        super().__init__(daemon=True)
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            serving = pool.submit(store.take)
            self.host = Host(gateway.address, handshake=False)
            threading.Thread(target=store.serve, args=(serving.result(),), daemon=True).start()
        self.host.greet()
        self.host.go(b"bystander")
        self.rounds, self.error, self.ending = 0, None, False
        self.start()

    def run(self):
        rng = random.Random(2)
        try:
            while not self.ending:
                data, offset = rng.randbytes(rng.choice([512, 4096, 16384])), rng.randrange(0, MIB - 16384)
                self.host.send(WRITE, 2 * self.rounds, offset, len(data), payload=data)
                self.host.send(READ, 2 * self.rounds + 1, offset, len(data))
                if self.host.reply() != (2 * self.rounds, 0, b""):
                    raise AssertionError("a write answered wrongly")
                if self.host.reply(len(data)) != (2 * self.rounds + 1, 0, data):
                    raise AssertionError("read back something else than was written")
                self.rounds += 1
                time.sleep(0.002)
        except (AssertionError, EOFError, OSError) as e:
            self.error = e

    def check(self):
        """It has done at least one whole round since this was called, and none failed."""
        before = self.rounds
        wait_until(lambda: self.error or self.rounds > before + 1, "the bystander's I/O", step=0.002)
        if self.error:
            raise AssertionError(f"the bystander was hurt after {self.rounds} rounds: {self.error!r}")


class Case:
    """Both ends of one connection, and the ledger of what they sent and got."""

    def __init__(self, gateway, store, export, state):
        self.gateway, self.state = gateway, state
        self.sent, self.got = [], []        # requests: of the host, at the target
        self.answers, self.replies = [], [] # replies: of the target, at the host
        self.reads = {}                     # cookie of the host: length
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            accepting = pool.submit(store.take)
            self.host = Host(gateway.address, handshake=False)
            self.target = accepting.result()
            self.export = export
            self.rest = self.target_rest = b""
            self.session = rawnbd.Session(store, self.target)
            if state.handshake:
                shaking = pool.submit(self.session.handshake)
                self.host.greet()
                self.host.go(export)
                shaking.result()
        self.host.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def close(self):
        self.host.sock.close()
        self.target.close()

    def finish(self):
        """Do what is left to do, whole and verified, and one thing more."""
        if self.rest or self.target_rest or self.state in (Negotiation, Held):
            self.state.finish(self)
            self.rest = self.target_rest = b""
        if self.state is not Held:
            exchange(self)

    # --- the host ---
    def request(self, kind, cookie, offset, length, payload=b""):
        """The bytes of a request, which is in the ledger from now on."""
        self.sent.append((kind, offset, length, payload))
        if kind == READ:
            self.reads.setdefault(cookie, []).append(length)
        return request(kind, cookie, offset, length, payload=payload)

    def push(self, data):
        self.host.sock.sendall(data)

    def read_reply(self):
        magic, error, cookie = struct.unpack(">IIQ", receive(self.host.sock, 16))
        assert magic == rawnbd.SIMPLE_MAGIC, hex(magic)
        reads = self.reads.get(cookie)
        data = receive(self.host.sock, reads.pop(0)) if error == 0 and reads else b""
        self.replies.append((cookie, error, data))
        return cookie, error, data

    # --- the target ---
    def take(self):
        """The next request at the target, as (kind, cookie, offset, length)."""
        magic, flags, kind, cookie, offset, length = struct.unpack(">IHHQQI", receive(self.target, 28))
        assert (magic, flags) == (rawnbd.REQUEST_MAGIC, 0), (hex(magic), flags)
        payload = receive(self.target, length) if kind == WRITE and length < 1 << 31 else b""
        self.got.append((kind, offset, length, payload))
        return kind, cookie, offset, length

    def answer(self, cookie, data=b"", error=0):
        self.answers.append((error, data))
        return struct.pack(">IIQ", rawnbd.SIMPLE_MAGIC, error, cookie) + data

    # --- the ledger ---
    def drain(self):
        """All that still comes out of the gateway at either end, cut into whole requests and replies."""
        with contextlib.suppress(EOFError, OSError, struct.error, AssertionError):
            while True:
                self.read_reply()
        with contextlib.suppress(EOFError, OSError, struct.error, AssertionError):
            while True:
                self.take()

    def balance(self):
        """Nothing at one end that the other did not send, and nothing twice."""
        left = collections.Counter(self.sent)
        left.subtract(self.got)
        assert all(n >= 0 for n in left.values()), f"the target got what was not sent, or twice: {left}"
        left = collections.Counter(self.answers)
        left.subtract((error, data) for _, error, data in self.replies)
        assert all(n >= 0 for n in left.values()), f"the host got what the target did not say, or twice: {left}"


# --- states: how a case comes into one, and what is left to do from there ---


class Negotiation:
    """In the middle of an option."""
    handshake = False

    @staticmethod
    def enter(c):
        c.target.sendall(rawnbd.NBDMAGIC + rawnbd.IHAVEOPT + struct.pack(">H", 3))
        c.host.greet()
        receive(c.target, 4)
        go = rawnbd.IHAVEOPT + struct.pack(">III", rawnbd.OPT_GO, 6 + len(c.export), len(c.export)) + c.export + b"\0\0"
        c.push(go[:18])
        c.rest = go[18:]

    @classmethod
    def answer(cls, c, send=socket.socket.sendall):
        """The target opens the export that it has been asked for."""
        receive(c.target, 16 + 6 + len(c.export))
        answer = cls.opened(c)
        send(c.target, answer)
        assert receive(c.host.sock, len(answer)) == answer

    @staticmethod
    def opened(c):
        info = struct.pack(">HQH", 0, Store.size, 0x6d)
        return (struct.pack(">QIII", rawnbd.REP_MAGIC, rawnbd.OPT_GO, rawnbd.REP_INFO, len(info)) + info +
                struct.pack(">QIII", rawnbd.REP_MAGIC, rawnbd.OPT_GO, rawnbd.REP_ACK, 0))

    @classmethod
    def finish(cls, c):
        if c.rest:
            c.push(c.rest)
            c.rest = b""
            cls.answer(c)
        exchange(c)


class Idle:
    """Nothing under way."""
    handshake = True

    @staticmethod
    def enter(c):
        exchange(c)
        c.rest = b""



class Header:
    """In the middle of a request's header."""
    handshake = True

    @staticmethod
    def enter(c):
        whole = c.request(WRITE, 0xA1, 4096, SIZE, DATA)
        c.push(whole[:14])
        c.rest = whole[14:]

    @staticmethod
    def finish(c):
        c.push(c.rest)
        answer_write(c)


class Payload:
    """In the middle of a write's payload, which the target has been getting already."""
    handshake = True

    @staticmethod
    def enter(c):
        whole = c.request(WRITE, 0xA2, 4096, SIZE, DATA)
        c.push(whole[:28 + HALF])
        c.rest = whole[28 + HALF:]
        # The start is not taken off the target's socket, only seen there: take() will read the whole.
        wait_until(lambda: len(c.target.recv(28 + HALF, socket.MSG_PEEK)) == 28 + HALF, "half a write", step=0.002)

    finish = Header.finish


class Reply:
    """In the middle of a reply's data, which the host has been getting already."""
    handshake = True

    @staticmethod
    def enter(c):
        c.push(c.request(READ, 0xA3, 0, SIZE))
        _, cookie, _, _ = c.take()
        whole = c.answer(cookie, DATA)
        c.target.sendall(whole[:16 + HALF])
        c.target_rest = whole[16 + HALF:]
        wait_until(lambda: len(c.host.sock.recv(16 + HALF, socket.MSG_PEEK)) == 16 + HALF, "half a reply", step=0.002)

    @staticmethod
    def finish(c):
        c.target.sendall(c.target_rest)
        assert c.read_reply() == (0xA3, 0, DATA)


class Held:
    """A write is held behind one that went: for a second where it shall go in the end, on a volume called held-*; for minutes,
    so that nothing goes while the fault is looked at however slow the machine, on one called stuck-*."""
    handshake = True

    @staticmethod
    def enter(c):
        for cookie, offset in ((0xA4, 0), (0xA5, SIZE)):
            c.push(c.request(WRITE, cookie, offset, SIZE, DATA))
        _, cookie, _, _ = c.take()
        c.target.sendall(c.answer(cookie))
        assert c.read_reply()[0] == 0xA4

    @staticmethod
    def finish(c):
        answer_write(c)


STATES = {"negotiation": Negotiation, "idle": Idle, "header": Header, "payload": Payload, "reply": Reply, "held": Held}


def answer_write(c):
    kind, cookie, _, _ = c.take()
    assert kind == WRITE
    c.target.sendall(c.answer(cookie))
    assert c.read_reply()[1:] == (0, b"")


def exchange(c, cookie=0xB0):
    """A write and a read of its data."""
    c.push(c.request(WRITE, cookie, 0, SIZE, DATA))
    answer_write(c)
    c.push(c.request(READ, cookie + 1, 0, SIZE))
    _, wire, _, _ = c.take()
    c.target.sendall(c.answer(wire, DATA))
    assert c.read_reply() == (cookie + 1, 0, DATA)


# --- faults ---


class FaultCase(unittest.TestCase):
    def world_with(self, text=config, **kw):
        """A world of its own: (gateway, store, bystander)."""
        world = weirtest.World()
        world.__enter__()
        self.addCleanup(lambda: world.__exit__(None, None, None))
        store = Store()
        self.addCleanup(store.close)
        gateway = world.gateway(config=text(store.uri, **kw))
        return gateway, store, Bystander(gateway, store)

    @staticmethod
    def connections(gateway):
        return gateway.local(get="status")["status"]["connections"]

    def wait_closed(self, gateway, before, expected):
        """Exactly one connection has closed since, for one of the reasons in @expected."""
        def closed():
            after = self.connections(gateway)["closed"]
            return {k: n - before[k] for k, n in after.items() if n != before[k]}
        wait_until(closed, f"a connection closed as {expected}", step=0.005)
        self.assertEqual(sum(closed().values()), 1, closed())
        self.assertIn(next(iter(closed())), expected)
