#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes the seeds of the NBD fuzz targets: well-formed messages of every kind, and a few at the edges of the lawful.

Run it in this folder after changing it, and commit what it wrote. Layouts: the NBD protocol document.
"""
import os
import struct

HERE = os.path.dirname(os.path.abspath(__file__))
IHAVEOPT = b"IHAVEOPT"
REPLY = struct.pack(">Q", 0x3E889045565A9)
EXPORT_NAME, ABORT, LIST, STARTTLS, INFO, GO, STRUCTURED, LIST_META, SET_META, EXTENDED = 1, 2, 3, 5, 6, 7, 8, 9, 10, 11
ACK, SERVER, REP_INFO, META = 1, 2, 3, 4
ERROR = 0x80000000


def seed(target, name, data):
    folder = os.path.join(HERE, target)
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, name), "wb") as f:
        f.write(data)


def request(kind, length=0, flags=0, offset=4096, cookie=0x1122334455667788, data=b""):
    return struct.pack(">IHHQQI", 0x25609513, flags, kind, cookie, offset, length) + data


def request_ext(kind, length=0, flags=0, offset=4096, cookie=0x1122334455667788, data=b""):
    return struct.pack(">IHHQQQ", 0x21E41C71, flags, kind, cookie, offset, length) + data


def simple(error=0, cookie=7, data=b""):
    return struct.pack(">IIQ", 0x67446698, error, cookie) + data


def chunk(kind, data=b"", flags=1, cookie=7):
    return struct.pack(">IHHQI", 0x668E33EF, flags, kind, cookie, len(data)) + data


def chunk_ext(kind, data=b"", flags=1, cookie=7, offset=4096):
    return struct.pack(">IHHQQQ", 0x6E8A278C, flags, kind, cookie, offset, len(data)) + data


def option(kind, data=b""):
    return IHAVEOPT + struct.pack(">II", kind, len(data)) + data


def counted(text):
    return struct.pack(">I", len(text)) + text


def info(kind, name, *infos):
    return option(kind, counted(name) + struct.pack(f">H{len(infos)}H", len(infos), *infos))


def meta(kind, name, *queries):
    return option(kind, counted(name) + struct.pack(">I", len(queries)) + b"".join(map(counted, queries)))


def reply(opt, kind, data=b""):
    return REPLY + struct.pack(">III", opt, kind, len(data)) + data


def export_info(opt, size=1 << 30, flags=0x5ED):
    return reply(opt, REP_INFO, struct.pack(">HQH", 0, size, flags))


def block_info(opt):
    return reply(opt, REP_INFO, struct.pack(">HIII", 3, 1, 4096, 1 << 25))


def name_info(opt, name):
    return reply(opt, REP_INFO, struct.pack(">H", 1) + name)


def requests():
    every = [request(k, 512) for k in (0, 3, 4, 5, 6, 7, 8, 99)]
    seed("nbd_request", "every-command", b"\0" + b"".join(every) + request(1, 8, 1, data=b"8 bytes.") + request(2))
    seed("nbd_request", "zero-lengths", b"\0" + b"".join(request(k) for k in range(9)))
    seed("nbd_request", "largest", b"\0" + request(0, 0xFFFFFFFF, 0xFFFF, (1 << 64) - 1, (1 << 64) - 1))
    seed("nbd_request", "write-cut-short", b"\0" + request(1, 0xFFFFFFFF, data=b"only this"))
    seed("nbd_request", "wrong-magic", b"\0" + request(0, 1) + b"\x25\x60\x95\x14" + b"\0" * 24)
    seed("nbd_request", "extended",
         b"\1" + request_ext(1, 4, 0x20, data=b"data") + request_ext(6, 1 << 40) + request_ext(7, 12, 0x20, data=b"x" * 12)
         + request_ext(0, (1 << 64) - 1))


def replies():
    seed("nbd_reply", "simple", b"\0" + simple() + simple(5) + simple(75))
    hole = struct.pack(">QI", 0, 4096)
    status = struct.pack(">IIIII", 1, 4096, 0, 4096, 3)
    error = struct.pack(">IH", 5, 4) + b"oops"
    seed("nbd_reply", "structured",
         b"\1" + simple() + chunk(1, b"\0" * 8 + b"data", 0) + chunk(2, hole, 0) + chunk(5, status, 0) + chunk(0)
         + chunk(0x8001, error) + chunk(0x8002, error + b"\0" * 8) + chunk(99, b"?") + chunk(0xFFFF, error))
    status64 = struct.pack(">IIQQ", 1, 1, 1 << 40, 3)
    seed("nbd_reply", "extended", b"\2" + chunk_ext(1, b"\0" * 9, 0) + chunk_ext(6, status64) + chunk_ext(0) + chunk_ext(0x8001, error))
    seed("nbd_reply", "hole-of-a-wrong-length", b"\1" + chunk(2, hole + b"\0"))
    seed("nbd_reply", "structured-in-simple-mode", b"\0" + chunk(0))
    seed("nbd_reply", "longest", b"\1" + struct.pack(">IHHQI", 0x668E33EF, 0, 1, 7, 0xFFFFFFFF))
    seed("nbd_reply", "extended-too-long", b"\2" + struct.pack(">IHHQQQ", 0x6E8A278C, 0, 1, 7, 0, 1 << 32))


def host_options():
    return (option(STARTTLS) + option(STRUCTURED) + option(EXTENDED) + option(LIST) + option(4) + info(INFO, b"alpha", 1, 2, 3)
            + meta(LIST_META, b"alpha") + meta(SET_META, b"alpha", b"base:allocation", b"qemu:") + info(GO, b"alpha", 3))


def options():
    greeting = b"NBDMAGIC" + IHAVEOPT + b"\0\3"
    seed("nbd_option", "every-option", b"\0" + b"\0\0\0\3" + host_options() + option(ABORT) + option(EXPORT_NAME, b"disk"))
    seed("nbd_option", "name-overruns", b"\0" + option(GO, struct.pack(">I", 99) + b"disk\0\0"))
    seed("nbd_option", "longest-option", b"\0" + IHAVEOPT + struct.pack(">II", GO, 0xFFFFFFFF))
    seed("nbd_option", "query-overruns", b"\0" + option(SET_META, counted(b"") + struct.pack(">II", 1, 0xFFFFFFFF)))
    every = (reply(LIST, SERVER, counted(b"disk") + b"described") + export_info(GO) + block_info(GO) + name_info(GO, b"disk")
             + reply(GO, REP_INFO, b"\0\2about") + reply(SET_META, META, b"\0\0\0\5base:allocation") + reply(GO, ACK))
    errors = b"".join(reply(GO, ERROR + n, b"words") for n in range(1, 12))
    seed("nbd_option", "every-reply", b"\1" + greeting + every + errors)
    seed("nbd_option", "old-style", b"\1" + b"NBDMAGIC" + struct.pack(">Q", 0x00420281861253) + b"\0" * 136)


def negotiations():
    flags = b"\0\0\0\3"
    for stage in range(4):
        for piece in (0, 1, 7):
            seed("negotiate_host", f"every-option-{stage}-{piece}", bytes([stage, piece]) + flags + host_options())
    seed("negotiate_host", "export-name", b"\0\0" + b"\0\0\0\0" + option(EXPORT_NAME, b"disk"))
    seed("negotiate_host", "export-name-of-a-volume", b"\1\0" + flags + option(EXPORT_NAME, b"beta"))
    seed("negotiate_host", "export-name-not-offered", b"\1\0" + flags + option(EXPORT_NAME, b"lun-1"))
    in_the_clear, starttls = option(STRUCTURED) + info(INFO, b""), option(STARTTLS)
    for mode in (1, 2):
        for piece in (0, 7, 16):
            seed("negotiate_host", f"tls-{mode}-{piece}",
                 bytes([mode << 2, piece]) + flags + in_the_clear + starttls + in_the_clear + info(GO, b""))
    seed("negotiate_host", "tls-name-in-the-clear", b"\x08\0" + flags + option(EXPORT_NAME, b"disk"))
    seed("negotiate_host", "tls-with-data", b"\x08\7" + flags + option(STARTTLS, b"x") + option(STARTTLS) + info(GO, b""))
    seed("negotiate_host", "abort", b"\0\0" + flags + option(ABORT, b"x"))
    seed("negotiate_host", "wrong-flags", b"\0\0" + b"\0\0\0\7")
    seed("negotiate_host", "too-long", b"\0\0" + flags + IHAVEOPT + struct.pack(">II", GO, 0x10001))
    seed("negotiate_host", "name-overruns", b"\0\0" + flags + option(GO, b"\0\0\0\x7fdisk") + info(GO, b""))
    greeting = b"NBDMAGIC" + IHAVEOPT + b"\0\3"
    go = name_info(GO, b"lun-1") + export_info(GO) + block_info(GO) + reply(GO, ACK)
    look = go.replace(struct.pack(">I", GO), struct.pack(">I", INFO))
    listing = reply(LIST, SERVER, counted(b"lun-2") + b"two") + reply(LIST, SERVER, counted(b"other")) + reply(LIST, ACK)
    context = reply(SET_META, META, b"\0\0\0\1base:allocation") + reply(SET_META, ACK)
    contexts = context.replace(struct.pack(">I", SET_META), struct.pack(">I", LIST_META))
    reply_to_name = struct.pack(">QH", 1 << 20, 1) + b"\0" * 124
    answers = [
        go, reply_to_name, listing + look + go, reply(STRUCTURED, ACK) + context + go,
        reply(EXTENDED, ACK) + contexts + look + go, listing + reply(LIST, ERROR + 2, b"off"),
        look + reply(GO, ERROR + 6, b"unknown") + reply(GO, ERROR + 7) + reply_to_name,
        reply(STRUCTURED, ERROR + 1) + reply(EXTENDED, ERROR + 1) + go,
    ]
    for n, answer in enumerate(answers):
        seed("negotiate_target", f"script-{n}", bytes([n << 2, 0]) + greeting + answer)
        seed("negotiate_target", f"script-{n}-volumes", bytes([n << 2 | 1, 3]) + greeting + answer)
    seed("negotiate_target", "tls", b"\x20\x26" + greeting + reply(STARTTLS, ACK) + go)
    seed("negotiate_target", "tls-and-more", b"\x20\0" + greeting + reply(STARTTLS, ACK) + go)
    seed("negotiate_target", "tls-refused", b"\x20\0" + greeting + reply(STARTTLS, ERROR + 1, b"no"))
    seed("negotiate_target", "old-style", b"\0\0NBDMAGIC" + struct.pack(">Q", 0x00420281861253) + b"\0" * 136)
    seed("negotiate_target", "wrong-option", b"\0\0" + greeting + reply(INFO, ACK))
    seed("negotiate_target", "too-long", b"\0\0" + greeting + REPLY + struct.pack(">III", GO, ERROR + 1, 0x10001))
    seed("negotiate_target", "out-of-turn", b"\x08\0" + greeting + listing + look + go + b"x")


if __name__ == "__main__":
    requests()
    replies()
    options()
    negotiations()
