# SPDX-License-Identifier: Apache-2.0
"""Both ends of NBD by hand, for what no well-behaved client or server does: a host that sends exactly the bytes a test says,
and a recording target that answers when and how a test says. Fixed newstyle; simple, structured or extended headers
("The NBD protocol", doc/proto.md of the NetworkBlockDevice project)."""

import contextlib
import socket
import struct
import threading

PATIENCE = 30
NBDMAGIC, IHAVEOPT = b"NBDMAGIC", b"IHAVEOPT"
OPT_EXPORT_NAME, OPT_ABORT, OPT_LIST, OPT_INFO, OPT_GO, OPT_STRUCTURED_REPLY = 1, 2, 3, 6, 7, 8
OPT_EXTENDED_HEADERS = 11
REP_MAGIC, REP_ACK, REP_INFO, REP_ERR_UNSUP = 0x3e889045565a9, 1, 3, 0x80000001
READ, WRITE, DISC, FLUSH, TRIM, BLOCK_STATUS = 0, 1, 2, 3, 4, 7
FLAG_PAYLOAD_LEN = 0x20
REQUEST_MAGIC, SIMPLE_MAGIC, CHUNK_MAGIC = 0x25609513, 0x67446698, 0x668e33ef
REQUEST_EXT_MAGIC, CHUNK_EXT_MAGIC = 0x21e41c71, 0x6e8a278c
FLAG_DONE = 1
EINVAL = 22


def receive(sock, n):
    data = bytearray()
    while len(data) < n:
        more = sock.recv(min(n - len(data), 1 << 20))
        if not more:
            raise EOFError(f"closed after {len(data)} of {n} bytes")
        data += more
    return bytes(data)


def request(kind, cookie, offset=0, length=0, flags=0, payload=b""):
    return struct.pack(">IHHQQI", REQUEST_MAGIC, flags, kind, cookie, offset, length) + payload


def request_extended(kind, cookie, offset=0, length=0, flags=0, payload=b""):
    return struct.pack(">IHHQQQ", REQUEST_EXT_MAGIC, flags, kind, cookie, offset, length) + payload


class Host:
    """A host connected through the gateway. With handshake=False it is only a socket. `source`: the address it comes from."""

    def __init__(self, address, export=b"", structured=False, extended=False, handshake=True, receive_buffer=None,
                 source=None):
        if address.startswith("unix:"):
            self.sock = socket.socket(socket.AF_UNIX)
            target = address[5:]
        else:
            name, port = address.rsplit(":", 1)
            self.sock = socket.socket(socket.AF_INET6 if name.startswith("[") else socket.AF_INET)
            target = (name.strip("[]"), int(port))
        self.sock.settimeout(PATIENCE)
        if receive_buffer:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        if source:
            self.sock.bind((source, 0))
        self.sock.connect(target)
        if handshake:
            self.greet()
            if structured:
                self.option(OPT_STRUCTURED_REPLY)
            if extended and self.option(OPT_EXTENDED_HEADERS)[-1][0] != REP_ACK:
                raise ConnectionError("no extended headers")
            self.go(export)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.sock.close()

    def greet(self):
        assert receive(self.sock, 16) == NBDMAGIC + IHAVEOPT
        self.flags = struct.unpack(">H", receive(self.sock, 2))[0]
        self.sock.sendall(struct.pack(">I", 3))

    def option(self, option, data=b""):
        """Send an option; returns (reply type, payload) up to the ACK or the error."""
        self.sock.sendall(IHAVEOPT + struct.pack(">II", option, len(data)) + data)
        replies = []
        while True:
            magic, _, kind, size = struct.unpack(">QIII", receive(self.sock, 20))
            assert magic == REP_MAGIC, hex(magic)
            replies.append((kind, receive(self.sock, size)))
            if kind == REP_ACK or kind & 0x80000000:
                return replies

    def go(self, export=b""):
        replies = self.option(OPT_GO, struct.pack(">I", len(export)) + export + struct.pack(">H", 0))
        if replies[-1][0] != REP_ACK:
            raise ConnectionError(f"GO refused: {replies[-1]}")

    def send(self, *args, **kw):
        self.sock.sendall(request(*args, **kw))

    def reply(self, length=0):
        """(cookie, error, data) of a simple reply; `length` bytes follow when there is no error."""
        magic, error, cookie = struct.unpack(">IIQ", receive(self.sock, 16))
        assert magic == SIMPLE_MAGIC, hex(magic)
        return cookie, error, receive(self.sock, length) if error == 0 and length else b""

    def closed(self):
        """Wait until the gateway has closed; what came before that is returned."""
        data = b""
        with contextlib.suppress(ConnectionError):
            while True:
                more = self.sock.recv(1 << 16)
                if not more:
                    break
                data += more
        return data

    def reset(self):
        """Vanish with an RST instead of a FIN."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


class Request:
    def __init__(self, session, kind, flags, cookie, offset, length, payload):
        self.session, self.kind, self.flags, self.cookie = session, kind, flags, cookie
        self.offset, self.length, self.payload = offset, length, payload

    def __repr__(self):
        return f"<{self.kind} {self.offset}+{self.length}>"

    def answer(self, error=0, data=None, cookie=None):
        if data is None:
            data = bytes(self.length) if self.kind == READ and error == 0 else b""
        self.session.send(struct.pack(">IIQ", SIMPLE_MAGIC, error, self.cookie if cookie is None else cookie) + data)


class Session:
    """One connection of the gateway to the target."""

    def __init__(self, target, sock):
        self.target, self.sock = target, sock
        self.lock = threading.Lock()
        self.closed = self.extended = False
        self.paused = threading.Event()
        self.paused.set()

    def send(self, data):
        with self.lock, contextlib.suppress(OSError):
            self.sock.sendall(data)

    def handshake(self):
        s = self.sock
        s.sendall(NBDMAGIC + IHAVEOPT + struct.pack(">H", 3))
        receive(s, 4)
        while True:
            magic, option, size = struct.unpack(">8sII", receive(s, 16))
            assert magic == IHAVEOPT
            receive(s, size)
            if option == OPT_GO:
                info = struct.pack(">HQH", 0, self.target.size, 0x6d)
                s.sendall(struct.pack(">QIII", REP_MAGIC, option, REP_INFO, len(info)) + info)
                s.sendall(struct.pack(">QIII", REP_MAGIC, option, REP_ACK, 0))
                return
            if option == OPT_EXTENDED_HEADERS and self.target.extended:
                self.extended = True
                s.sendall(struct.pack(">QIII", REP_MAGIC, option, REP_ACK, 0))
            elif option == OPT_STRUCTURED_REPLY and self.target.structured:
                s.sendall(struct.pack(">QIII", REP_MAGIC, option, REP_ACK, 0))
            else:
                s.sendall(struct.pack(">QIII", REP_MAGIC, option, REP_ERR_UNSUP, 0))
            if option == OPT_ABORT:
                raise EOFError

    def header(self):
        form, size, magic = (">IHHQQQ", 32, REQUEST_EXT_MAGIC) if self.extended else (">IHHQQI", 28, REQUEST_MAGIC)
        fields = struct.unpack(form, receive(self.sock, size))
        assert fields[0] == magic, hex(fields[0])
        return fields

    def serve(self):
        try:
            self.handshake()
            while True:
                self.paused.wait()
                magic, flags, kind, cookie, offset, length = self.header()
                has_payload = kind == WRITE or (self.extended and flags & FLAG_PAYLOAD_LEN)
                payload = receive(self.sock, length) if has_payload else b""
                r = Request(self, kind, flags, cookie, offset, length, payload)
                self.target.record(r)
                if kind == DISC:
                    return
                if self.target.automatic:
                    r.answer()
        except (EOFError, OSError):
            pass
        finally:
            self.closed = True
            self.sock.close()
            self.target.notice()


class Target:
    """A recording target: every request lands in `requests` in order of arrival. automatic=True answers at once."""

    def __init__(self, automatic=True, structured=False, extended=False, size=1 << 30):
        self.automatic, self.structured, self.extended, self.size = automatic, structured, extended, size
        self.requests, self.sessions = [], []
        self.change = threading.Condition()
        self.listener = socket.socket()
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.listener.bind(("127.0.0.1", 0))
        self.listener.listen(64)
        self.port = self.listener.getsockname()[1]
        self.uri = f"nbd://127.0.0.1:{self.port}"
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.listener.close()
        for s in self.sessions:
            with contextlib.suppress(OSError):
                s.sock.shutdown(socket.SHUT_RDWR)

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self.listener.accept()
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                session = Session(self, sock)
                with self.change:
                    self.sessions.append(session)
                    self.change.notify_all()
                threading.Thread(target=session.serve, daemon=True).start()

    def record(self, r):
        with self.change:
            self.requests.append(r)
            self.change.notify_all()

    def notice(self):
        with self.change:
            self.change.notify_all()

    def wait(self, check, what):
        with self.change:
            if not self.change.wait_for(check, PATIENCE):
                raise AssertionError(f"the target waited in vain for {what}; it has {self.requests[-20:]}")

    def wait_requests(self, n):
        self.wait(lambda: len(self.requests) >= n, f"{n} requests")
        return self.requests[:]

    def wait_closed(self, n=1):
        self.wait(lambda: sum(s.closed for s in self.sessions) >= n, f"{n} closed connections")
