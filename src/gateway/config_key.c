/* SPDX-License-Identifier: Apache-2.0 */
#include "gateway/config_key.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "base/units.h"
#include "qos/bucket.h"
#include "tls/identity.h"

#define NBD_PORT            10809u
#define CONTROL_PORT        7400u
#define CONTROL_LISTEN_PORT 7401u
#define TOKEN_FILE_MAX      4096u

#define AT(type, member)   offsetof(struct type, member), sizeof(((struct type *)0)->member)
#define GATEWAY(member)    AT(gateway_config, member)
#define RATE(kind, member) AT(limit_config, limits.rate[kind].member)

static const struct config_key keys[] = {
    {SECTION_GATEWAY, "name", VALUE_NAME, GATEWAY(name), 0, 0},
    {SECTION_GATEWAY, "state-dir", VALUE_PATH, GATEWAY(state_dir), 0, 0},
    {SECTION_GATEWAY, "socket", VALUE_PATH, GATEWAY(socket_path), 0, 0},
    {SECTION_GATEWAY, "log-level", VALUE_LEVEL, GATEWAY(log_level), 0, 0},
    {SECTION_GATEWAY, "max-streams", VALUE_COUNT, GATEWAY(max_streams), 1, 16384},
    {SECTION_GATEWAY, "max-connections", VALUE_COUNT, GATEWAY(max_connections), 1, 65536},
    {SECTION_GATEWAY, "max-connections-per-host", VALUE_COUNT, GATEWAY(max_connections_per_host), 1,
     65536},
    {SECTION_GATEWAY, "hold-memory", VALUE_SIZE, GATEWAY(hold_memory), 0, UINT64_C(64) << 30},
    {SECTION_GATEWAY, "peer-timeout", VALUE_DURATION, GATEWAY(peer_timeout_ns), NS_PER_S,
     3600 * NS_PER_S},
    {SECTION_GATEWAY, "handshake-timeout", VALUE_DURATION, GATEWAY(handshake_timeout_ns),
     100 * NS_PER_MS, 600 * NS_PER_S},
    {SECTION_GATEWAY, "max-hold", VALUE_DURATION, GATEWAY(max_hold_ns), 100 * NS_PER_MS,
     600 * NS_PER_S},
    {SECTION_GATEWAY, "worker-timeout", VALUE_DURATION, GATEWAY(worker_timeout_ns), NS_PER_S,
     600 * NS_PER_S},
    {SECTION_GATEWAY, "io-engine", VALUE_ENGINE, GATEWAY(io_engine), 0, 0},
    {SECTION_GATEWAY, "busy-poll", VALUE_DURATION, GATEWAY(busy_poll_ns), 0, NS_PER_MS},
    {SECTION_GATEWAY, "sandbox", VALUE_YES, GATEWAY(sandbox), 0, 0},
    {SECTION_GATEWAY, "drain-timeout", VALUE_DURATION, GATEWAY(drain_timeout_ns), 100 * NS_PER_MS,
     3600 * NS_PER_S},
    {SECTION_SERVER, "address", VALUE_SERVER, GATEWAY(servers), 0, 0},
    {SECTION_SERVER, "listen", VALUE_SERVER_LISTEN, GATEWAY(server_listen), 0, 0},
    {SECTION_SERVER, "key-file", VALUE_PATH, GATEWAY(key_file), 0, 0},
    {SECTION_SERVER, "token-file", VALUE_TOKEN, GATEWAY(token), 0, 0},
    {SECTION_SERVER, "tls", VALUE_TLS_ON, GATEWAY(server_tls_on), 0, 0},
    {SECTION_SERVER, "tls-ca", VALUE_PATH, GATEWAY(server_tls.ca), 0, 0},
    {SECTION_SERVER, "tls-verify-name", VALUE_CERT_NAME, GATEWAY(server_tls.verify_name), 0, 0},
    {SECTION_SERVER, "tls-fingerprint", VALUE_FINGERPRINT, GATEWAY(server_fingerprint), 0, 0},
    {SECTION_SERVER, "tls-certificate", VALUE_PATH, GATEWAY(server_tls.certificate), 0, 0},
    {SECTION_SERVER, "tls-key", VALUE_PATH, GATEWAY(server_tls.key), 0, 0},
    {SECTION_LISTENER, "address", VALUE_ADDRESS, AT(listener_config, addr), 0, 0},
    {SECTION_LISTENER, "target", VALUE_TARGET, AT(listener_config, target), 0, 0},
    {SECTION_LISTENER, "unix-mode", VALUE_MODE, AT(listener_config, unix_mode), 0, 0},
    {SECTION_LISTENER, "tls", VALUE_TLS_MODE, AT(listener_config, tls), 0, 0},
    {SECTION_LISTENER, "tls-certificate", VALUE_PATH, AT(listener_config, tls_files.certificate), 0,
     0},
    {SECTION_LISTENER, "tls-key", VALUE_PATH, AT(listener_config, tls_files.key), 0, 0},
    {SECTION_LISTENER, "tls-client-ca", VALUE_PATH, AT(listener_config, tls_files.ca), 0, 0},
    {SECTION_LISTENER, "tls-client-certificate", VALUE_PEER, AT(listener_config, tls_files.peer), 0,
     0},
    {SECTION_LISTENER, "tls-psk-file", VALUE_PATH, AT(listener_config, tls_files.psk), 0, 0},
    {SECTION_TARGET, "uri", VALUE_URI, AT(target_config, uri), 0, 0},
    {SECTION_TARGET, "tenant", VALUE_NAME, AT(target_config, tenant), 0, 0},
    {SECTION_TARGET, "tls", VALUE_TLS_ON, AT(target_config, tls_on), 0, 0},
    {SECTION_TARGET, "tls-ca", VALUE_PATH, AT(target_config, tls_files.ca), 0, 0},
    {SECTION_TARGET, "tls-verify-name", VALUE_CERT_NAME, AT(target_config, tls_files.verify_name),
     0, 0},
    {SECTION_TARGET, "tls-certificate", VALUE_PATH, AT(target_config, tls_files.certificate), 0, 0},
    {SECTION_TARGET, "tls-key", VALUE_PATH, AT(target_config, tls_files.key), 0, 0},
    {SECTION_TARGET, "tls-psk-file", VALUE_PATH, AT(target_config, tls_files.psk), 0, 0},
    {SECTION_TARGET, "tls-psk-identity", VALUE_TEXT, AT(target_config, tls_files.psk_identity), 0,
     0},
    {SECTION_VOLUME, "target", VALUE_TARGET, AT(volume_config, target), 0, 0},
    {SECTION_VOLUME, "export", VALUE_TEXT, AT(volume_config, export_name), 0, 0},
    {SECTION_VOLUME, "tenant", VALUE_NAME, AT(volume_config, tenant), 0, 0},
    {SECTION_LIMIT, "host", VALUE_TEXT, AT(limit_config, host), 0, 0},
    {SECTION_LIMIT, "volume", VALUE_TEXT, AT(limit_config, volume), 0, 0},
    {SECTION_LIMIT, "tenant", VALUE_TEXT, AT(limit_config, tenant), 0, 0},
    {SECTION_LIMIT, "target", VALUE_TEXT, AT(limit_config, target), 0, 0},
    {SECTION_LIMIT, "per", VALUE_SCOPE, AT(limit_config, per_stream), 0, 0},
    {SECTION_LIMIT, "iops", VALUE_IOPS, RATE(GATE_IOPS_TOTAL, rate), 0, 0},
    {SECTION_LIMIT, "iops-read", VALUE_IOPS, RATE(GATE_IOPS_READ, rate), 0, 0},
    {SECTION_LIMIT, "iops-write", VALUE_IOPS, RATE(GATE_IOPS_WRITE, rate), 0, 0},
    {SECTION_LIMIT, "bandwidth", VALUE_BANDWIDTH, RATE(GATE_BYTES_TOTAL, rate), 0, 0},
    {SECTION_LIMIT, "bandwidth-read", VALUE_BANDWIDTH, RATE(GATE_BYTES_READ, rate), 0, 0},
    {SECTION_LIMIT, "bandwidth-write", VALUE_BANDWIDTH, RATE(GATE_BYTES_WRITE, rate), 0, 0},
    {SECTION_LIMIT, "burst-iops", VALUE_IOPS, RATE(GATE_IOPS_TOTAL, burst_rate), 0, 0},
    {SECTION_LIMIT, "burst-bandwidth", VALUE_BANDWIDTH, RATE(GATE_BYTES_TOTAL, burst_rate), 0, 0},
    {SECTION_LIMIT, "burst-for", VALUE_BURST_FOR, AT(limit_config, limits), NS_PER_MS,
     UINT64_C(86400) * NS_PER_S},
};
#define KEY_COUNT (sizeof(keys) / sizeof(keys[0]))

const struct config_key *config_key_find(enum config_section section, const char *name)
{
    for (size_t i = 0; i < KEY_COUNT; i++) {
        if (keys[i].section == section && strcmp(keys[i].key, name) == 0)
            return &keys[i];
    }
    return NULL;
}

void config_key_list(enum config_section section, struct text *out)
{
    for (size_t i = 0; i < KEY_COUNT; i++) {
        if (keys[i].section == section)
            text_printf(out, "%s%s", out->len ? ", " : "", keys[i].key);
    }
}

/* Read the token out of its file. None there: the gateway is enrolled already, or has its key. */
static int read_token(const char *path, char *token, size_t size, const char **ret_expected)
{
    char *data;
    size_t len;
    int r = path[0] == '/' ? text_read_file(path, TOKEN_FILE_MAX, &data, &len) : WEIR_E_INVALID;
    if (r == -ENOENT)
        return 0;
    *ret_expected = "an absolute path of a readable file with a token in its first line";
    if (r < 0)
        return WEIR_E_INVALID;
    data[strcspn(data, "\r\n")] = '\0';
    bool good = *data != '\0' && data[strspn(data, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstu"
                                                   "vwxyz0123456789._~+/=-")] == '\0';
    r = good ? text_copy(token, size, data) : WEIR_E_INVALID;
    explicit_bzero(data, len);
    free(data);
    return r < 0 ? WEIR_E_INVALID : 0;
}

static int read_number(const char *s, unsigned base, uint64_t max, uint64_t *ret)
{
    uint64_t v = 0;
    if (*s == '\0' || strlen(s) > 12)
        return WEIR_E_INVALID;
    for (; *s != '\0'; s++) {
        if (*s < '0' || *s >= (char)('0' + base))
            return WEIR_E_INVALID;
        v = v * base + (uint64_t)(*s - '0');
    }
    if (v > max)
        return WEIR_E_INVALID;
    *ret = v;
    return 0;
}

/* Numbers that have bounds. What was expected is said with them, into @words. */
static int read_bounded(const struct config_key *k, const char *value, void *field, char *words,
                        size_t size)
{
    uint64_t v;
    char low[32], high[32];
    int r;
    if (k->type == VALUE_COUNT) {
        r = read_number(value, 10, k->max, &v);
        snprintf(words, size, "a whole number from %llu to %llu", (unsigned long long)k->min,
                 (unsigned long long)k->max);
    } else if (k->type == VALUE_SIZE) {
        r = units_parse_size(value, &v, NULL);
        snprintf(words, size, "bytes such as 512MiB, from %s to %s",
                 units_format_size(k->min, low, sizeof(low)),
                 units_format_size(k->max, high, sizeof(high)));
    } else {
        bool off = k->min == 0 && strcmp(value, "off") == 0;
        v = 0;
        r = off ? 0 : units_parse_duration_ns(value, &v, NULL);
        units_format_duration_ns(k->min, low, sizeof(low));
        units_format_duration_ns(k->max, high, sizeof(high));
        if (k->min == 0)
            snprintf(words, size, "off, or a duration up to %s", high);
        else
            snprintf(words, size, "a duration from %s to %s", low, high);
    }
    if (r < 0 || v < k->min || v > k->max)
        return WEIR_E_INVALID;
    if (k->type == VALUE_COUNT)
        *(uint32_t *)field = (uint32_t)v;
    else
        *(uint64_t *)field = v;
    return 0;
}

/* Rates: "unlimited" is no limit, which is 0 inside qos/. */
static int read_rate(enum config_value type, const char *value, uint64_t *field,
                     const char **expected)
{
    uint64_t v;
    int r = type == VALUE_IOPS ? units_parse_iops(value, &v, expected)
                               : units_parse_bandwidth(value, &v, expected);
    if (r == 0 && v != UNITS_UNLIMITED && v > BUCKET_RATE_MAX) {
        *expected = "a bandwidth of 1B/s to 1TB/s, or unlimited";
        r = WEIR_E_INVALID;
    }
    if (r == 0)
        *field = v == UNITS_UNLIMITED ? 0 : v;
    return r;
}

static int read_server(struct gateway_config *c, const char *value, const char **expected)
{
    if (c->server_count == CONFIG_MAX_SERVERS) {
        *expected = "at most 8 servers";
        return WEIR_E_INVALID;
    }
    int r = addr_parse(value, CONTROL_PORT, &c->servers[c->server_count], expected);
    if (r == 0)
        c->server_count++;
    return r;
}

static int read_uri(struct target_config *t, const char *value, const char **expected)
{
    *expected = "an NBD URI of at most 511 characters";
    if (strlen(value) >= sizeof(t->uri))
        return WEIR_E_INVALID;
    int r = addr_parse_nbd_uri(value, &t->addr, t->export_name, sizeof(t->export_name), expected);
    if (r == 0)
        snprintf(t->uri, sizeof(t->uri), "%s", value);
    if (r == 0 && addr_uri_wants_tls(value))
        t->tls_on = true;
    return r;
}

/* One of the words, which are @values' names in order. */
static int read_word(const char *value, const char *const words[], size_t count, size_t *ret)
{
    for (size_t i = 0; i < count; i++) {
        if (words[i] && strcmp(value, words[i]) == 0) {
            *ret = i;
            return 0;
        }
    }
    return WEIR_E_INVALID;
}

static int read_tls(enum config_value type, const char *value, void *field, const char **expected)
{
    static const char *const modes[] = {
        [TLS_MODE_OFF] = "off", [TLS_MODE_ALLOW] = "allow", [TLS_MODE_REQUIRE] = "require"};
    static const char *const checks[] = {[TLS_PEER_NONE] = "none",
                                         [TLS_PEER_OPTIONAL] = "optional",
                                         [TLS_PEER_REQUIRED] = "required"};
    size_t i = 0;
    int r;
    if (type == VALUE_PEER) {
        *expected = "none, optional or required";
        r = read_word(value, checks, 3, &i);
        if (r == 0)
            *(enum tls_peer_check *)field = (enum tls_peer_check)i;
        return r;
    }
    r = read_word(value, modes, 3, &i);
    if (type == VALUE_TLS_MODE) {
        *expected = "off, allow (a host may begin TLS) or require";
        if (r == 0)
            *(enum tls_mode *)field = (enum tls_mode)i;
        return r;
    }
    *expected = "off or require (TLS that a target may leave out protects nobody)";
    if (r < 0 || i == TLS_MODE_ALLOW)
        return WEIR_E_INVALID;
    *(bool *)field = i == TLS_MODE_REQUIRE;
    return 0;
}

static int read_burst_for(const struct config_key *k, const char *value, struct gate_limits *limits,
                          char *words, size_t size)
{
    uint64_t ns;
    struct config_key as_duration = *k;
    as_duration.type = VALUE_DURATION;
    int r = read_bounded(&as_duration, value, &ns, words, size);
    if (r == 0)
        limits->rate[GATE_IOPS_TOTAL].burst_ns = limits->rate[GATE_BYTES_TOTAL].burst_ns = ns;
    return r;
}

static struct target_config *target_find(struct gateway_config *c, const char *name)
{
    int i = gateway_config_target(c, name);
    return i < 0 ? NULL : &c->targets[i];
}

static int read_yes(const char *value, bool *field, const char **expected)
{
    int on = 0;
    int r = units_parse_bool(value, &on, expected);
    if (r == 0)
        *field = on != 0;
    return r;
}

static int read_fingerprint(const struct config_key *k, const char *value, char *field,
                            const char **expected)
{
    uint8_t f[TLS_FINGERPRINT_SIZE];
    *expected = "sha256: and 64 hex digits, as the server's log says at its start";
    return tls_fingerprint_parse(value, f) == 0 ? text_copy(field, k->size, value) : WEIR_E_INVALID;
}

/* RFC 6125: DNS names and IP addresses, both of few characters. */
static bool is_cert_name(const char *value)
{
    return *value != '-' && *value != '.' &&
           strspn(value, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789:.-_") ==
               strlen(value);
}

int config_key_read(struct gateway_config *c, void *object, const struct config_key *k,
                    const char *value, char *words, size_t size)
{
    void *field = (char *)object + k->offset;
    const char *expected = "";
    uint64_t v = 0;
    int r = WEIR_E_INVALID;
    switch (k->type) {
    case VALUE_NAME:
        expected = "letters, digits, \".\", \"_\" and \"-\", below 128 bytes";
        r = name_is_plain(value) ? text_copy(field, k->size, value) : WEIR_E_INVALID;
        break;
    case VALUE_TEXT:
        snprintf(words, size, "text of at most %zu bytes", k->size - 1);
        return strlen(value) < k->size ? text_copy(field, k->size, value) : WEIR_E_INVALID;
    case VALUE_CERT_NAME:
        expected = "a host's name or an IP address, as it stands in a certificate";
        r = is_cert_name(value) ? text_copy(field, k->size, value) : WEIR_E_INVALID;
        break;
    case VALUE_PATH:
        expected = "an absolute path below 512 bytes";
        r = *value == '/' && strlen(value) < k->size ? text_copy(field, k->size, value) : r;
        break;
    case VALUE_TOKEN:
        r = read_token(value, field, k->size, &expected);
        break;
    case VALUE_ADDRESS:
        r = addr_parse(value, NBD_PORT, field, &expected);
        break;
    case VALUE_SERVER:
        r = read_server(c, value, &expected);
        break;
    case VALUE_SERVER_LISTEN:
        r = addr_parse(value, CONTROL_LISTEN_PORT, field, &expected);
        break;
    case VALUE_URI:
        r = read_uri(object, value, &expected);
        break;
    case VALUE_TARGET: {
        struct target_config *t = target_find(c, value);
        expected = "the NAME of a [target NAME] section";
        if (t) {
            *(struct target_config **)field = t;
            r = 0;
        }
        break;
    }
    case VALUE_MODE:
        expected = "an octal mode from 0 to 0777, such as 0660";
        r = read_number(value, 8, 0777, &v);
        if (r == 0)
            *(unsigned *)field = (unsigned)v;
        break;
    case VALUE_COUNT:
    case VALUE_SIZE:
    case VALUE_DURATION:
        return read_bounded(k, value, field, words, size);
    case VALUE_LEVEL: {
        enum log_level level;
        expected = "error, warning, info or debug";
        r = log_level_parse(value, &level);
        if (r == 0)
            *(uint32_t *)field = level;
        break;
    }
    case VALUE_ENGINE:
        expected = "auto, io_uring or epoll";
        r = WEIR_E_INVALID;
        for (uint32_t i = 0; i < CONFIG_ENGINE_COUNT; i++) {
            if (strcmp(value, config_engine_name((enum config_engine)i)) != 0)
                continue;
            *(uint32_t *)field = i;
            r = 0;
        }
        break;
    case VALUE_SCOPE:
        expected = "stream (each stream has the limit for itself) or group (all share it)";
        r = strcmp(value, "stream") == 0 || strcmp(value, "group") == 0 ? 0 : WEIR_E_INVALID;
        if (r == 0)
            *(bool *)field = *value == 's';
        break;
    case VALUE_IOPS:
    case VALUE_BANDWIDTH:
        r = read_rate(k->type, value, field, &expected);
        break;
    case VALUE_YES:
        r = read_yes(value, field, &expected);
        break;
    case VALUE_FINGERPRINT:
        r = read_fingerprint(k, value, field, &expected);
        break;
    case VALUE_TLS_MODE:
    case VALUE_TLS_ON:
    case VALUE_PEER:
        r = read_tls(k->type, value, field, &expected);
        break;
    case VALUE_BURST_FOR:
        return read_burst_for(k, value, field, words, size);
    }
    snprintf(words, size, "%s", expected);
    return r;
}
