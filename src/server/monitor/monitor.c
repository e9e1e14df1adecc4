/* SPDX-License-Identifier: Apache-2.0 */
/* What the monitor's threads share.
 *
 * Listening sockets are opened before any thread runs, so that a port in use is said at start.
 * What follows the handshake is plaintext on loopback, unless the gateway begins with TLS; on any
 * other address it is TLS or nothing. The server's key pair for that is configured, or made at the
 * first start. A Unix socket <state_dir>/control.sock (0600) is always there. The local key is a
 * file of mode 0600: who can read it may be a gateway of this machine. */
#include "server/monitor/monitor.h"

#include <errno.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/err.h"
#include "base/rng.h"
#include "base/text.h"
#include "server/mailbox/slab.h"
#include "server/monitor/monitor_private.h"
#include "tls/identity.h"

#define KEY_FILE_MAX 256u
#define PATH_SIZE (512u + 32u)
#define LISTEN_BACKLOG 1024
#define DEFAULT_PORT 7400u

static int key_parse(const char *text, uint8_t ret_key[AUTH_KEY_SIZE])
{
    size_t n = 0;
    const char *end = NULL;
    if (sodium_hex2bin(ret_key, AUTH_KEY_SIZE, text, strlen(text), NULL, &n, &end) != 0 ||
        n != AUTH_KEY_SIZE || end[strspn(end, " \t\r\n")] != '\0')
        return WEIR_E_PARSE;
    return 0;
}

static int key_make(const char *path, uint8_t ret_key[AUTH_KEY_SIZE])
{
    char hex[2 * AUTH_KEY_SIZE + 2];
    rng_system(ret_key, AUTH_KEY_SIZE);
    sodium_bin2hex(hex, sizeof(hex), ret_key, AUTH_KEY_SIZE);
    hex[sizeof(hex) - 2] = '\n';
    hex[sizeof(hex) - 1] = '\0';
    int r = text_write_file_atomic(path, hex, strlen(hex), 0600);
    sodium_memzero(hex, sizeof(hex));
    return r;
}

static int key_load(struct monitor *m, char *ret_words, size_t size)
{
    char path[PATH_SIZE];
    char *text = NULL;
    snprintf(path, sizeof(path), "%s/gateway.key", m->config->state_dir);
    int r = text_read_file(path, KEY_FILE_MAX, &text, NULL);
    if (r == -ENOENT) {
        r = key_make(path, m->local_key);
        if (r < 0)
            snprintf(ret_words, size, "%s cannot be written: %s", path, weir_strerror(r));
        return r;
    }
    if (r == 0)
        r = key_parse(text, m->local_key);
    if (r < 0)
        snprintf(ret_words, size, "%s cannot be used: %s; expected 64 hex digits", path,
                 weir_strerror(r));
    if (text != NULL)
        sodium_memzero(text, strlen(text));
    free(text);
    return r;
}

int monitor_tls_load(const struct server_config *c, const char *make_as, struct tls_creds **ret,
                     char *ret_words, size_t size)
{
    struct tls_files f = {.peer = c->control_ca[0] != '\0' ? TLS_PEER_REQUIRED : TLS_PEER_PINNED,
                          .only_tls13 = true,
                          .shared = true};
    int r = 0;
    if (c->control_certificate[0] != '\0') {
        snprintf(f.certificate, sizeof(f.certificate), "%s", c->control_certificate);
        snprintf(f.key, sizeof(f.key), "%s", c->control_key);
    } else if (snprintf(f.certificate, sizeof(f.certificate), "%s/tls.pem", c->state_dir) >=
               (int)sizeof(f.certificate)) {
        snprintf(ret_words, size, "state-dir is too long for files in it");
        return WEIR_E_TOO_LARGE;
    } else if (make_as != NULL) {
        r = tls_identity_ensure(f.certificate, make_as, ret_words, size);
    }
    snprintf(f.ca, sizeof(f.ca), "%s", c->control_ca);
    return r < 0 ? r : tls_creds_new(TLS_SERVER, &f, ret, ret_words, size);
}

void monitor_fingerprint(const struct monitor *m, uint8_t ret[32])
{
    bool has = tls_creds_fingerprint(m->tls, ret);
    weir_assert(has);
}

static int listen_one(struct monitor *m, const char *text, char *ret_words, size_t size)
{
    struct addr a;
    const char *expected = "";
    int r = addr_parse(text, DEFAULT_PORT, &a, &expected);
    if (r < 0) {
        snprintf(ret_words, size, "control listen: found \"%s\", expected %s", text, expected);
        return r;
    }
    weir_assert(m->listener_count < MONITOR_LISTENERS_MAX);
    int fd = addr_listen(&a, LISTEN_BACKLOG, 0600);
    if (fd < 0) {
        snprintf(ret_words, size, "control listen: %s: %s", text, weir_strerror(fd));
        return fd;
    }
    m->listener_far[m->listener_count] = !addr_is_local(&a);
    m->listener[m->listener_count++] = fd;
    if (m->address[0] == '\0' && addr_local_text(fd, m->address, sizeof(m->address)) < 0)
        snprintf(m->address, sizeof(m->address), "%s", text);
    return 0;
}

static int listen_all(struct monitor *m, char *ret_words, size_t size)
{
    char unix_text[PATH_SIZE + 8];
    bool named = false;
    int r = 0;
    snprintf(unix_text, sizeof(unix_text), "unix:%s/control.sock", m->config->state_dir);
    for (size_t i = 0; r == 0 && i < m->config->control_listen_count; i++) {
        r = listen_one(m, m->config->control_listen[i], ret_words, size);
        named = named || strcmp(m->config->control_listen[i], unix_text) == 0;
    }
    return r < 0 || named ? r : listen_one(m, unix_text, ret_words, size);
}

/* One descriptor a session, and room for databases and the other sockets. */
static void raise_descriptors(size_t sessions)
{
    struct rlimit l;
    if (getrlimit(RLIMIT_NOFILE, &l) < 0)
        return;
    rlim_t wanted = sessions + 1024;
    if (l.rlim_cur >= wanted)
        return;
    l.rlim_cur = wanted < l.rlim_max ? wanted : l.rlim_max;
    (void)setrlimit(RLIMIT_NOFILE, &l);
}

int monitor_open(const struct server_config *config, const struct threads *threads,
                 struct monitor **ret, char *ret_words, size_t size)
{
    struct monitor *m = calloc(1, sizeof(*m));
    snprintf(ret_words, size, "no memory for the performance monitor");
    if (m == NULL)
        return -ENOMEM;
    m->config = config;
    m->threads = threads;
    m->heartbeat_ms = MONITOR_HEARTBEAT_MS;
    m->slow_ns = MONITOR_SLOW_NS;
    m->stall_ns = MONITOR_STALL_NS;
    m->balance_ns = MONITOR_BALANCE_NS;
    m->max_sessions = config->max_gateways;
    if (m->max_sessions == 0 || m->max_sessions >= SESSION_SLOTS_MAX)
        m->max_sessions = SESSION_SLOTS_MAX - 1;
    if (gethostname(m->server_name, sizeof(m->server_name) - 1) < 0)
        snprintf(m->server_name, sizeof(m->server_name), "weir-server");
    m->session = calloc(m->max_sessions, sizeof(struct owned_session *));
    m->surge_waits = calloc(m->max_sessions, sizeof(*m->surge_waits));
    m->work = calloc(m->max_sessions, sizeof(*m->work));
    bool room = m->session != NULL && m->surge_waits != NULL && m->work != NULL;
    int r = !room ? -ENOMEM : key_load(m, ret_words, size);
    if (r == 0)
        r = monitor_tls_load(config, m->server_name, &m->tls, ret_words, size);
    if (r == 0)
        r = listen_all(m, ret_words, size);
    if (r < 0) {
        monitor_close(m);
        return r;
    }
    raise_descriptors(m->max_sessions);
    *ret = m;
    return 0;
}

void monitor_close(struct monitor *m)
{
    if (m == NULL)
        return;
    for (size_t i = 0; i < m->listener_count; i++)
        close(m->listener[i]);
    for (size_t i = 0; m->session != NULL && i < m->max_sessions; i++) {
        if (m->session[i] == NULL)
            continue;
        wire_close(&m->session[i]->session.wire);
        free(m->session[i]->session.early);
        free((char *)(uintptr_t)m->session[i]->session.hello.name);
        free(m->session[i]->key_changed);
        free(m->session[i]);
    }
    mailbox_set_drain(m->threads->set); /* reports there are blocks of the slabs */
    for (size_t i = 0; i < THREADS_MAX_PAIRS * THREADS_MAX_SERVICES; i++)
        slab_free(m->slab[i / THREADS_MAX_SERVICES][i % THREADS_MAX_SERVICES]);
    for (size_t i = 0; i < THREADS_MAX_PAIRS; i++)
        slab_free(m->waiting[i]);
    for (size_t i = 0; i < THREADS_MAX_SERVICES; i++)
        slab_free(m->update[i]);
    free(m->surge_waits);
    free(m->work);
    free(m->session);
    tls_creds_unref(m->tls);
    sodium_memzero(m->local_key, sizeof(m->local_key));
    free(m);
}

const char *monitor_address(const struct monitor *m)
{
    return m->address;
}

struct slab *monitor_slab_of(_Atomic(struct slab *) *place, size_t bytes)
{
    struct slab *slab = atomic_load_explicit(place, memory_order_acquire);
    if (slab != NULL)
        return slab;
    slab = slab_new(bytes);
    atomic_store_explicit(place, slab, memory_order_release);
    return slab;
}

struct slab *monitor_slab(struct monitor *m, size_t pair, size_t process)
{
    return monitor_slab_of(&m->slab[pair][process], MONITOR_SLAB_BYTES);
}

struct slab *monitor_update_slab(struct monitor *m, size_t process)
{
    return monitor_slab_of(&m->update[process], MONITOR_UPDATE_BYTES);
}

size_t monitor_report_bytes(const struct monitor *m)
{
    size_t sum = 0;
    for (size_t pair = 0; pair < THREADS_MAX_PAIRS; pair++) {
        for (size_t i = 0; i < THREADS_MAX_SERVICES; i++) {
            const struct slab *slab =
                atomic_load_explicit(&m->slab[pair][i], memory_order_acquire);
            sum += slab != NULL ? slab_resident(slab) : 0;
        }
    }
    return sum;
}

void monitor_stats(const struct monitor *m, struct monitor_stats *ret)
{
#define X(name, help) ret->name = atomic_load_explicit(&m->counters.name, memory_order_relaxed);
    MONITOR_COUNTERS_TABLE(X)
#undef X
#define X(name, help)                                                                              \
    ret->name##_now = atomic_load_explicit(&m->counters.name##_now, memory_order_relaxed);
    MONITOR_GAUGES_TABLE(X)
#undef X
}
