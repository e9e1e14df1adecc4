/* SPDX-License-Identifier: Apache-2.0 */
/* server.conf: one table of keys is the one truth for reading, checking and the list in an error.
 */
#include <config.h>
#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/addr.h"
#include "base/clock.h"
#include "base/conf.h"
#include "base/err.h"
#include "base/log.h"
#include "base/text.h"
#include "base/units.h"
#include "server/threads.h"

#define DAY_NS (86400 * NS_PER_S)
#define HOST_LETTERS "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.:"

void server_config_init(struct server_config *c)
{
    *c = (struct server_config){
        .control_listen = {"127.0.0.1:7400"},
        .control_listen_count = 1,
        .http_listen = "127.0.0.1:7480",
        .state_dir = "/var/lib/weir",
        .pairs = 0,
        .sla_processes = 0,
        .readers = 2,
        .period_ns = NS_PER_S,
        .lease_ns = 10 * NS_PER_S,
        .probe_period_ns = 10 * NS_PER_S,
        .probe_tls_count = 1,
        .max_gateways = 10000,
        .credential_age_ns = 90 * DAY_NS,
        .log_level = LOG_LEVEL_INFO,
        .sandbox = true,
        .keep_1s_ns = DAY_NS / 12,
        .keep_10s_ns = DAY_NS,
        .keep_1min_ns = 14 * DAY_NS,
        .keep_1h_ns = 400 * DAY_NS,
    };
}

enum value_type {
    VALUE_PATH, /* absolute */
    VALUE_TEXT, /* any words */
    VALUE_HOST, /* a name or address of a machine */
    VALUE_LISTEN,
    VALUE_GATEWAY,
    VALUE_HTTP,
    VALUE_COUNT,
    VALUE_AUTO, /* a count, or "auto", which is 0 */
    VALUE_DURATION,
    VALUE_BOOL,
    VALUE_LEVEL,
    VALUE_ADMISSION, /* auto or manual; true: manual */
    VALUE_DISCOVERY  /* off or dns-sd; true: dns-sd */
};

struct key {
    const char *section, *key;
    enum value_type type;
    size_t offset, size; /* in the configuration; of [target NAME] in its struct probe_tls */
    uint64_t min, max; /* of counts; of durations in ns */
};

#define COUNT_OF(member)                                                                           \
    (sizeof(((struct server_config *)0)->member) / sizeof(((struct server_config *)0)->member[0]))
#define FIELD(member)                                                                              \
    offsetof(struct server_config, member), sizeof(((struct server_config *)0)->member)

#define FILES(member)                                                                              \
    offsetof(struct probe_tls, files.member), sizeof(((struct probe_tls *)0)->files.member), 0, 0
#define OF_ALL(member)                                                                             \
    offsetof(struct server_config, probe_tls[0].files.member),                                     \
        sizeof(((struct probe_tls *)0)->files.member), 0, 0

static const struct key keys[] = {
    {"server", "state-dir", VALUE_PATH, FIELD(state_dir), 0, 0},
    {"server", "log-level", VALUE_LEVEL, FIELD(log_level), 0, 0},
    {"server", "pairs", VALUE_AUTO, FIELD(pairs), 1, THREADS_MAX_PAIRS},
    {"server", "sla-processes", VALUE_AUTO, FIELD(sla_processes), 1, THREADS_MAX_SERVICES},
    {"server", "pin", VALUE_BOOL, FIELD(pin), 0, 0},
    {"server", "store-readers", VALUE_COUNT, FIELD(readers), 2, THREADS_MAX_READERS},
    {"server", "max-gateways", VALUE_COUNT, FIELD(max_gateways), 1, 100000},
    {"server", "period", VALUE_DURATION, FIELD(period_ns), 100 * NS_PER_MS, 60 * NS_PER_S},
    {"server", "lease", VALUE_DURATION, FIELD(lease_ns), NS_PER_S, 600 * NS_PER_S},
    {"server", "observe", VALUE_BOOL, FIELD(observe), 0, 0},
    {"server", "sandbox", VALUE_BOOL, FIELD(sandbox), 0, 0},
    {"control", "listen", VALUE_LISTEN, FIELD(control_listen), 0, 0},
    {"control", "gateways", VALUE_GATEWAY, FIELD(gateways), 0, 0},
    {"control", "discovery", VALUE_DISCOVERY, FIELD(dns_sd), 0, 0},
    {"control", "admission", VALUE_ADMISSION, FIELD(manual_admission), 0, 0},
    {"control", "credential-age", VALUE_DURATION, FIELD(credential_age_ns), 60 * NS_PER_S,
     4000 * DAY_NS},
    {"control", "tls-certificate", VALUE_PATH, FIELD(control_certificate), 0, 0},
    {"control", "tls-key", VALUE_PATH, FIELD(control_key), 0, 0},
    {"control", "tls-client-ca", VALUE_PATH, FIELD(control_ca), 0, 0},
    {"http", "listen", VALUE_HTTP, FIELD(http_listen), 0, 0},
    {"http", "tls-certificate", VALUE_PATH, FIELD(http_certificate), 0, 0},
    {"http", "tls-key", VALUE_PATH, FIELD(http_key), 0, 0},
    {"resource", "probe-period", VALUE_DURATION, FIELD(probe_period_ns), NS_PER_S, 3600 * NS_PER_S},
    {"resource", "tls-ca", VALUE_PATH, OF_ALL(ca)},
    {"resource", "tls-certificate", VALUE_PATH, OF_ALL(certificate)},
    {"resource", "tls-key", VALUE_PATH, OF_ALL(key)},
    {"resource", "tls-psk-file", VALUE_PATH, OF_ALL(psk)},
    {"resource", "tls-psk-identity", VALUE_TEXT, OF_ALL(psk_identity)},
    {"target", "tls-ca", VALUE_PATH, FILES(ca)},
    {"target", "tls-verify-name", VALUE_HOST, FILES(verify_name)},
    {"target", "tls-certificate", VALUE_PATH, FILES(certificate)},
    {"target", "tls-key", VALUE_PATH, FILES(key)},
    {"target", "tls-psk-file", VALUE_PATH, FILES(psk)},
    {"target", "tls-psk-identity", VALUE_TEXT, FILES(psk_identity)},
    {"history", "keep-1s", VALUE_DURATION, FIELD(keep_1s_ns), 60 * NS_PER_S, 4000 * DAY_NS},
    {"history", "keep-10s", VALUE_DURATION, FIELD(keep_10s_ns), 60 * NS_PER_S, 4000 * DAY_NS},
    {"history", "keep-1min", VALUE_DURATION, FIELD(keep_1min_ns), 60 * NS_PER_S, 4000 * DAY_NS},
    {"history", "keep-1h", VALUE_DURATION, FIELD(keep_1h_ns), 60 * NS_PER_S, 4000 * DAY_NS},
};

#define KEY_COUNT (sizeof(keys) / sizeof(keys[0]))

static int read_count(const char *value, uint64_t min, uint64_t max, uint32_t *ret)
{
    char *end = NULL;
    if (value[0] < '0' || value[0] > '9')
        return WEIR_E_INVALID;
    errno = 0;
    unsigned long long n = strtoull(value, &end, 10);
    if (errno != 0 || *end != '\0' || n < min || n > max)
        return WEIR_E_INVALID;
    *ret = (uint32_t)n;
    return 0;
}

/* 0, or WEIR_E_INVALID and what was @expected. */
static int judge_address(const char *address, uint16_t port, const char **expected)
{
    struct addr a;
    return addr_parse(address, port, &a, expected) < 0 ? WEIR_E_INVALID : 0;
}

/* Put a good address behind the @count in @list, which has room for @max of @size bytes. */
static int read_address(const char *value, uint16_t port, char *list, size_t size, size_t *count,
                        size_t max, const char **expected)
{
    int r = judge_address(value, port, expected);
    if (r < 0)
        return r;
    *expected = "no more addresses than there may be, and no longer ones (see server.conf(5))";
    if (*count >= max || text_copy(list + *count * size, size, value) < 0)
        return WEIR_E_INVALID;
    (*count)++;
    return 0;
}

/* Each reader writes its field, of the @base that the key's offset is in, and returns 0, or leaves
 * it and names what was expected. */
static int read_value(struct server_config *c, void *base, const struct key *k, const char *value,
                      char *expected, size_t size)
{
    char *field = (char *)base + k->offset;
    const char *words = "a value";
    int r = WEIR_E_INVALID;
    switch (k->type) {
    case VALUE_PATH:
        words = "an absolute path that is not too long";
        r = value[0] == '/' ? text_copy(field, k->size, value) : WEIR_E_INVALID;
        break;
    case VALUE_TEXT:
        words = "words that are not too long";
        r = text_copy(field, k->size, value);
        break;
    case VALUE_HOST:
        words = "the name or address of a machine";
        r = value[strspn(value, HOST_LETTERS)] == '\0' ? text_copy(field, k->size, value)
                                                       : WEIR_E_INVALID;
        break;
    case VALUE_LISTEN:
        r = read_address(value, 7400, c->control_listen[0], sizeof(c->control_listen[0]),
                         &c->control_listen_count, COUNT_OF(control_listen), &words);
        break;
    case VALUE_GATEWAY:
        r = read_address(value, 7401, c->gateways[0], sizeof(c->gateways[0]),
                         &c->gateway_count, COUNT_OF(gateways), &words);
        break;
    case VALUE_HTTP: {
        size_t none = 0;
        r = read_address(value, 7480, field, k->size, &none, 1, &words);
        break;
    }
    case VALUE_AUTO:
        snprintf(expected, size, "a whole number from %llu to %llu, or auto",
                 (unsigned long long)k->min, (unsigned long long)k->max);
        if (strcmp(value, "auto") != 0)
            return read_count(value, k->min, k->max, (uint32_t *)(void *)field);
        *(uint32_t *)(void *)field = 0;
        return 0;
    case VALUE_COUNT:
        r = read_count(value, k->min, k->max, (uint32_t *)(void *)field);
        snprintf(expected, size, "a whole number from %llu to %llu", (unsigned long long)k->min,
                 (unsigned long long)k->max);
        return r;
    case VALUE_DURATION: {
        uint64_t ns;
        char low[32], high[32];
        r = units_parse_duration_ns(value, &ns, &words);
        if (r == 0 && (ns < k->min || ns > k->max))
            r = WEIR_E_INVALID;
        if (r == 0)
            memcpy(field, &ns, sizeof(ns));
        snprintf(expected, size, "a duration from %s to %s",
                 units_format_duration_ns(k->min, low, sizeof(low)),
                 units_format_duration_ns(k->max, high, sizeof(high)));
        return r;
    }
    case VALUE_BOOL: {
        int on;
        r = units_parse_bool(value, &on, &words);
        if (r == 0)
            *(bool *)(void *)field = on != 0;
        break;
    }
    case VALUE_LEVEL: {
        enum log_level level;
        words = "error, warning, info or debug";
        r = log_level_parse(value, &level);
        if (r == 0)
            *(uint32_t *)(void *)field = level;
        break;
    }
    case VALUE_ADMISSION:
        words = "auto or manual";
        if (strcmp(value, "auto") == 0 || strcmp(value, "manual") == 0) {
            *(bool *)(void *)field = value[0] == 'm';
            r = 0;
        }
        break;
    case VALUE_DISCOVERY:
        words = HAVE_AVAHI ? "off or dns-sd" : "off: this server was built without avahi";
        if (strcmp(value, "off") == 0 || (HAVE_AVAHI && strcmp(value, "dns-sd") == 0)) {
            *(bool *)(void *)field = value[0] == 'd';
            r = 0;
        }
        break;
    }
    snprintf(expected, size, "%s", words);
    return r;
}

static const struct key *key_find(const struct conf_entry *e)
{
    for (size_t i = 0; i < KEY_COUNT; i++)
        if (strcmp(keys[i].section, e->kind) == 0 && strcmp(keys[i].key, e->key) == 0)
            return &keys[i];
    return NULL;
}

static void list_known(const char *section, char *out, size_t size)
{
    size_t at = 0;
    out[0] = '\0';
    for (size_t i = 0; i < KEY_COUNT; i++) {
        bool here = strcmp(keys[i].section, section) == 0;
        int n = here ? snprintf(out + at, size - at, "%s%s", at > 0 ? ", " : "", keys[i].key) : 0;
        if (n > 0 && (size_t)n < size - at)
            at += (size_t)n;
    }
    if (at == 0)
        snprintf(out, size,
                 "no key in [%s]; sections are server, control, http, resource, history, and "
                 "target NAME",
                 section);
}

/* What the keys of this entry's section are in: the configuration, or what [target NAME] says.
 * NULL: a section that has no name must have one, or there are too many. */
static void *base_of(struct server_config *c, const struct conf_entry *e)
{
    if (strcmp(e->kind, "target") != 0)
        return e->name[0] == '\0' ? c : NULL;
    for (size_t i = 1; i < c->probe_tls_count; i++)
        if (strcmp(c->probe_tls[i].target, e->name) == 0)
            return &c->probe_tls[i];
    struct probe_tls *t = &c->probe_tls[c->probe_tls_count];
    if (e->name[0] == '\0' || c->probe_tls_count == COUNT_OF(probe_tls) ||
        text_copy(t->target, sizeof(t->target), e->name) < 0)
        return NULL;
    c->probe_tls_count++;
    return t;
}

int server_config_load(struct server_config *c, const char *path, struct text *errors)
{
    struct conf *conf;
    int r = conf_load(path, &conf, errors);
    if (r < 0)
        return r;
    bool listens_named = false;
    for (size_t i = 0; i < conf_count(conf); i++) {
        const struct conf_entry *e = conf_at(conf, i);
        const struct key *k = key_find(e);
        void *base = k != NULL ? base_of(c, e) : NULL;
        char words[512];
        if (k != NULL && base == NULL && strcmp(e->kind, "target") == 0) {
            conf_error(errors, e, "a section [target NAME] with the name that gateways give the "
                                  "target, at most 32 of them");
            r = WEIR_E_PARSE;
            continue;
        }
        if (base == NULL) {
            list_known(e->kind, words, sizeof(words));
            conf_unknown(errors, e, words);
            r = WEIR_E_PARSE;
            continue;
        }
        if (k->type == VALUE_LISTEN && !listens_named) {
            c->control_listen_count = 0; /* the first one named replaces the default */
            listens_named = true;
        }
        bool list = k->type == VALUE_LISTEN || k->type == VALUE_GATEWAY;
        if (!list && conf_is_repeated(conf, i)) {
            conf_error(errors, e, "this key once in its section");
            r = WEIR_E_PARSE;
        } else if (read_value(c, base, k, e->value, words, sizeof(words)) < 0) {
            conf_error(errors, e, words);
            r = WEIR_E_PARSE;
        }
    }
    c->file = conf;
    if (r < 0)
        server_config_forget(c);
    return r;
}

void server_config_forget(struct server_config *c)
{
    conf_free(c->file);
    c->file = NULL;
}

/* "file:line: " of a key that the checks below find at fault; nothing where no file has it, or
 * where an option has put something else in the place of the file's @value. */
static void put_line(const struct server_config *c, const char *kind, const char *name,
                     const char *key, const char *value, struct text *errors)
{
    const struct conf_entry *e = c->file != NULL ? conf_find(c->file, kind, name, key) : NULL;
    if (e != NULL && (value == NULL || strcmp(e->value, value) == 0))
        text_printf(errors, "%s:%d: ", e->file, e->line);
}

static int check_address(const char *what, const char *address, uint16_t port, struct text *errors)
{
    const char *expected;
    if (judge_address(address, port, &expected) == 0)
        return 0;
    text_printf(errors, "%s: found \"%s\", expected %s\n", what, address, expected);
    return WEIR_E_INVALID;
}

static int check_pair(const struct server_config *c, const char *section, const char *certificate,
                      const char *key, struct text *errors)
{
    if ((certificate[0] == '\0') == (key[0] == '\0'))
        return 0;
    put_line(c, section, "", key[0] == '\0' ? "tls-certificate" : "tls-key", NULL, errors);
    text_printf(errors, "[%s] tls-certificate, tls-key: found one, expected both\n", section);
    return WEIR_E_INVALID;
}

/* Tokens and answers go over the wire there: beyond loopback not in clear. */
static int check_http(const struct server_config *c, struct text *errors)
{
    struct addr a;
    const char *expected;
    int r = check_pair(c, "http", c->http_certificate, c->http_key, errors);
    if (check_address("[http] listen", c->http_listen, 7480, errors) < 0)
        return WEIR_E_INVALID;
    if (c->http_certificate[0] != '\0' || addr_parse(c->http_listen, 7480, &a, &expected) < 0 ||
        addr_is_local(&a))
        return r;
    put_line(c, "http", "", "listen", c->http_listen, errors);
    text_printf(errors,
                "[http] listen: found \"%s\", expected a loopback address, or tls-certificate and "
                "tls-key in [http]: beyond loopback HTTP is spoken through TLS only\n",
                c->http_listen);
    return WEIR_E_INVALID;
}

/* Of what probes need for TLS; the files are read at the start. */
static int check_probe_tls(const struct server_config *c, struct text *errors)
{
    int r = 0;
    for (size_t i = 0; i < c->probe_tls_count; i++) {
        const struct tls_files *f = &c->probe_tls[i].files, *all = &c->probe_tls[0].files;
        const char *words = NULL, *key = "tls-psk-identity";
        if ((f->certificate[0] == '\0') != (f->key[0] == '\0')) {
            words = "tls-certificate, tls-key: found one, expected both";
            key = f->key[0] == '\0' ? "tls-certificate" : "tls-key";
        } else if (f->psk_identity[0] != '\0' && f->psk[0] == '\0' && all->psk[0] == '\0') {
            words = "tls-psk-identity: found alone, expected tls-psk-file with it";
        }
        if (words == NULL)
            continue;
        put_line(c, i == 0 ? "resource" : "target", c->probe_tls[i].target, key, NULL, errors);
        text_printf(errors, "[%s%s] %s\n", i == 0 ? "resource" : "target ",
                    c->probe_tls[i].target, words);
        r = WEIR_E_INVALID;
    }
    return r;
}

/* A pair a processor; on few processors one pair is enough, and leaves room for the rest. */
static void settle_auto(struct server_config *c)
{
    long cpus = sysconf(_SC_NPROCESSORS_ONLN);
    uint32_t n = cpus < 4 ? 1 : cpus < (long)THREADS_MAX_PAIRS ? (uint32_t)cpus : THREADS_MAX_PAIRS;
    if (c->pairs == 0)
        c->pairs = n;
    if (c->sla_processes == 0)
        c->sla_processes = c->pairs < 2 ? 2 : c->pairs;
}

int server_config_check(struct server_config *c, struct text *errors)
{
    int r = 0;
    settle_auto(c);
    for (size_t i = 0; i < c->control_listen_count; i++)
        if (check_address("[control] listen", c->control_listen[i], 7400, errors) < 0)
            r = WEIR_E_INVALID;
    for (size_t i = 0; i < c->gateway_count; i++)
        if (check_address("[control] gateways", c->gateways[i], 7401, errors) < 0)
            r = WEIR_E_INVALID;
    if (check_pair(c, "control", c->control_certificate, c->control_key, errors) < 0)
        r = WEIR_E_INVALID;
    if (check_http(c, errors) < 0 || check_probe_tls(c, errors) < 0)
        r = WEIR_E_INVALID;
    if (c->lease_ns < 3 * c->period_ns) {
        bool said = c->file != NULL && conf_find(c->file, "server", "", "lease") != NULL;
        put_line(c, "server", "", said ? "lease" : "period", NULL, errors);
        text_printf(errors,
                    "[server] lease: found less than three periods, expected more: a throttle "
                    "would end between two renewals\n");
        r = WEIR_E_INVALID;
    }
    if (c->state_dir[0] != '/') {
        text_printf(errors, "[server] state-dir: found \"%s\", expected an absolute path\n",
                    c->state_dir);
        r = WEIR_E_INVALID;
    }
    /* What contradicts itself is not worth reading. */
    if (r == 0)
        r = server_config_try_files(c, errors);
    server_config_forget(c);
    return r;
}
