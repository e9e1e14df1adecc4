# SPDX-License-Identifier: Apache-2.0
"""Goal: what `make install` puts in place is complete and safe. Method: install into a folder, look, let systemd judge the
units, and start the programs' own check on the default files with every commented default taken as written."""
import os
import re
import shutil
import subprocess
import unittest

import weirtest


class Packaging(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.world = weirtest.World()
        cls.world.__enter__()
        cls.addClassCleanup(cls.world.__exit__, None, None, None)
        cls.dest = cls.world.path("dest")
        weirtest.need("meson")
        subprocess.run(["meson", "install", "-C", weirtest.BUILD, "--no-rebuild", "--quiet", "--destdir", cls.dest],
                       check=True, capture_output=True)

    def installed(self, suffix):
        found = [os.path.join(d, f) for d, _, names in os.walk(self.dest) for f in names
                 if os.path.join(d, f).endswith(suffix)]
        self.assertEqual(len(found), 1, f"one file that ends in {suffix}: {found}")
        return found[0]

    def test_install_puts_programs_pages_files_and_units_in_place(self):
        for suffix in ("bin/weir", "bin/weir-gateway", "bin/weir-server", "man1/weir.1", "man8/weir-gateway.8",
                       "man8/weir-server.8", "man5/gateway.conf.5", "man5/server.conf.5", "man5/weir-documents.5",
                       "etc/weir/gateway.conf", "etc/weir/server.conf", "system/weir-gateway.service", "system/weir-server.service",
                       "system/weir-gateway-announce.service",
                       "sysusers.d/weir.conf"):
            self.assertGreater(os.path.getsize(self.installed(suffix)), 0)

    def test_systemd_rates_its_units_below_two(self):
        weirtest.need("systemd-analyze")
        for unit in ("weir-gateway.service", "weir-gateway-announce.service", "weir-server.service"):
            r = subprocess.run(["systemd-analyze", "security", "--offline=true", "--no-pager", self.installed(unit)],
                               capture_output=True, text=True)
            m = re.search(r"Overall exposure level for \S+: ([0-9.]+)", r.stdout)
            self.assertIsNotNone(m, r.stdout + r.stderr)
            self.assertLess(float(m.group(1)), 2.0)

    def uncommented(self, suffix):
        with open(self.installed(suffix)) as f:
            # Certificates and keys are examples: no default names a file that somebody has to make.
            text = re.sub(r"^#(?=(\[|(?!tls-)[a-z0-9-]+ *=))", "", f.read(), flags=re.M)
        path = self.world.path(os.path.basename(suffix))
        with open(path, "w") as f:
            f.write(text)
        return path

    def test_every_default_of_server_conf_is_accepted_as_written(self):
        for path in (self.installed("etc/weir/server.conf"), self.uncommented("etc/weir/server.conf")):
            r = subprocess.run([weirtest.SERVER, "--config", path, "--check-config"], capture_output=True, text=True)
            self.assertEqual(r.returncode, 0, r.stderr)

    def test_every_default_of_gateway_conf_is_accepted_as_written(self):
        path = self.uncommented("etc/weir/gateway.conf")
        r = subprocess.run([weirtest.GATEWAY, "--config", path, "--check-config"], capture_output=True, text=True)
        self.assertEqual(r.returncode, 0, r.stderr)

    def test_a_wrong_server_conf_names_file_line_key_and_what_was_expected(self):
        path = self.world.path("wrong.conf")
        with open(path, "w") as f:
            f.write("[server]\npairs = many\nspeed = 9\n[http]\nlisten = 10.1.2.3:80\n")
        r = subprocess.run([weirtest.SERVER, "--config", path, "--state-dir", self.world.path("never"), "--listen", "127.0.0.1:0"],
                           capture_output=True, text=True, timeout=weirtest.PATIENCE)
        self.assertEqual(r.returncode, 2)
        self.assertRegex(r.stderr, r"wrong\.conf:2:.*pairs.*many.*expected a whole number")
        self.assertRegex(r.stderr, r"wrong\.conf:3:.*unknown key.*speed")
        self.assertFalse(os.path.exists(self.world.path("never")), "nothing is made before the settings are right")

    def test_both_daemons_refuse_to_listen_for_people_or_gateways_off_loopback(self):
        r = subprocess.run([weirtest.SERVER, "--http", "0.0.0.0:7480", "--state-dir", self.world.path("never")],
                           capture_output=True, text=True, timeout=weirtest.PATIENCE)
        self.assertEqual(r.returncode, 2)
        self.assertIn("TLS", r.stderr)

    def test_tools_deps_lists_what_each_group_needs(self):
        lists = {g: subprocess.run([os.path.join(weirtest.ROOT, "tools/deps"), "--list", g], capture_output=True, text=True,
                                   check=True).stdout.split() for g in ("build", "demo", "test")}
        self.assertLess(set(lists["build"]), set(lists["demo"]))
        self.assertLess(set(lists["demo"]), set(lists["test"]))
        self.assertTrue(shutil.which("dpkg-query") is None or "meson" in lists["build"])


if __name__ == "__main__":
    weirtest.main()
