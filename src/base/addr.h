/* SPDX-License-Identifier: Apache-2.0 */
/* Addresses: parse what people write, listen, connect without blocking, name the peer. */
#ifndef WEIR_BASE_ADDR_H
#define WEIR_BASE_ADDR_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

/* "127.0.0.1:10809", "[::1]:10809", "localhost:10809", "unix:/run/x.sock". */
#define ADDR_TEXT_SIZE 160

struct addr {
    struct sockaddr_storage ss;
    socklen_t len;
    char text[ADDR_TEXT_SIZE]; /* as written, for messages */
};

/* Parse; a missing port becomes @default_port (0: a port is required). Host names are resolved with
 * getaddrinfo (blocks: start-up only). 0, or WEIR_E_INVALID with *@ret_expected pointing at words.
 * */
int addr_parse(const char *text, uint16_t default_port, struct addr *ret,
               const char **ret_expected);

/* "nbd://host[:port][/export]" or "nbd+unix:///[export]?socket=/path", or nbds for nbd: with TLS
 * (NBD URI specification). The export name is percent-decoded into @export_name (size bytes). */
int addr_parse_nbd_uri(const char *uri, struct addr *ret, char *export_name, size_t size,
                       const char **ret_expected);

/* Whether @uri is of a scheme that asks for TLS. */
bool addr_uri_wants_tls(const char *uri);
/* What of @uri says where it leads: all behind "nbd" or "nbds". It is the same place with TLS and
 * without. */
const char *addr_uri_place(const char *uri);

bool addr_is_unix(const struct addr *a);
/* Loopback IPv4/IPv6 or a Unix socket. */
bool addr_is_local(const struct addr *a);

/* Non-blocking close-on-exec listening socket. A stale Unix socket file (nobody listens) is
 * replaced; @unix_mode is its mode. Returns the descriptor or -errno. */
int addr_listen(const struct addr *a, int backlog, unsigned unix_mode);
/* The address a socket is bound to, as text (port 0 resolved). */
int addr_local_text(int fd, char *out, size_t size);

/* Start a non-blocking connect with TCP_NODELAY. Returns the descriptor (connected or in progress)
 * or -errno. addr_connect_result gives 0 or -errno once it is writable. */
int addr_connect(const struct addr *a);
int addr_connect_result(int fd);
/* Have the kernel ask a silent peer of @fd whether it is still there, and fail the connection after
 * about a minute without an answer. Nothing on a Unix socket, whose peer cannot vanish unseen. */
void addr_keep_alive(int fd);
/* Whether TCP has had no acknowledgement of the peer of @fd for @timeout_ns although it asked for
 * one more than once: by sending data again, or by probing a window that the peer closed. A peer
 * that only does not read is not gone. False for what is no TCP socket. */
bool addr_peer_gone(int fd, uint64_t timeout_ns);

/* Who is at the other end, without the port: "10.0.0.7", "[fd00::1]" as "fd00::1", a v4-mapped
 * address as v4, a Unix peer as "uid:1000". For stream identity. 0 or -errno. */
int addr_peer_host(int fd, char *out, size_t size);

#endif
