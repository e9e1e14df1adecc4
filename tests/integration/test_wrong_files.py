#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Wrong files at start: neither daemon starts, and each says file, line, key, what it found and what it expected.

The keys are those of packaging/*.conf, so a key that is added there is held to the same at once.
"""

import os
import re
import subprocess
import sys
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import tlskeys  # noqa: E402
import weirtest  # noqa: E402

PACKAGING = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "packaging")
PROGRAMS = {"gateway": weirtest.GATEWAY, "server": weirtest.SERVER}
WRONG = 2  # the exit status for settings that are wrong

# What each kind of section needs beside the key that is looked at.
NEEDED = {
    "gateway": "",
    "server": "",
    "listener": "address = 127.0.0.1:0\ntarget = t\n",
    "target": "uri = nbd://127.0.0.1:1\n",
    "volume": "target = t\n",
    "limit": "iops = 10\n",
}
REST = {"gateway": "[listener l]\naddress = 127.0.0.1:0\ntarget = t\n[target t]\nuri = nbd://127.0.0.1:1\n", "server": ""}
# Patterns match whatever is written; an export's name is any text of at most 255 bytes (the gateway's hosts' names are letters).
ANY_TEXT = {("limit", k) for k in ("host", "volume", "tenant", "target")} | {("volume", "export"), ("target", "tls-psk-identity"),
                                                                            ("resource", "tls-psk-identity")}
# Files that are named are read at start where they must be there, and else by their first use.
NONSENSE = ("?! no such", "-1")


def documented(daemon):
    """(section, key, example) of every key in the packaged file, shown as a comment or not."""
    section, found = None, []
    with open(os.path.join(PACKAGING, daemon + ".conf")) as f:
        for line in f:
            if m := re.fullmatch(r"#?\[(\w+)(?: \w+)?\]\n", line):
                section = m[1]
            elif (m := re.fullmatch(r"#?([a-z0-9-]+) = (.+)\n", line)) and section:
                found.append((section, m[1], m[2]))
    return found


class Wrong(unittest.TestCase):
    def setUp(self):
        self.world = weirtest.World()
        self.addCleanup(self.world.__exit__, None, None, None)

    def check(self, daemon, text, start=False, mode="w"):
        """(status, what was said) of the daemon with a file of @text; with @start not only of its check."""
        path = self.world.path(daemon + ".conf")
        with open(path, mode) as f:
            f.write(text)
        argv = [PROGRAMS[daemon]]
        argv += ["--config", path] + ([] if start else ["--check-config"])
        r = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=weirtest.PATIENCE,
                           stdin=subprocess.DEVNULL)
        return r.returncode, r.stdout.decode(errors="replace"), path

    def text_with(self, daemon, section, key, value):
        """A whole file in which only this key may be wrong, and the line that it stands in."""
        head = f"[{section}]" if section in ("gateway", "control", "http", "resource", "history") or \
            section == "server" else f"[{section} x]"
        needed = "" if daemon == "server" else NEEDED[section]
        needed = "".join(line + "\n" for line in needed.splitlines() if not line.startswith(key + " "))
        text = REST[daemon] + head + "\n" + needed
        return text + f"{key} = {value}\n", text.count("\n") + 1

    def each(self, daemon):
        keys = documented(daemon)
        self.assertGreater(len(keys), 15)
        for section, key, _ in dict.fromkeys((s, k, None) for s, k, _ in keys):
            if (section, key) in ANY_TEXT:
                continue
            said = []
            for value in NONSENSE:
                text, line = self.text_with(daemon, section, key, value)
                status, out, path = self.check(daemon, text)
                if status == 0:
                    continue
                with self.subTest(daemon=daemon, section=section, key=key, value=value):
                    self.assertEqual(status, WRONG, out)
                    self.assertRegex(out, rf"(?m){re.escape(path)}:{line}: \[{section}( x)?\] {key}: ", out)
                    self.assertRegex(out, rf'found "{re.escape(value)}", expected .{{4}}')
                said.append(value)
            with self.subTest(daemon=daemon, section=section, key=key):
                self.assertIn(NONSENSE[0], said, "accepted what makes no sense")
                text, line = self.text_with(daemon, section, key, "")
                status, out, path = self.check(daemon, text)
                self.assertEqual(status, WRONG)
                self.assertIn(f"{path}:{line}: no value", out)
                self.assertIn(f'found "{key}"', out)
        return keys

    def test_each_key_of_the_gateways_file_refuses_nonsense_by_file_line_key_found_and_expected(self):
        self.each("gateway")

    def test_each_key_of_the_servers_file_refuses_nonsense_by_file_line_key_found_and_expected(self):
        self.each("server")

    def test_what_no_file_of_this_form_holds(self):
        for daemon, section in (("gateway", "[gateway]"), ("server", "[server]")):
            for text, line, words in (
                ("log-level = info\n", 1, "section"),
                (f"{section}\nno-such-key = 1\n", 2, 'unknown key "no-such-key"; known here: '),
                (f"{section}\nlog-level\n", 2, "expected"),
                ("[nothing-of-ours]\nx = 1\n", None, "[nothing-of-ours]"),
                (f"{section}\nlog-level = info\nlog-level = info\n", 3, "once"),
                (f"{section}\nlog-level = info\n[unended\n", 3, 'a section ends in "]"'),
                (f"{section}\nlog-level = in\0fo\n", 2, ""),
                (f"{section}\nlog-level = inf\xff\n", 2, ""),
                (f"{section}\n= 1\n", 2, ""),
                (f"{section}\nlog-level = {'x' * 100000}\n", 2, ""),
            ):
                with self.subTest(daemon=daemon, text=text[:40]):
                    status, out, path = self.check(daemon, (text + REST[daemon]).encode("latin-1"), mode="wb")
                    self.assertEqual(status, WRONG, out[:2000])
                    self.assertIn(f"{path}:{line}: " if line else f"{path}:", out[:2000])
                    self.assertIn(words, out[:2000])
                    self.assertLess(len(out), 4096)

    def test_keys_that_contradict_each_other_are_named_with_the_line_of_the_one_at_fault(self):
        cert, key = "tls-certificate = /x/cert.pem\n", "tls-key = /x/key.pem\n"
        for daemon, text, line, words in (
            ("server", f"[http]\nlisten = 127.0.0.1:0\n{cert}", 3, "[http] tls-certificate, tls-key: found one"),
            ("server", f"[control]\n\n{key}", 3, "[control] tls-certificate, tls-key: found one"),
            ("server", "[http]\n\nlisten = 192.0.2.1:7480\n", 3, '[http] listen: found "192.0.2.1:7480"'),
            ("server", "[server]\nperiod = 1s\nlease = 2s\n", 3, "[server] lease: found less than three periods"),
            ("server", "[server]\nobserve = no\nperiod = 60s\n", 3, "[server] lease: found less than three periods"),
            ("server", f"[resource]\n{key}", 2, "[resource] tls-certificate, tls-key: found one"),
            ("server", "[target a]\ntls-ca = /x\n[target b]\ntls-psk-identity = i\n", 4, "[target b] tls-psk-identity: found alone"),
            ("gateway", "[server]\naddress = 127.0.0.1:1\n" + key, 3, "[server]: one of tls-certificate and tls-key"),
            ("gateway", "[server]\naddress = 127.0.0.1:1\ntls-verify-name = n\n", 3, "[server]: tls-verify-name without tls-ca"),
            ("gateway", f"[listener x]\naddress = 127.0.0.1:0\ntarget = t\n{cert}", 4, "[listener x]: tls keys without TLS"),
            ("gateway", f"[listener x]\naddress = 127.0.0.1:0\ntls = allow\ntarget = t\n{cert}", 5, "expected both"),
            ("gateway", "[listener x]\naddress = 127.0.0.1:0\ntls = allow\ntarget = t\n", 3, "[listener x]: TLS without a secret"),
            ("gateway", "[target x]\nuri = nbds://127.0.0.1:1\ntls = off\n", 3, "[target x]: tls = off with an nbds uri"),
            ("gateway", "[target x]\nuri = nbds://127.0.0.1:1\ntls-psk-identity = i\n", 3, "tls-psk-identity without tls-psk-file"),
            ("gateway", "[limit x]\niops = 5\nburst-for = 9s\n", 3, "[limit x]: burst-for needs"),
            ("gateway", "[limit x]\niops = 5\nburst-iops = 5\nburst-for = 9s\n", 3, "[limit x]: burst-iops needs"),
        ):
            with self.subTest(daemon=daemon, text=text):
                status, out, path = self.check(daemon, text + REST[daemon])
                self.assertEqual(status, WRONG, out)
                self.assertRegex(out, rf"(?m){re.escape(path)}:{line}: .*{re.escape(words)}")
        # One that a drop-in has changed is named where it stands last.
        folder = self.world.path("server.conf.d")
        os.mkdir(folder)
        with open(os.path.join(folder, "50-mine.conf"), "w") as f:
            f.write("[server]\n\nlease = 1s\n")
        _, out, _ = self.check("server", "[server]\nlease = 10s\n")
        self.assertIn(f"{folder}/50-mine.conf:3: [server] lease: found less than three periods", out)

    def test_files_of_keys_are_told_with_the_line_of_the_key_that_names_them(self):
        folder = tlskeys.Authority(self.world.path("ca"), "ours").folder("keys")
        good = {k: os.path.join(folder, f"server-{k}.pem") for k in ("cert", "key")}
        other, junk, gone = os.path.join(folder, "client-key.pem"), self.world.path("junk"), self.world.path("gone")
        with open(junk, "w") as f:
            f.write("not what it should be\n")
        head = "[listener x]\naddress = 127.0.0.1:0\ntarget = t\ntls = require\n"
        target, server = "[target x]\nuri = nbds://127.0.0.1:1\n", "[server]\naddress = 127.0.0.1:1\n"
        pair = "tls-certificate = {}\ntls-key = {}\n".format
        for text, line, key, value, expected in (
            (head + pair(gone, good["key"]), 5, "[listener x] tls-certificate", gone, "a certificate in PEM form"),
            (head + pair(junk, good["key"]), 5, "[listener x] tls-certificate", junk, "a certificate in PEM form"),
            (head + pair(good["cert"], gone), 6, "[listener x] tls-key", gone, "the certificate's private key"),
            (head + pair(good["cert"], other), 6, "[listener x] tls-key", other, "the private key"),
            (head + pair(good["cert"], good["key"]) + f"tls-client-ca = {junk}\n", 7, "[listener x] tls-client-ca", junk, "trusted"),
            (head + f"tls-psk-file = {junk}\n", 5, "[listener x] tls-psk-file", junk, ""),
            (target + f"tls-ca = {gone}\n", 3, "[target x] tls-ca", gone, "trusted certificates in PEM form"),
            (target + f"tls-psk-file = {gone}\n", 3, "[target x] tls-psk-file", gone, "lines IDENTITY:HEXKEY"),
            (server + pair(gone, good["key"]), 3, "[server] tls-certificate", gone, "a certificate in PEM form"),
            (server + f"tls-ca = {junk}\n", 3, "[server] tls-ca", junk, "trusted certificates"),
        ):
            with self.subTest(text=text):
                status, out, path = self.check("gateway", text + REST["gateway"])
                self.assertEqual(status, WRONG, out)
                self.assertIn(f'{path}:{line}: {key}: found "{value}", expected {expected}', out)
        for text, line, key, value, expected in (
            ("[control]\n" + pair(gone, good["key"]), 2, "[control] tls-certificate", gone, "a certificate in PEM form"),
            ("[control]\n" + pair(good["cert"], other), 3, "[control] tls-key", other, "the private key"),
            (f"[control]\ntls-client-ca = {junk}\n", 2, "[control] tls-client-ca", junk, "trusted certificates"),
            ("[http]\n" + pair(junk, good["key"]), 2, "[http] tls-certificate", junk, "a certificate in PEM form"),
            ("[http]\n" + pair(good["cert"], gone), 3, "[http] tls-key", gone, "the certificate's private key"),
            (f"[resource]\n\ntls-ca = {gone}\n[target x]\ntls-verify-name = a\n", 3, "[resource] tls-ca", gone, "trusted"),
            (f"[resource]\ntls-psk-file = {junk}\n", 2, "[resource] tls-psk-file", junk, ""),
            ("[target x]\n" + pair(good["cert"], gone), 3, "[target x] tls-key", gone, "the certificate's private key"),
            (f"[target x]\ntls-ca = {junk}\n", 2, "[target x] tls-ca", junk, "trusted certificates"),
        ):
            with self.subTest(text=text):
                status, out, path = self.check("server", text)
                self.assertEqual(status, WRONG, out)
                self.assertEqual(out.count(f'{path}:{line}: {key}: found "{value}", expected {expected}'), 1, out)
                self.assertEqual(out.count("expected"), 1, out)

    def test_a_certificate_that_is_not_for_this_side_is_refused_and_one_out_of_date_is_told(self):
        ca = tlskeys.Authority(self.world.path("ca"), "ours")
        folder = ca.folder("keys", client=None)
        key = os.path.join(folder, "server-key.pem")
        made = {}
        for name, lines in (("server", "tls_www_server\nsigning_key\n"), ("client", "tls_www_client\nsigning_key\n"),
                            ("both", "tls_www_server\ntls_www_client\nsigning_key\n"), ("any", ""),
                            ("mail", "email_protection_key\n"), ("authority", "ca\ncert_signing_key\n"),
                            ("ended", tlskeys.dates(2001, 2002)), ("early", tlskeys.dates(2901, 2902))):
            made[name] = os.path.join(folder, f"made-{name}.pem")
            when = "" if "date" in lines else "expiration_days = 90\n"
            tlskeys.certtool("--generate-certificate", "--load-ca-certificate", ca.cert, "--load-ca-privkey", ca.key,
                             "--load-privkey", key, "--outfile", made[name], template=f'cn = "x"\n{lines}{when}')
        listens = ("gateway", "[listener x]\naddress = 127.0.0.1:0\ntarget = t\ntls = require\n", "listener x")
        dials = ("gateway", f"[target x]\nuri = nbds://127.0.0.1:1\ntls-ca = {ca.cert}\n", "target x")
        link = ("gateway", "[server]\naddress = 127.0.0.1:1\n", "server")
        control, http, probes = ("server", "[control]\n", "control"), ("server", "[http]\n", "http"), ("server", "[resource]\n", "resource")
        servers, clients = (listens, control, http), (dials, link, probes)
        cases = [(side, name, None) for side in servers + clients for name in ("both", "any")]
        cases += [(side, "server", None) for side in servers] + [(side, "client", None) for side in clients]
        cases += [(side, "client", (WRONG, "a certificate for a TLS server (extended key usage serverAuth, or none) "
                                    "(it is for TLS client alone)")) for side in servers]
        cases += [(side, "server", (WRONG, "a certificate for a TLS client (extended key usage clientAuth, or none) "
                                    "(it is for TLS server alone)")) for side in clients]
        cases += [(side, "mail", (WRONG, "a certificate for a TLS ")) for side in (listens, http, link)]
        cases += [(side, "authority", (WRONG, "a certificate with the key usage digitalSignature, or without any "
                                    "(its key may not sign)")) for side in (listens, control, dials)]
        cases += [(side, "ended", (0, "a certificate that is in date (it ended on 2002-01-01 00:00:00 UTC, "))
                  for side in servers + clients]
        cases += [(side, "early", (0, "a certificate that is in date (it begins to count on 2901-01-01 00:00:00 UTC, in "))
                  for side in (listens, http)]
        for (daemon, head, section), name, expected in cases:
            with self.subTest(section=section, certificate=name):
                text = head + f"tls-certificate = {made[name]}\ntls-key = {key}\n" + REST[daemon]
                status, out, path = self.check(daemon, text)
                self.assertEqual(status, expected[0] if expected else 0, out)
                if expected:
                    self.assertIn(f'{path}:{head.count(chr(10)) + 1}: [{section}] tls-certificate: found "{made[name]}", '
                                  f"expected {expected[1]}", out)
                self.assertEqual(out.count("expected"), 1 if expected else 0, out)
        # An authority whose time is over believes nobody any more.
        old = os.path.join(folder, "old-ca.pem")
        tlskeys.certtool("--generate-self-signed", "--load-privkey", ca.key, "--outfile", old,
                         template='cn = "old"\nca\ncert_signing_key\n' + tlskeys.dates(2001, 2002))
        pair = f"tls-certificate = {made['any']}\ntls-key = {key}\n"
        for daemon, head, section, name in (
            ("gateway", listens[1] + pair, "listener x", "tls-client-ca"), ("server", "[control]\n", "control", "tls-client-ca"),
            ("gateway", "[target x]\nuri = nbds://127.0.0.1:1\n", "target x", "tls-ca"), ("server", "[resource]\n", "resource", "tls-ca"),
        ):
            status, out, path = self.check(daemon, head + f"{name} = {old}\n" + REST[daemon])
            self.assertEqual(status, 0, out)
            self.assertIn(f'{path}:{head.count(chr(10)) + 1}: [{section}] {name}: found "{old}", expected a certificate that is in '
                          "date (it ended on 2002-01-01", out)

    def test_what_cannot_be_read_is_named(self):
        for daemon in ("gateway", "server"):
            program = PROGRAMS[daemon]
            for path, words in ((self.world.path("nothing.conf"), "No such file"), (self.world.path(""), "Is a directory")):
                r = subprocess.run([program, "--config", path], capture_output=True, text=True, timeout=weirtest.PATIENCE)
                with self.subTest(daemon=daemon, path=path):
                    self.assertEqual(r.returncode, WRONG)
                    self.assertIn(path, r.stderr)
                    self.assertIn(words, r.stderr)

    def test_drop_ins_are_named_by_their_own_file_and_line(self):
        for daemon, section in (("gateway", "[gateway]"), ("server", "[server]")):
            folder = self.world.path(daemon + ".conf.d")
            os.mkdir(folder)
            with open(os.path.join(folder, "50-mine.conf"), "w") as f:
                f.write(f"{section}\n\nlog-level = loud\n")
            status, out, _ = self.check(daemon, REST[daemon])
            self.assertEqual(status, WRONG)
            self.assertIn(f'{folder}/50-mine.conf:3: {section} log-level: found "loud", expected error, warning, info or debug', out)

    def test_a_daemon_with_a_wrong_file_does_not_start(self):
        for daemon, section, value in (("gateway", "gateway", "peer-timeout"), ("server", "server", "period")):
            state = self.world.path("state-" + daemon)
            text = REST[daemon] + f"[{section}]\nstate-dir = {state}\n{value} = soon\n"
            status, out, path = self.check(daemon, text, start=True)
            self.assertEqual(status, WRONG)
            self.assertIn(f'{path}:{text.count(chr(10))}: [{section}] {value}: found "soon", expected ', out)
            self.assertFalse(os.path.exists(state), "it had begun")

    def test_all_that_is_wrong_is_said_at_once(self):
        text = "[gateway]\nmax-hold = x\npeer-timeout = y\n" + REST["gateway"] + "[limit a]\niops = -5\n"
        _, out, path = self.check("gateway", text)
        for line in (2, 3):
            self.assertIn(f"{path}:{line}: ", out)


if __name__ == "__main__":
    weirtest.main()
