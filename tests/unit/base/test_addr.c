/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: every form of address and NBD URI is read as its specification says, and sockets are
 * opened, reused and named as promised. Method: tables of forms; real sockets on loopback and in a
 * folder of its own. */
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>
#include <cmocka.h>

#include "../folder.h"
#include "base/addr.h"
#include "base/err.h"

static void check_parse(const char *text, uint16_t port, int family, unsigned expected_port)
{
    struct addr a;
    const char *expected = "";
    if (addr_parse(text, port, &a, &expected) != 0)
        fail_msg("\"%s\": expected %s", text, expected);
    assert_int_equal(a.ss.ss_family, family);
    assert_string_equal(a.text, text);
    if (family == AF_INET)
        assert_int_equal(ntohs(((struct sockaddr_in *)&a.ss)->sin_port), expected_port);
    if (family == AF_INET6)
        assert_int_equal(ntohs(((struct sockaddr_in6 *)&a.ss)->sin6_port), expected_port);
}

static void every_form_of_address_is_read(void **state)
{
    (void)state;
    check_parse("127.0.0.1:10809", 0, AF_INET, 10809);
    check_parse("127.0.0.1", 7400, AF_INET, 7400);
    check_parse("127.0.0.1:0", 0, AF_INET, 0);
    check_parse("[::1]:10809", 0, AF_INET6, 10809);
    check_parse("[::1]", 7400, AF_INET6, 7400);
    check_parse("[::]:1", 0, AF_INET6, 1);
    check_parse("localhost:10809", 0, AF_INET, 10809);
    check_parse("unix:/run/x.sock", 0, AF_UNIX, 0);
}

static void other_forms_of_address_are_refused_with_words(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "",       "127.0.0.1",  ":10809",        "127.0.0.1:",     "127.0.0.1:65536",
        "::1",    "::1:10809",  "[::1",          "[::1]x",         "[::1]:",
        "[]:1",   "unix:",      "127.0.0.1:12x", "127.0.0.1:-1",   "[127.0.0.1]:1",
        "[zz]:1", "a b:1",      "127.0.0.1:+80", "127.0.0.1:000000080",
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct addr a = {.len = 99};
        const char *expected = NULL;
        if (addr_parse(bad[i], 0, &a, &expected) != WEIR_E_INVALID || !expected || a.len != 99)
            fail_msg("\"%s\" was not refused cleanly", bad[i]);
    }
    char path[200] = "unix:/";
    memset(path + 6, 'p', 120);
    struct addr a;
    assert_int_equal(addr_parse(path, 0, &a, NULL), WEIR_E_INVALID);
    path[5 + 107] = '\0';
    assert_int_equal(addr_parse(path, 0, &a, NULL), 0);
}

static void nbd_uris_are_read_as_specified(void **state)
{
    (void)state;
    static const struct {
        const char *uri, *addr, *export_name;
    } good[] = {
        {"nbd://127.0.0.1", "127.0.0.1", ""},
        {"nbd://127.0.0.1/", "127.0.0.1", ""},
        {"nbd://127.0.0.1:10810/disk", "127.0.0.1:10810", "disk"},
        {"nbd://[::1]:10810//slash", "[::1]:10810", "/slash"},
        {"nbd://127.0.0.1/a%20b%2Fc%25/d", "127.0.0.1", "a b/c%/d"},
        {"nbds://127.0.0.1:10810/disk", "127.0.0.1:10810", "disk"},
        {"nbds+unix:///disk?socket=/tmp/s", "unix:/tmp/s", "disk"},
        {"nbd+unix:///?socket=/tmp/s", "unix:/tmp/s", ""},
        {"nbd+unix://?socket=/tmp/s", "unix:/tmp/s", ""},
        {"nbd+unix:///disk?socket=/tmp/a%20b", "unix:/tmp/a b", "disk"},
    };
    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
        struct addr a;
        char name[4097];
        const char *expected = "";
        if (addr_parse_nbd_uri(good[i].uri, &a, name, sizeof(name), &expected) != 0)
            fail_msg("\"%s\": expected %s", good[i].uri, expected);
        assert_string_equal(a.text, good[i].addr);
        assert_string_equal(name, good[i].export_name);
    }
    struct addr a;
    char name[4097];
    assert_int_equal(addr_parse_nbd_uri("nbd://127.0.0.1", &a, name, sizeof(name), NULL), 0);
    assert_int_equal(ntohs(((struct sockaddr_in *)&a.ss)->sin_port), 10809);
}

static void other_uris_are_refused_with_words(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "",
        "127.0.0.1:10809",
        "http://127.0.0.1/",
        "nbds:/127.0.0.1/",
        "nbdss://127.0.0.1/",
        "nbd://",
        "nbd:///disk",
        "nbd://user@127.0.0.1/",
        "nbd://127.0.0.1/?socket=/x",
        "nbd://127.0.0.1/a#b",
        "nbd://127.0.0.1/a%2",
        "nbd://127.0.0.1/a%zz",
        "nbd://127.0.0.1/a%00b",
        "nbd://unix:/x",
        "nbd+unix:///disk",
        "nbd+unix:///disk?socket=",
        "nbd+unix:///disk?sock=/x",
        "nbd+unix:///disk?socket=/x&y=1",
        "nbd+unix://host/disk?socket=/x",
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct addr a = {.len = 99};
        char name[4097] = "keep";
        const char *expected = NULL;
        if (addr_parse_nbd_uri(bad[i], &a, name, sizeof(name), &expected) != WEIR_E_INVALID ||
            !expected || a.len != 99 || strcmp(name, "keep") != 0)
            fail_msg("\"%s\" was not refused cleanly", bad[i]);
    }
    struct addr a;
    char small[4];
    assert_int_equal(addr_parse_nbd_uri("nbd://127.0.0.1/abcd", &a, small, sizeof(small), NULL),
                     WEIR_E_INVALID);
    assert_int_equal(addr_parse_nbd_uri("nbd://127.0.0.1/abc", &a, small, sizeof(small), NULL), 0);
    char long_name[4300] = "nbd://127.0.0.1/", name[8192];
    memset(long_name + 16, 'e', 4097);
    assert_int_equal(addr_parse_nbd_uri(long_name, &a, name, sizeof(name), NULL), WEIR_E_INVALID);
    long_name[16 + 4096] = '\0';
    assert_int_equal(addr_parse_nbd_uri(long_name, &a, name, sizeof(name), NULL), 0);
}

static void locality_is_loopback_or_unix(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        bool local;
    } cases[] = {
        {"127.0.0.1:1", true},       {"127.9.9.9:1", true}, {"[::1]:1", true}, {"unix:/x", true},
        {"[::ffff:127.0.0.1]:1", true}, {"0.0.0.0:1", false}, {"[::]:1", false},
        {"10.0.0.1:1", false},       {"[fe80::1]:1", false},  {"[::ffff:10.0.0.1]:1", false},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct addr a;
        assert_int_equal(addr_parse(cases[i].text, 0, &a, NULL), 0);
        assert_int_equal(addr_is_local(&a), cases[i].local);
    }
}

/* Listen on @text, connect, accept; the three descriptors. */
static void make_pair(const char *text, int *l, int *c, int *s)
{
    struct addr a;
    char bound[ADDR_TEXT_SIZE];
    assert_int_equal(addr_parse(text, 0, &a, NULL), 0);
    *l = addr_listen(&a, 16, 0600);
    assert_true(*l >= 0);
    assert_int_equal(addr_local_text(*l, bound, sizeof(bound)), 0);
    assert_int_equal(addr_parse(bound, 0, &a, NULL), 0);
    *c = addr_connect(&a);
    assert_true(*c >= 0);
    struct pollfd p[2] = {{.fd = *c, .events = POLLOUT}, {.fd = *l, .events = POLLIN}};
    assert_true(poll(&p[0], 1, 10000) == 1);
    assert_int_equal(addr_connect_result(*c), 0);
    assert_true(poll(&p[1], 1, 10000) == 1);
    *s = accept(*l, NULL, NULL);
    assert_true(*s >= 0);
}

static void check_peer(const char *text, const char *host)
{
    int l, c, s;
    char out[INET6_ADDRSTRLEN];
    make_pair(text, &l, &c, &s);
    assert_int_equal(addr_peer_host(s, out, sizeof(out)), 0);
    assert_string_equal(out, host);
    close(l);
    close(c);
    close(s);
}

static bool has_ipv6(void)
{
    struct addr a;
    if (addr_parse("[::1]:0", 0, &a, NULL) != 0)
        return false;
    int fd = addr_listen(&a, 1, 0);
    if (fd >= 0)
        close(fd);
    return fd >= 0;
}

static void peers_are_named_without_their_port(void **state)
{
    (void)state;
    check_peer("127.0.0.1:0", "127.0.0.1");
    if (!has_ipv6()) {
        print_message("no IPv6 on this machine: its part is skipped\n");
        return;
    }
    check_peer("[::1]:0", "::1");
    /* A v4 client of a v6 listener is named by its v4 address. */
    struct addr a;
    int port_fd;
    assert_int_equal(addr_parse("[::]:0", 0, &a, NULL), 0);
    port_fd = addr_listen(&a, 1, 0);
    assert_true(port_fd >= 0);
    struct sockaddr_in6 in6;
    socklen_t len = sizeof(in6);
    assert_int_equal(getsockname(port_fd, (struct sockaddr *)&in6, &len), 0);
    char text[64], out[64];
    snprintf(text, sizeof(text), "127.0.0.1:%u", ntohs(in6.sin6_port));
    assert_int_equal(addr_parse(text, 0, &a, NULL), 0);
    int c = addr_connect(&a);
    struct pollfd p = {.fd = port_fd, .events = POLLIN};
    assert_int_equal(poll(&p, 1, 10000), 1);
    int s = accept(port_fd, NULL, NULL);
    assert_int_equal(addr_peer_host(s, out, sizeof(out)), 0);
    assert_string_equal(out, "127.0.0.1");
    close(s);
    close(c);
    close(port_fd);
}

static void tcp_connections_send_at_once(void **state)
{
    (void)state;
    int l, c, s, on = 0;
    socklen_t len = sizeof(on);
    make_pair("127.0.0.1:0", &l, &c, &s);
    assert_int_equal(getsockopt(c, IPPROTO_TCP, TCP_NODELAY, &on, &len), 0);
    assert_int_not_equal(on, 0);
    close(l);
    close(c);
    close(s);
}

static void a_refused_connection_is_told(void **state)
{
    (void)state;
    struct addr a;
    char bound[ADDR_TEXT_SIZE];
    assert_int_equal(addr_parse("127.0.0.1:0", 0, &a, NULL), 0);
    int l = addr_listen(&a, 1, 0);
    assert_int_equal(addr_local_text(l, bound, sizeof(bound)), 0);
    close(l);
    assert_int_equal(addr_parse(bound, 0, &a, NULL), 0);
    int c = addr_connect(&a);
    if (c >= 0) {
        struct pollfd p = {.fd = c, .events = POLLOUT};
        assert_int_equal(poll(&p, 1, 10000), 1);
        assert_int_equal(addr_connect_result(c), -ECONNREFUSED);
        close(c);
    } else {
        assert_int_equal(c, -ECONNREFUSED);
    }
}

static void unix_sockets_have_their_mode_and_replace_only_stale_files(void **state)
{
    (void)state;
    char dir[96], text[128], host[32], expected[32];
    assert_true(folder_make(dir, sizeof(dir), "addr"));
    snprintf(text, sizeof(text), "unix:%s/s", dir);
    const char *path = text + 5;
    mode_t old = umask(077);
    int l, c, s;
    make_pair(text, &l, &c, &s);
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0600);
    assert_int_equal(addr_peer_host(s, host, sizeof(host)), 0);
    snprintf(expected, sizeof(expected), "uid:%u", (unsigned)getuid());
    assert_string_equal(host, expected);

    /* Somebody listens: the file stays his. */
    struct addr a;
    assert_int_equal(addr_parse(text, 0, &a, NULL), 0);
    assert_int_equal(addr_listen(&a, 1, 0660), -EADDRINUSE);
    close(l);
    /* Nobody does any more: it is replaced, with more rights than the umask leaves. */
    l = addr_listen(&a, 1, 0660);
    assert_true(l >= 0);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0660);
    close(l);
    unlink(path);
    /* Some other file is never touched. */
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fclose(f);
    assert_int_equal(addr_listen(&a, 1, 0660), -EADDRINUSE);
    assert_int_equal(stat(path, &st), 0);
    assert_true(S_ISREG(st.st_mode));
    umask(old);
    close(c);
    close(s);
    unlink(path);
    rmdir(dir);
}

static void a_uri_leads_to_the_same_place_with_tls_and_without(void **state)
{
    (void)state;
    assert_string_equal(addr_uri_place("nbd://host/a"), addr_uri_place("nbds://host/a"));
    assert_string_equal(addr_uri_place("nbd+unix:///a?socket=/x"),
                        addr_uri_place("nbds+unix:///a?socket=/x"));
    assert_string_not_equal(addr_uri_place("nbd://host/a"), addr_uri_place("nbds://host/b"));
    assert_string_not_equal(addr_uri_place("nbd://host/a"), addr_uri_place("host/a"));
    assert_string_equal(addr_uri_place("host/a"), "host/a");
    assert_string_equal(addr_uri_place(""), "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_uri_leads_to_the_same_place_with_tls_and_without),
        cmocka_unit_test(every_form_of_address_is_read),
        cmocka_unit_test(other_forms_of_address_are_refused_with_words),
        cmocka_unit_test(nbd_uris_are_read_as_specified),
        cmocka_unit_test(other_uris_are_refused_with_words),
        cmocka_unit_test(locality_is_loopback_or_unix),
        cmocka_unit_test(peers_are_named_without_their_port),
        cmocka_unit_test(tcp_connections_send_at_once),
        cmocka_unit_test(a_refused_connection_is_told),
        cmocka_unit_test(unix_sockets_have_their_mode_and_replace_only_stale_files),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
