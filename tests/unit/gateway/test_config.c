/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: gateway.conf means what gateway.conf(5) says, nothing wrong in it passes unseen, and every
 * error names file, line, key, what was found and what was expected. Method: files in a folder of
 * its own, good ones compared field by field, bad ones by their messages. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "../folder.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "gateway/config.h"

struct place {
    char dir[128], file[192], drop[192];
    struct gateway_config *c;
    struct text errors;
};

static int make_place(void **state)
{
    struct place *p = calloc(1, sizeof(*p));
    if (!folder_make(p->dir, sizeof(p->dir), "config"))
        return -1;
    snprintf(p->file, sizeof(p->file), "%s/gateway.conf", p->dir);
    snprintf(p->drop, sizeof(p->drop), "%s/gateway.conf.d", p->dir);
    p->c = calloc(1, sizeof(*p->c));
    gateway_config_init(p->c);
    text_init(&p->errors, 1024 * 1024);
    *state = p;
    return 0;
}

static int drop_place(void **state)
{
    struct place *p = *state;
    char command[192];
    gateway_config_fini(p->c);
    free(p->c);
    text_fini(&p->errors);
    snprintf(command, sizeof(command), "rm -rf %s", p->dir);
    int r = system(command);
    free(p);
    return r;
}

static void write_file(const char *path, const char *s)
{
    assert_int_equal(text_write_file_atomic(path, s, strlen(s), 0600), 0);
}

/* Load @s from scratch. */
static int load(struct place *p, const char *s)
{
    gateway_config_fini(p->c);
    gateway_config_init(p->c);
    text_clear(&p->errors);
    write_file(p->file, s);
    return gateway_config_load(p->c, p->file, &p->errors);
}

/* Load and check; both must be content. */
static void load_good(struct place *p, const char *s)
{
    int r = load(p, s);
    if (r == 0)
        r = gateway_config_check(p->c, &p->errors);
    if (r != 0 || p->errors.len != 0)
        fail_msg("refused (%d):\n%s", r, p->errors.data);
}

#define BASE                          \
    "[listener a]\n"                  \
    "address = 127.0.0.1:10810\n"     \
    "target = t\n"                    \
    "[target t]\n"                    \
    "uri = nbd://127.0.0.1:10809/x\n"

static void an_empty_file_leaves_the_defaults(void **state)
{
    struct place *p = *state;
    assert_int_equal(load(p, ""), 0);
    assert_string_equal(p->c->state_dir, "/var/lib/weir-gateway");
    assert_int_equal(p->c->max_streams, 512);
    assert_int_equal(p->c->max_connections, 1024);
    assert_int_equal(p->c->max_connections_per_host, 512);
    assert_true(p->c->handshake_timeout_ns == 10 * NS_PER_S);
    assert_true(p->c->max_hold_ns == 10 * NS_PER_S);
    assert_int_equal(p->c->log_level, LOG_LEVEL_INFO);
    assert_true(name_is_plain(p->c->name));
    assert_int_equal(p->c->server_count, 0);
    /* But a gateway that listens nowhere is refused. */
    assert_int_equal(gateway_config_check(p->c, &p->errors), WEIR_E_INVALID);
    assert_non_null(strstr(p->errors.data, "nothing to listen on"));
}

static void every_key_reaches_its_field(void **state)
{
    struct place *p = *state;
    char token[160], text[4096];
    snprintf(token, sizeof(token), "%s/token", p->dir);
    write_file(token, "abc.DEF-123\nrest\n");
    snprintf(text, sizeof(text),
             "[volume db]\ntarget = array1\nexport = disk/1\ntenant = acme\n"
             "[volume 100%% odd/name]\ntarget = array1\n"
             "[listener web]\naddress = unix:/tmp/x.sock\ntarget = array1\nunix-mode = 0666\n"
             "[gateway]\nname = gw1\nstate-dir = /var/x\nsocket = /run/x.sock\nlog-level = debug\n"
             "max-streams = 7\nmax-connections = 8\nmax-connections-per-host = 9\n"
             "handshake-timeout = 3s\nmax-hold = 250ms\nio-engine = epoll\n"
             "busy-poll = 20us\n"
             "hold-memory = 1MiB\npeer-timeout = 5s\n"
             "[server]\naddress = 127.0.0.1\naddress = [::1]:7401\nkey-file = /k\ntoken-file = %s\n"
             "[target array1]\nuri = nbd://127.0.0.1/exp%%20ort\ntenant = fallback\n"
             "[limit all]\nhost = 10.*\nvolume = db*\ntenant = a?\ntarget = arr*\nper = stream\n"
             "iops = 100\niops-read = 90\niops-write = 80\nbandwidth = 1MiB/s\n"
             "bandwidth-read = 2MB/s\nbandwidth-write = unlimited\nburst-iops = 200\n"
             "burst-bandwidth = 3MiB/s\nburst-for = 60s\n",
             token);
    load_good(p, text);
    const struct gateway_config *c = p->c;
    assert_string_equal(c->name, "gw1");
    assert_string_equal(c->state_dir, "/var/x");
    assert_string_equal(c->socket_path, "/run/x.sock");
    assert_int_equal(c->log_level, LOG_LEVEL_DEBUG);
    assert_int_equal(c->io_engine, CONFIG_ENGINE_EPOLL);
    assert_true(c->busy_poll_ns == 20 * NS_PER_US);
    assert_int_equal(c->max_streams, 7);
    assert_int_equal(c->max_connections, 8);
    assert_int_equal(c->max_connections_per_host, 9);
    assert_true(c->handshake_timeout_ns == 3 * NS_PER_S);
    assert_true(c->max_hold_ns == 250 * NS_PER_MS);
    assert_true(c->hold_memory == 1 << 20);
    assert_true(c->peer_timeout_ns == 5 * NS_PER_S);
    assert_int_equal(c->server_count, 2);
    assert_string_equal(c->servers[0].text, "127.0.0.1");
    assert_string_equal(c->servers[1].text, "[::1]:7401");
    assert_string_equal(c->key_file, "/k");
    assert_string_equal(c->token, "abc.DEF-123");

    assert_int_equal(c->listener_count, 1);
    assert_string_equal(c->listeners[0].name, "web");
    assert_int_equal(c->listeners[0].unix_mode, 0666);
    assert_ptr_equal(c->listeners[0].target, &c->targets[0]);
    assert_string_equal(c->targets[0].export_name, "exp ort");
    assert_string_equal(c->targets[0].uri, "nbd://127.0.0.1/exp%20ort");
    assert_string_equal(c->targets[0].tenant, "fallback");
    assert_int_equal(c->targets[0].volume_count, 2);
    const struct volume_config *db = c->targets[0].volumes[0], *odd = c->targets[0].volumes[1];
    assert_string_equal(db->name, "db");
    assert_string_equal(db->export_name, "disk/1");
    assert_string_equal(db->tenant, "acme");
    assert_string_equal(odd->name, "100% odd/name");
    assert_string_equal(odd->export_name, "100% odd/name");

    const struct limit_config *l = &c->limits[0];
    assert_string_equal(l->name, "all");
    assert_string_equal(l->host, "10.*");
    assert_string_equal(l->volume, "db*");
    assert_string_equal(l->tenant, "a?");
    assert_string_equal(l->target, "arr*");
    assert_true(l->per_stream);
    static const uint64_t rates[GATE_KIND_COUNT] = {
        [GATE_IOPS_TOTAL] = 100,     [GATE_IOPS_READ] = 90,       [GATE_IOPS_WRITE] = 80,
        [GATE_BYTES_TOTAL] = 1048576, [GATE_BYTES_READ] = 2000000, [GATE_BYTES_WRITE] = 0,
    };
    for (int k = 0; k < GATE_KIND_COUNT; k++)
        assert_true(l->limits.rate[k].rate == rates[k]);
    assert_true(l->limits.rate[GATE_IOPS_TOTAL].burst_rate == 200);
    assert_true(l->limits.rate[GATE_BYTES_TOTAL].burst_rate == 3145728);
    assert_true(l->limits.rate[GATE_IOPS_TOTAL].burst_ns == 60 * NS_PER_S);
    assert_true(l->limits.rate[GATE_IOPS_READ].burst_ns == 0);
}

static void the_socket_lies_in_the_state_folder_unless_said(void **state)
{
    struct place *p = *state;
    load_good(p, BASE "[gateway]\nstate-dir = /var/x\n");
    assert_string_equal(p->c->socket_path, "/var/x/gateway.sock");
}

static void drop_ins_complete_and_override(void **state)
{
    struct place *p = *state;
    char path[256];
    mkdir(p->drop, 0700);
    snprintf(path, sizeof(path), "%s/50-more.conf", p->drop);
    write_file(path, "[target t]\nuri = nbd://127.0.0.1:9/y\n[limit x]\niops = 20\nhost = b\n");
    load_good(p, "[listener a]\naddress = 127.0.0.1:10810\ntarget = t\n[target t]\ntenant = me\n"
                 "[limit x]\niops = 10\nhost = a\nvolume = v\n");
    assert_string_equal(p->c->targets[0].uri, "nbd://127.0.0.1:9/y");
    assert_string_equal(p->c->targets[0].tenant, "me");
    assert_int_equal(p->c->limit_count, 1);
    assert_true(p->c->limits[0].limits.rate[GATE_IOPS_TOTAL].rate == 20);
    assert_string_equal(p->c->limits[0].host, "b");
    assert_string_equal(p->c->limits[0].volume, "v");
}

static void what_is_wrong_is_refused_where_it_stands(void **state)
{
    struct place *p = *state;
    static const struct {
        const char *text;
        int line;
        const char *words[2];
    } bad[] = {
        {"[gateway]\nnmae = x\n", 2, {"unknown key \"nmae\"", "known here: name, state-dir"}},
        {"[gatway]\nname = x\n", 1, {"unknown section [gatway]", "[limit NAME]"}},
        {"[gatway]\n", 1, {"unknown section [gatway]", ""}},
        {"name = x\n", 1, {"above the first section", "expected a section"}},
        {"[gateway main]\n", 1, {"has no name", ""}},
        {"[listener]\naddress = 127.0.0.1:1\n", 1, {"[listener]", "expected a name"}},
        {"[target a/b]\nuri = nbd://127.0.0.1\n", 1, {"expected a name", ""}},
        {"[gateway]\nname = a b\n", 2, {"name: found \"a b\"", "expected letters"}},
        {"[gateway]\nname = a\nname = b\n", 3, {"found \"b\"", "once in its section"}},
        {"[gateway]\nstate-dir = var\n", 2, {"found \"var\"", "absolute path"}},
        {"[gateway]\nlog-level = loud\n", 2, {"error, warning, info or debug", ""}},
        {"[gateway]\nio-engine = uring\n", 2, {"found \"uring\"", "auto, io_uring or epoll"}},
        {"[gateway]\nbusy-poll = 2ms\n", 2, {"found \"2ms\"", "off, or a duration up to 1ms"}},
        {"[gateway]\nmax-streams = 0\n", 2, {"a whole number from 1 to 16384", ""}},
        {"[gateway]\nmax-streams = 16385\n", 2, {"a whole number from 1 to 16384", ""}},
        {"[gateway]\nmax-streams = 12x\n", 2, {"a whole number", ""}},
        {"[gateway]\nmax-hold = 10\n", 2, {"found \"10\"", "a duration from 100ms to 10m"}},
        {"[gateway]\nmax-hold = 11m\n", 2, {"a duration from 100ms to 10m", ""}},
        {"[server]\naddress = nowhere:port\n", 2, {"expected a port", ""}},
        {"[server]\ntoken-file = /etc/passwd\n", 2, {"token-file", "a token in its first line"}},
        {BASE "unix-mode = 9\n", 6, {"unknown key", ""}},
        {"[listener b]\nunix-mode = 0888\n", 2, {"octal mode", ""}},
        {"[listener b]\ntarget = nope\n", 2, {"found \"nope\"", "[target NAME]"}},
        {"[listener b]\naddress = 127.0.0.1:1\n", 1, {"[listener b]", "no target"}},
        {"[target b]\ntenant = x\n", 1, {"[target b]", "no uri"}},
        {"[target b]\nuri = http://x/\n", 2, {"found \"http://x/\"", "nbd://"}},
        {"[volume b]\nexport = x\n", 1, {"[volume b]", "no target"}},
        {"[limit b]\nhost = x\n", 1, {"[limit b]", "limits nothing"}},
        {"[limit b]\niops = unlimited\n", 1, {"[limit b]", "limits nothing"}},
        {"[limit b]\niops = 0\n", 2, {"found \"0\"", "from 1 to"}},
        {"[limit b]\niops = 4k\n", 2, {"found \"4k\"", "whole I/Os"}},
        {"[limit b]\nbandwidth = 10M\n", 2, {"found \"10M\"", "MiB/s"}},
        {"[limit b]\nbandwidth = 2TB/s\n", 2, {"found \"2TB/s\"", "1B/s to 1TB/s"}},
        {"[limit b]\nbandwidth-read = 1000000000001\n", 2, {"found", "1B/s to 1TB/s"}},
        {"[limit b]\niops = 1\nburst-bandwidth = 900TiB/s\n", 3, {"found", "1B/s to 1TB/s"}},
        {"[limit b]\niops = 5\nper = host\n", 3, {"stream", "group"}},
        {"[limit b]\niops = 5\nburst-iops = 9\n", 3, {"needs burst-for", ""}},
        {"[limit b]\niops = 5\nburst-for = 9s\n", 3, {"burst-for needs", ""}},
        {"[limit b]\niops = 5\nburst-iops = 5\nburst-for = 9s\n", 3, {"iops below it", ""}},
        {"[limit b]\niops = 5\nburst-bandwidth = 5MB/s\nburst-for = 9s\n", 3, {"bandwidth", ""}},
        {"[limit b]\niops = 5\n[limit b]\niops = 6\n", 3, {"opened on line 1 already", ""}},
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        char where[256];
        snprintf(where, sizeof(where), "%s:%d: ", p->file, bad[i].line);
        int r = load(p, bad[i].text);
        if (r != WEIR_E_PARSE || !strstr(p->errors.data, where) ||
            !strstr(p->errors.data, bad[i].words[0]) || !strstr(p->errors.data, bad[i].words[1]))
            fail_msg("\"%s\" gave %d:\n%s", bad[i].text, r, p->errors.data);
    }
}

static void all_errors_of_a_file_are_listed(void **state)
{
    struct place *p = *state;
    assert_int_equal(
        load(p, "[gateway]\nmax-hold = x\nnmae = y\n[nothing]\n[limit a]\niops = -1\n"),
        WEIR_E_PARSE);
    size_t lines = 0;
    for (const char *s = p->errors.data; (s = strchr(s, '\n')); s++)
        lines++;
    assert_int_equal(lines, 4);
}

static void outside_text_in_errors_is_escaped(void **state)
{
    struct place *p = *state;
    assert_int_equal(load(p, "[gateway]\nname = \x1b[2J\n"), WEIR_E_PARSE);
    assert_null(strchr(p->errors.data, '\x1b'));
    assert_non_null(strstr(p->errors.data, "\\x1b[2J"));
}

static void a_server_whose_authority_cannot_be_read_is_refused(void **state)
{
    struct place *p = *state;
    assert_int_equal(load(p, BASE "[server]\naddress = 10.0.0.1:7400\ntls-ca = /nowhere/ca.pem\n"),
                     WEIR_E_PARSE);
    assert_non_null(
        strstr(p->errors.data, "[server] tls-ca: found \"/nowhere/ca.pem\", expected "));
}

static void two_listeners_on_one_address_are_refused(void **state)
{
    struct place *p = *state;
    assert_int_equal(load(p, BASE "[listener b]\naddress = 127.0.0.1:10810\ntarget = t\n"), 0);
    assert_int_equal(gateway_config_check(p->c, &p->errors), WEIR_E_INVALID);
    assert_non_null(strstr(p->errors.data, "\"a\" and \"b\""));
}

static void checking_twice_gives_the_same(void **state)
{
    struct place *p = *state;
    load_good(p, BASE "[volume v]\ntarget = t\n[volume w]\ntarget = t\n");
    assert_int_equal(gateway_config_check(p->c, &p->errors), 0);
    assert_int_equal(p->c->targets[0].volume_count, 2);
}

static void numbers_of_sections_are_bounded(void **state)
{
    struct place *p = *state;
    struct text t;
    text_init(&t, 1024 * 1024);
    text_append_str(&t, "[target t]\nuri = nbd://127.0.0.1\n");
    for (unsigned i = 0; i < CONFIG_MAX_VOLUMES; i++)
        text_printf(&t, "[volume v%u]\ntarget = t\n", i);
    assert_int_equal(load(p, t.data), 0);
    assert_int_equal(p->c->volume_count, CONFIG_MAX_VOLUMES);
    text_append_str(&t, "[volume more]\ntarget = t\n");
    assert_int_equal(load(p, t.data), WEIR_E_PARSE);
    assert_non_null(strstr(p->errors.data, "more than 4096 sections of this kind"));

    text_clear(&t);
    for (unsigned i = 0; i <= CONFIG_MAX_TARGETS; i++)
        text_printf(&t, "[target t%u]\nuri = nbd://127.0.0.1\n", i);
    assert_int_equal(load(p, t.data), WEIR_E_PARSE);
    assert_non_null(strstr(p->errors.data, "more than 64 sections of this kind"));
    text_clear(&t);
    text_append_str(&t, "[server]\n");
    for (unsigned i = 0; i <= CONFIG_MAX_SERVERS; i++)
        text_printf(&t, "address = 127.0.0.1:%u\n", 1000 + i);
    assert_int_equal(load(p, t.data), WEIR_E_PARSE);
    assert_non_null(strstr(p->errors.data, "at most 8 servers"));
    text_fini(&t);
}

#define TEST(a_test_with_a_folder) \
    cmocka_unit_test_setup_teardown(a_test_with_a_folder, make_place, drop_place)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(an_empty_file_leaves_the_defaults),
        TEST(every_key_reaches_its_field),
        TEST(the_socket_lies_in_the_state_folder_unless_said),
        TEST(drop_ins_complete_and_override),
        TEST(what_is_wrong_is_refused_where_it_stands),
        TEST(all_errors_of_a_file_are_listed),
        TEST(outside_text_in_errors_is_escaped),
        TEST(a_server_whose_authority_cannot_be_read_is_refused),
        TEST(two_listeners_on_one_address_are_refused),
        TEST(checking_twice_gives_the_same),
        TEST(numbers_of_sections_are_bounded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
