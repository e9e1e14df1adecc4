/* SPDX-License-Identifier: Apache-2.0 */
/* Addresses. NBD URIs: "The NBD URI format",
 * https://github.com/NetworkBlockDevice/nbd/blob/master/doc/uri.md; percent-encoding: RFC 3986
 * section 2.1. What the specification allows and Weir does not do (user names, unknown query keys,
 * those of TLS among them: they stand in the configuration) is refused with words rather than
 * passed over. */
#include "base/addr.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/text.h"

#define NBD_PORT 10809u
#define UNIX_PREFIX "unix:"
#define EXPORT_MAX 4096u /* NBD, "Values": strings are at most 4096 bytes */

static int refuse(const char **ret_expected, const char *words)
{
    if (ret_expected)
        *ret_expected = words;
    return WEIR_E_INVALID;
}

static int set_unix(const char *path, struct addr *a)
{
    struct sockaddr_un *un = (struct sockaddr_un *)&a->ss;
    if (*path == '\0' || text_copy(un->sun_path, sizeof(un->sun_path), path) < 0)
        return WEIR_E_INVALID;
    un->sun_family = AF_UNIX;
    a->len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(path) + 1);
    return 0;
}

static int parse_port(const char *s, uint16_t *ret)
{
    unsigned v = 0;
    size_t n = 0;
    for (; s[n] >= '0' && s[n] <= '9' && n < 6; n++)
        v = v * 10 + (unsigned)(s[n] - '0');
    if (n == 0 || s[n] != '\0' || v > 65535)
        return WEIR_E_INVALID;
    *ret = (uint16_t)v;
    return 0;
}

/* Split "host:port" or "[v6]:port" into @host and *@port (kept when there is none). */
static int split_host_port(const char *text, char *host, size_t size, uint16_t *port,
                           bool *ret_bracketed, const char **ret_expected)
{
    const char *rest;
    size_t n;
    *ret_bracketed = *text == '[';
    if (*ret_bracketed) {
        text++;
        n = strcspn(text, "]");
        rest = text + n + (text[n] != '\0');
        if (text[n] != ']' || (*rest != '\0' && *rest != ':'))
            return refuse(ret_expected, "[IPv6 address]:port");
    } else {
        n = strcspn(text, ":");
        rest = text + n;
        if (*rest == ':' && strchr(rest + 1, ':'))
            return refuse(ret_expected, "IPv6 addresses in brackets, as in [::1]:10809");
    }
    if (n == 0 || n >= size)
        return refuse(ret_expected, "host:port, such as 127.0.0.1:10809 (0.0.0.0 or [::] for all)");
    memcpy(host, text, n);
    host[n] = '\0';
    if (*rest == ':' && parse_port(rest + 1, port) < 0)
        return refuse(ret_expected, "a port from 0 to 65535 behind the colon");
    if (*rest == '\0' && *port == 0)
        return refuse(ret_expected, "a port, as in 127.0.0.1:10809");
    return 0;
}

static bool family_is_local(const struct sockaddr *sa)
{
    if (sa->sa_family == AF_UNIX)
        return true;
    if (sa->sa_family == AF_INET) {
        const struct sockaddr_in *in = (const struct sockaddr_in *)(const void *)sa;
        return ntohl(in->sin_addr.s_addr) >> 24 == 127;
    }
    if (sa->sa_family == AF_INET6) {
        const struct in6_addr *in6 = &((const struct sockaddr_in6 *)(const void *)sa)->sin6_addr;
        return IN6_IS_ADDR_LOOPBACK(in6) || (IN6_IS_ADDR_V4MAPPED(in6) && in6->s6_addr[12] == 127);
    }
    return false;
}

static int resolve(const char *host, uint16_t port, bool numeric_v6, struct addr *a,
                   const char **ret_expected)
{
    char service[8];
    snprintf(service, sizeof(service), "%u", port);
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM,
                             .ai_family = numeric_v6 ? AF_INET6 : AF_UNSPEC,
                             .ai_flags = AI_NUMERICSERV | (numeric_v6 ? AI_NUMERICHOST : 0)};
    struct addrinfo *list;
    if (getaddrinfo(host, service, &hints, &list) != 0)
        return refuse(ret_expected, numeric_v6 ? "an IPv6 address between the brackets"
                                               : "an address or a host name that can be resolved");
    /* RFC 6724 orders the list, but for "localhost" IPv4 is taken: most servers listen there. */
    const struct addrinfo *take = list;
    if (family_is_local(list->ai_addr)) {
        for (const struct addrinfo *i = list; i; i = i->ai_next) {
            if (i->ai_family == AF_INET && family_is_local(i->ai_addr)) {
                take = i;
                break;
            }
        }
    }
    weir_assert(take->ai_addrlen <= sizeof(a->ss));
    memcpy(&a->ss, take->ai_addr, take->ai_addrlen);
    a->len = take->ai_addrlen;
    freeaddrinfo(list);
    return 0;
}

int addr_parse(const char *text, uint16_t default_port, struct addr *ret, const char **ret_expected)
{
    struct addr a = {0};
    if (text_copy(a.text, sizeof(a.text), text) < 0)
        return refuse(ret_expected, "an address of at most 159 characters");
    if (strncmp(text, UNIX_PREFIX, strlen(UNIX_PREFIX)) == 0) {
        if (set_unix(text + strlen(UNIX_PREFIX), &a) < 0)
            return refuse(ret_expected, "unix: and a path of 1 to 107 bytes");
        *ret = a;
        return 0;
    }
    char host[ADDR_TEXT_SIZE];
    uint16_t port = default_port;
    bool bracketed;
    int r = split_host_port(text, host, sizeof(host), &port, &bracketed, ret_expected);
    if (r == 0)
        r = resolve(host, port, bracketed, &a, ret_expected);
    if (r == 0)
        *ret = a;
    return r;
}

/* Decode @n bytes of @s. NUL bytes are refused: names are C strings everywhere else. */
static int percent_decode(const char *s, size_t n, char *out, size_t size)
{
    size_t used = 0;
    for (size_t i = 0; i < n; i++) {
        char c = s[i];
        if (c == '%') {
            int high = i + 1 < n ? text_hex_value(s[i + 1]) : -1;
            int low = i + 2 < n ? text_hex_value(s[i + 2]) : -1;
            if (high < 0 || low < 0)
                return WEIR_E_INVALID;
            c = (char)(high * 16 + low);
            i += 2;
        }
        if (c == '\0' || used + 1 >= size)
            return WEIR_E_INVALID;
        out[used++] = c;
    }
    out[used] = '\0';
    return 0;
}

/* The query of a nbd+unix URI: exactly one socket=PATH. */
static int parse_socket_query(const char *query, struct addr *a)
{
    static const char key[] = "socket=";
    char path[sizeof(((struct sockaddr_un *)0)->sun_path)];
    if (*query != '?' || strncmp(query + 1, key, strlen(key)) != 0 || strchr(query, '&'))
        return WEIR_E_INVALID;
    query += 1 + strlen(key);
    if (percent_decode(query, strlen(query), path, sizeof(path)) < 0)
        return WEIR_E_INVALID;
    if (snprintf(a->text, sizeof(a->text), UNIX_PREFIX "%s", path) >= (int)sizeof(a->text))
        return WEIR_E_INVALID;
    return set_unix(path, a);
}

static int parse_authority(const char *s, size_t n, struct addr *a, const char **ret_expected)
{
    char authority[ADDR_TEXT_SIZE];
    if (n == 0 || n >= sizeof(authority) || memchr(s, '@', n) || memchr(s, '%', n))
        return refuse(ret_expected, "nbd://host:port/export, without user names");
    memcpy(authority, s, n);
    authority[n] = '\0';
    /* "unix:" would be a host of that name here. */
    if (strncmp(authority, UNIX_PREFIX, strlen(UNIX_PREFIX)) == 0)
        return refuse(ret_expected, "nbd+unix:///export?socket=/path for a Unix socket");
    return addr_parse(authority, NBD_PORT, a, ret_expected);
}

bool addr_uri_wants_tls(const char *uri)
{
    return strncmp(uri, "nbds", 4) == 0;
}

const char *addr_uri_place(const char *uri)
{
    if (strncmp(uri, "nbd", 3) != 0)
        return uri;
    return uri + (addr_uri_wants_tls(uri) ? 4 : 3);
}

int addr_parse_nbd_uri(const char *uri, struct addr *ret, char *export_name, size_t size,
                       const char **ret_expected)
{
    const char *tcp = addr_uri_wants_tls(uri) ? "nbds://" : "nbd://";
    const char *local = addr_uri_wants_tls(uri) ? "nbds+unix://" : "nbd+unix://";
    struct addr a = {0};
    char name[EXPORT_MAX + 1];
    bool is_unix = strncmp(uri, local, strlen(local)) == 0;
    if (!is_unix && strncmp(uri, tcp, strlen(tcp)) != 0)
        return refuse(ret_expected, "nbd://host[:port][/export] or "
                                    "nbd+unix:///[export]?socket=/path (nbds: with TLS)");
    if (strchr(uri, '#'))
        return refuse(ret_expected, "no \"#\" in an NBD URI; write %23 in an export name");
    const char *rest = uri + strlen(is_unix ? local : tcp);
    const char *path = rest + strcspn(rest, "/?");
    const char *query = path + strcspn(path, "?");

    if (is_unix) {
        if (path != rest)
            return refuse(ret_expected, "three slashes: nbd+unix:///export?socket=/path");
        if (parse_socket_query(query, &a) < 0)
            return refuse(ret_expected, "?socket=/path (of at most 107 bytes) and nothing else");
    } else {
        if (*query != '\0')
            return refuse(ret_expected, "no \"?\" in an nbd:// URI");
        int r = parse_authority(rest, (size_t)(path - rest), &a, ret_expected);
        if (r < 0)
            return r;
    }
    if (*path == '/')
        path++;
    if (percent_decode(path, (size_t)(query - path), name, sizeof(name)) < 0 ||
        strlen(name) >= size)
        return refuse(ret_expected, "an export name of at most 4096 bytes with %XX escapes");
    *ret = a;
    memcpy(export_name, name, strlen(name) + 1);
    return 0;
}

bool addr_is_unix(const struct addr *a)
{
    return a->ss.ss_family == AF_UNIX;
}

bool addr_is_local(const struct addr *a)
{
    return family_is_local((const struct sockaddr *)&a->ss);
}

/* A Unix socket file that nobody listens on is a leftover of a process that died. */
static bool is_stale_socket(const struct addr *a)
{
    const struct sockaddr_un *un = (const struct sockaddr_un *)&a->ss;
    struct stat st;
    if (lstat(un->sun_path, &st) < 0 || !S_ISSOCK(st.st_mode))
        return false;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return false;
    bool refused = connect(fd, (const struct sockaddr *)un, a->len) < 0 && errno == ECONNREFUSED;
    close(fd);
    return refused;
}

static int bind_unix(int fd, const struct addr *a, unsigned mode)
{
    const struct sockaddr_un *un = (const struct sockaddr_un *)&a->ss;
    /* The mode of the descriptor becomes that of the file (less the umask), so that there is no
     * moment in which the file is wider open than asked for. chmod gives back what the umask took.
     * */
    if (fchmod(fd, (mode_t)mode) < 0)
        return -errno;
    if (bind(fd, (const struct sockaddr *)un, a->len) < 0) {
        if (errno != EADDRINUSE || !is_stale_socket(a))
            return -errno;
        if (unlink(un->sun_path) < 0 || bind(fd, (const struct sockaddr *)un, a->len) < 0)
            return -errno;
    }
    return chmod(un->sun_path, (mode_t)mode) < 0 ? -errno : 0;
}

static int bind_inet(int fd, const struct addr *a)
{
    int on = 1, off = 0;
    if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) < 0)
        return -errno;
    /* [::] takes IPv4 as well whatever the machine's default is. */
    if (a->ss.ss_family == AF_INET6 &&
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off)) < 0)
        return -errno;
    return bind(fd, (const struct sockaddr *)&a->ss, a->len) < 0 ? -errno : 0;
}

int addr_listen(const struct addr *a, int backlog, unsigned unix_mode)
{
    int fd = socket(a->ss.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -errno;
    int r = addr_is_unix(a) ? bind_unix(fd, a, unix_mode) : bind_inet(fd, a);
    if (r == 0 && listen(fd, backlog) < 0)
        r = -errno;
    if (r < 0) {
        close(fd);
        return r;
    }
    return fd;
}

int addr_local_text(int fd, char *out, size_t size)
{
    struct sockaddr_storage ss = {0};
    socklen_t len = sizeof(ss);
    if (getsockname(fd, (struct sockaddr *)&ss, &len) < 0)
        return -errno;
    char host[INET6_ADDRSTRLEN];
    int n;
    if (ss.ss_family == AF_UNIX) {
        const struct sockaddr_un *un = (const struct sockaddr_un *)&ss;
        n = snprintf(out, size, UNIX_PREFIX "%.*s", (int)sizeof(un->sun_path), un->sun_path);
    } else if (ss.ss_family == AF_INET) {
        const struct sockaddr_in *in = (const struct sockaddr_in *)&ss;
        inet_ntop(AF_INET, &in->sin_addr, host, sizeof(host));
        n = snprintf(out, size, "%s:%u", host, ntohs(in->sin_port));
    } else if (ss.ss_family == AF_INET6) {
        const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)&ss;
        inet_ntop(AF_INET6, &in6->sin6_addr, host, sizeof(host));
        n = snprintf(out, size, "[%s]:%u", host, ntohs(in6->sin6_port));
    } else {
        return -EAFNOSUPPORT;
    }
    return n < 0 || (size_t)n >= size ? WEIR_E_TOO_LARGE : 0;
}

int addr_connect(const struct addr *a)
{
    int fd = socket(a->ss.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -errno;
    int on = 1, r = 0;
    if (!addr_is_unix(a) && setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)) < 0)
        r = -errno;
    if (r == 0 && connect(fd, (const struct sockaddr *)&a->ss, a->len) < 0 && errno != EINPROGRESS)
        r = -errno;
    if (r < 0) {
        close(fd);
        return r;
    }
    return fd;
}

int addr_connect_result(int fd)
{
    int error = 0;
    socklen_t len = sizeof(error);
    if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len) < 0)
        return -errno;
    return -error;
}

void addr_keep_alive(int fd)
{
    static const struct {
        int level, name, value;
    } options[] = {
        {SOL_SOCKET, SO_KEEPALIVE, 1},
        {IPPROTO_TCP, TCP_KEEPIDLE, 30}, /* seconds of silence before the first question */
        {IPPROTO_TCP, TCP_KEEPINTVL, 10},
        {IPPROTO_TCP, TCP_KEEPCNT, 3},
    };
    /* A help only: whatever refuses it works without. */
    for (size_t i = 0; i < sizeof(options) / sizeof(options[0]); i++)
        (void)setsockopt(fd, options[i].level, options[i].name, &options[i].value,
                         sizeof(options[i].value));
}

bool addr_peer_gone(int fd, uint64_t timeout_ns)
{
    struct tcp_info i;
    socklen_t len = sizeof(i);
    memset(&i, 0, sizeof(i));
    if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &i, &len) < 0)
        return false;
    bool asked = i.tcpi_retransmits > 1 || i.tcpi_probes > 1;
    return asked && i.tcpi_last_ack_recv >= timeout_ns / NS_PER_MS;
}

static int peer_unix(int fd, char *out, size_t size)
{
    struct ucred cred;
    socklen_t len = sizeof(cred);
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) < 0)
        return -errno;
    int n = snprintf(out, size, "uid:%u", cred.uid);
    return n < 0 || (size_t)n >= size ? -ENOSPC : 0;
}

int addr_peer_host(int fd, char *out, size_t size)
{
    struct sockaddr_storage ss = {0};
    socklen_t len = sizeof(ss);
    if (getpeername(fd, (struct sockaddr *)&ss, &len) < 0)
        return -errno;
    if (ss.ss_family == AF_UNIX)
        return peer_unix(fd, out, size);
    if (ss.ss_family == AF_INET) {
        const struct sockaddr_in *in = (const struct sockaddr_in *)&ss;
        return inet_ntop(AF_INET, &in->sin_addr, out, (socklen_t)size) ? 0 : -errno;
    }
    if (ss.ss_family != AF_INET6)
        return -EAFNOSUPPORT;
    const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)&ss;
    if (IN6_IS_ADDR_V4MAPPED(&in6->sin6_addr))
        return inet_ntop(AF_INET, in6->sin6_addr.s6_addr + 12, out, (socklen_t)size) ? 0 : -errno;
    if (!inet_ntop(AF_INET6, &in6->sin6_addr, out, (socklen_t)size))
        return -errno;
    /* Link-local addresses are only unique on their link. */
    if (in6->sin6_scope_id != 0) {
        size_t n = strlen(out);
        int more = snprintf(out + n, size - n, "%%%u", in6->sin6_scope_id);
        return more < 0 || (size_t)more >= size - n ? -ENOSPC : 0;
    }
    return 0;
}
