# SPDX-License-Identifier: Apache-2.0
"""Keys and certificates for tests, made by certtool and psktool (gnutls-bin), in the layout that libnbd, nbdkit and QEMU
expect of a folder: ca-cert.pem, server-cert.pem, server-key.pem, client-cert.pem, client-key.pem, keys.psk."""

import os
import shutil
import subprocess

import weirtest


def certtool(*args, template=None):
    weirtest.need("certtool")
    argv = ["certtool", *args]
    if template is not None:
        path = args[args.index("--outfile") + 1] + ".template"
        with open(path, "w") as f:
            f.write(template)
        argv += ["--template", path]
    subprocess.run(argv, check=True, capture_output=True, stdin=subprocess.DEVNULL)


def dates(first, last):
    """Lines of a template: from the first day of one year to that of another."""
    return f'activation_date = "{first}-01-01 00:00:00"\nexpiration_date = "{last}-01-01 00:00:00"\n'


class Authority:
    """A certificate authority in a folder of its own."""

    def __init__(self, path, name):
        self.dir = path
        os.makedirs(path)
        self.key, self.cert = os.path.join(path, "ca-key.pem"), os.path.join(path, "ca-cert.pem")
        self.made = 0
        certtool("--generate-privkey", "--key-type", "ecdsa", "--outfile", self.key)
        certtool("--generate-self-signed", "--load-privkey", self.key, "--outfile", self.cert,
                 template=f'cn = "{name}"\nca\ncert_signing_key\nexpiration_days = 400\n')

    def issue(self, cert, key, lines):
        certtool("--generate-privkey", "--key-type", "ecdsa", "--outfile", key)
        certtool("--generate-certificate", "--load-ca-certificate", self.cert, "--load-ca-privkey", self.key,
                 "--load-privkey", key, "--outfile", cert, template=lines)

    def folder(self, name, client="host-a", server="localhost", expired=False, days=90):
        """A folder with certificates of a server called `server` (and 127.0.0.1) and a client called `client`."""
        path = os.path.join(self.dir, name)
        os.makedirs(path)
        shutil.copy(self.cert, path)
        when = dates(2001, 2002) if expired else f"expiration_days = {days}\n"
        usage = "signing_key\n" + when
        address = 'ip_address = "127.0.0.1"\n' if server == "localhost" else ""
        self.issue(os.path.join(path, "server-cert.pem"), os.path.join(path, "server-key.pem"),
                   f'cn = "{server}"\ndns_name = "{server}"\n{address}tls_www_server\n{usage}')
        if client is not None:
            cn = f'cn = "{client}"\n' if client else 'organization = "nobody in particular"\n'
            self.issue(os.path.join(path, "client-cert.pem"), os.path.join(path, "client-key.pem"),
                       f"{cn}tls_www_client\n{usage}")
        return path


def psk(folder, *names):
    """Make keys.psk in a folder with a key for each name; returns its path."""
    path = os.path.join(folder, "keys.psk")
    for name in names:
        subprocess.run(["psktool", "-u", name, "-p", path], check=True, capture_output=True)
    return path
