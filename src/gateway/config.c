/* SPDX-License-Identifier: Apache-2.0 */
/* gateway.conf.
 *
 * One table of keys (config_key.c) is the one truth: it reads, bounds, and lists what is known when
 * a key is not. Reading goes in three steps, so that the order of sections does not matter: every
 * section becomes an object, every key is read into its object, and what a section lacks is found.
 * All errors of all steps are appended; the configuration is only good when there is none.
 *
 * Drop-ins: a section opened again in a later file is the same object, and its keys override. A key
 * given twice inside one section of one file is a slip and refused, unless the key is a list. */
#include "gateway/config.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/conf.h"
#include "base/err.h"
#include "base/log.h"
#include "gateway/config_key.h"
#include "gateway/config_tls.h"

/* A line for each certificate that a file can name, some hundred, with two paths each. */
#define WARNINGS_MAX (256u * 1024u)

static const struct section_type {
    const char *kind;
    bool named;
    size_t max;
} section_types[SECTION_COUNT] = {
    [SECTION_GATEWAY] = {"gateway", false, 1},
    [SECTION_SERVER] = {"server", false, 1},
    [SECTION_LISTENER] = {"listener", true, CONFIG_MAX_LISTENERS},
    [SECTION_TARGET] = {"target", true, CONFIG_MAX_TARGETS},
    [SECTION_VOLUME] = {"volume", true, CONFIG_MAX_VOLUMES},
    [SECTION_LIMIT] = {"limit", true, CONFIG_MAX_LIMITS},
};

const char *config_engine_name(enum config_engine e)
{
    switch (e) {
    case CONFIG_ENGINE_AUTO:
        return "auto";
    case CONFIG_ENGINE_URING:
        return "io_uring";
    case CONFIG_ENGINE_EPOLL:
        return "epoll";
    case CONFIG_ENGINE_COUNT:
        break;
    }
    weir_assert(!"an engine out of its enum");
    return "";
}

void gateway_config_init(struct gateway_config *c)
{
    *c = (struct gateway_config){
        .state_dir = "/var/lib/weir-gateway",
        .max_streams = 512,
        .max_connections = 1024,
        .max_connections_per_host = 512,
        .hold_memory = UINT64_C(256) << 20,
        .peer_timeout_ns = 60 * NS_PER_S,
        .handshake_timeout_ns = 10 * NS_PER_S,
        .max_hold_ns = 10 * NS_PER_S,
        .worker_timeout_ns = 5 * NS_PER_S,
        .drain_timeout_ns = 30 * NS_PER_S,
        .log_level = LOG_LEVEL_INFO,
        .sandbox = true,
    };
    text_init(&c->warnings, WARNINGS_MAX);
    /* The machine's name, as far as it is one; what a name may not hold becomes "-". */
    char host[NAME_SIZE] = "";
    gethostname(host, sizeof(host) - 1);
    for (char *p = host; *p != '\0'; p++) {
        char one[] = {'a', *p, '\0'};
        if (!name_is_plain(one))
            *p = '-';
    }
    snprintf(c->name, sizeof(c->name), "%s", name_is_plain(host) ? host : "gateway");
}

int gateway_config_listener(const struct gateway_config *c, const char *name)
{
    for (size_t i = 0; i < c->listener_count; i++)
        if (strcmp(c->listeners[i].name, name) == 0)
            return (int)i;
    return -1;
}

int gateway_config_target(const struct gateway_config *c, const char *name)
{
    for (size_t i = 0; i < c->target_count; i++)
        if (strcmp(c->targets[i].name, name) == 0)
            return (int)i;
    return -1;
}

void gateway_config_fini(struct gateway_config *c)
{
    for (size_t i = 0; i < c->listener_count; i++) {
        tls_creds_unref(c->listeners[i].tls_creds);
        c->listeners[i].tls_creds = NULL;
    }
    for (size_t i = 0; i < c->target_count; i++) {
        tls_creds_unref(c->targets[i].tls_creds);
        c->targets[i].tls_creds = NULL;
        free(c->targets[i].volumes);
        c->targets[i].volumes = NULL;
        c->targets[i].volume_count = 0;
    }
    free(c->volumes);
    free(c->limits);
    c->volumes = NULL;
    c->limits = NULL;
    c->volume_count = c->limit_count = 0;
    text_fini(&c->warnings);
}

/* A file being read. */
struct loader {
    struct gateway_config *c;
    const struct conf *conf;
    struct text *errors;
    bool failed;
    size_t before[SECTION_COUNT]; /* objects that were there before the file */
};

static void complain_at(struct loader *l, const struct conf_entry *section, const char *words)
{
    text_printf(l->errors, "%s:%d: [%s%s", section->file, section->line, section->kind,
                *section->name ? " " : "");
    text_append_escaped(l->errors, section->name);
    text_printf(l->errors, "]: %s\n", words);
    l->failed = true;
}

/* With the line of @key, where a file has it in @section. */
static void complain_at_key(struct loader *l, const struct conf_entry *section, const char *key,
                            const char *words)
{
    const struct conf_entry *e =
        key != NULL ? conf_find(l->conf, section->kind, section->name, key) : NULL;
    complain_at(l, e != NULL ? e : section, words);
}

static void complain_of(struct loader *l, const struct conf_entry *section,
                        const struct config_fault *fault)
{
    const struct conf_entry *e =
        fault->of_value ? conf_find(l->conf, section->kind, section->name, fault->key) : NULL;
    if (e != NULL)
        conf_error(l->errors, e, fault->words);
    else
        complain_at_key(l, section, fault->key, fault->words);
    l->failed = true;
}

static int section_kind_of(const char *kind)
{
    for (int i = 0; i < SECTION_COUNT; i++) {
        if (strcmp(section_types[i].kind, kind) == 0)
            return i;
    }
    return -1;
}

/* The base, element size and count of the objects of a kind. Each begins with its name. */
static char *objects_of(struct gateway_config *c, enum config_section kind, size_t *ret_size,
                        size_t *ret_count)
{
    switch (kind) {
    case SECTION_GATEWAY:
    case SECTION_SERVER:
        *ret_size = sizeof(*c);
        *ret_count = 1;
        return (char *)c;
    case SECTION_LISTENER:
        *ret_size = sizeof(c->listeners[0]);
        *ret_count = c->listener_count;
        return (char *)c->listeners;
    case SECTION_TARGET:
        *ret_size = sizeof(c->targets[0]);
        *ret_count = c->target_count;
        return (char *)c->targets;
    case SECTION_VOLUME:
        *ret_size = sizeof(c->volumes[0]);
        *ret_count = c->volume_count;
        return (char *)c->volumes;
    case SECTION_LIMIT:
        *ret_size = sizeof(c->limits[0]);
        *ret_count = c->limit_count;
        return (char *)c->limits;
    case SECTION_COUNT:
        break;
    }
    weir_unreachable("no such kind");
}
_Static_assert(offsetof(struct listener_config, name) == 0, "objects begin with their name");
_Static_assert(offsetof(struct target_config, name) == 0, "objects begin with their name");
_Static_assert(offsetof(struct volume_config, name) == 0, "objects begin with their name");
_Static_assert(offsetof(struct limit_config, name) == 0, "objects begin with their name");

static void *object_find(struct gateway_config *c, enum config_section kind, const char *name)
{
    size_t size, count;
    char *base = objects_of(c, kind, &size, &count);
    if (!section_types[kind].named)
        return base;
    for (size_t i = 0; i < count; i++) {
        if (strcmp(base + i * size, name) == 0)
            return base + i * size;
    }
    return NULL;
}

/* A zeroed object more, in a growing array of @count. */
static void *grow(void *array, size_t count, size_t size)
{
    /* Capacities are powers of two, so they need not be kept. */
    if ((count & (count - 1)) != 0)
        return array;
    return reallocarray(array, count == 0 ? 1 : 2 * count, size);
}

static char *object_new(struct gateway_config *c, enum config_section kind)
{
    switch (kind) {
    case SECTION_LISTENER:
        c->listeners[c->listener_count] =
            (struct listener_config){.unix_mode = 0660, .tls_files.peer = CONFIG_PEER_UNSET};
        return c->listeners[c->listener_count++].name;
    case SECTION_TARGET:
        c->targets[c->target_count] = (struct target_config){.index = (uint32_t)c->target_count};
        return c->targets[c->target_count++].name;
    case SECTION_VOLUME: {
        void *more = grow(c->volumes, c->volume_count, sizeof(c->volumes[0]));
        if (!more)
            return NULL;
        c->volumes = more;
        c->volumes[c->volume_count] = (struct volume_config){0};
        return c->volumes[c->volume_count++].name;
    }
    case SECTION_LIMIT: {
        void *more = grow(c->limits, c->limit_count, sizeof(c->limits[0]));
        if (!more)
            return NULL;
        c->limits = more;
        c->limits[c->limit_count] = (struct limit_config){0};
        return c->limits[c->limit_count++].name;
    }
    case SECTION_GATEWAY:
    case SECTION_SERVER:
    case SECTION_COUNT:
        break;
    }
    weir_unreachable("no object of this kind is made");
}

static void unknown_section(struct loader *l, const struct conf_entry *s)
{
    char known[256];
    size_t n = 0;
    for (int i = 0; i < SECTION_COUNT; i++)
        n += (size_t)snprintf(known + n, sizeof(known) - n, "%s[%s%s]", i ? ", " : "",
                              section_types[i].kind, section_types[i].named ? " NAME" : "");
    weir_assert(n < sizeof(known));
    text_printf(l->errors, "%s:%d: unknown section [%s]; known here: %s\n", s->file, s->line,
                s->kind, known);
    l->failed = true;
}

/* Step one: the object of a section, made when it is new. */
static void read_section(struct loader *l, const struct conf_entry *s)
{
    int kind = section_kind_of(s->kind);
    if (kind < 0) {
        unknown_section(l, s);
        return;
    }
    const struct section_type *type = &section_types[kind];
    if (!type->named) {
        if (*s->name != '\0')
            complain_at(l, s, "this section has no name; write the kind alone");
        return;
    }
    /* Volumes are called what hosts ask for, which may be anything; all else of ours is plain. */
    bool good = kind == SECTION_VOLUME ? *s->name != '\0' && strlen(s->name) < NAME_SIZE
                                       : name_is_plain(s->name);
    if (!good) {
        complain_at(l, s,
                    "expected a name of letters, digits, \".\", \"_\" and \"-\", below 128 bytes");
        return;
    }
    if (object_find(l->c, (enum config_section)kind, s->name))
        return;
    size_t size, count;
    objects_of(l->c, (enum config_section)kind, &size, &count);
    char words[64];
    snprintf(words, sizeof(words), "more than %zu sections of this kind", type->max);
    char *name = count < type->max ? object_new(l->c, (enum config_section)kind) : NULL;
    if (name)
        snprintf(name, NAME_SIZE, "%s", s->name);
    else
        complain_at(l, s, count < type->max ? "out of memory" : words);
}

static void unknown_key(struct loader *l, const struct conf_entry *e, enum config_section section)
{
    struct text known;
    text_init(&known, 4096);
    config_key_list(section, &known);
    conf_unknown(l->errors, e, known.data);
    text_fini(&known);
    l->failed = true;
}

/* Step two: one key. */
static void read_entry(struct loader *l, size_t i)
{
    const struct conf_entry *e = conf_at(l->conf, i);
    int section = section_kind_of(e->kind);
    char words[256] = "";
    if (section < 0) {
        if (*e->kind == '\0') {
            conf_error(l->errors, e, "a section such as [gateway] above it");
            l->failed = true;
        }
        return; /* unknown sections were named in step one */
    }
    const struct config_key *k = config_key_find((enum config_section)section, e->key);
    if (!k) {
        unknown_key(l, e, (enum config_section)section);
        return;
    }
    void *object = object_find(l->c, (enum config_section)section, e->name);
    if (!object)
        return; /* its section was refused in step one */
    if (k->type != VALUE_SERVER && conf_is_repeated(l->conf, i)) {
        conf_error(l->errors, e, "this key once in its section");
        l->failed = true;
    } else if (config_key_read(l->c, object, k, e->value, words, sizeof(words)) < 0) {
        conf_error(l->errors, e, words);
        l->failed = true;
    }
}

/* Why @limits cannot be in force, or NULL. */
static const char *limits_fault(const struct gate_limits *limits, const char **ret_key)
{
    static const char *const keys[] = {"burst-iops", "burst-bandwidth"};
    static const enum gate_kind totals[] = {GATE_IOPS_TOTAL, GATE_BYTES_TOTAL};
    bool any = false, burst = false, burst_for = false;
    for (size_t i = 0; i < GATE_KIND_COUNT; i++)
        any |= limits->rate[i].rate != 0;
    for (size_t i = 0; i < 2; i++) {
        const struct bucket_rate *r = &limits->rate[totals[i]];
        burst_for |= r->burst_ns != 0;
        if (r->burst_rate == 0)
            continue;
        burst = true;
        *ret_key = keys[i];
        if (r->burst_rate <= r->rate || r->rate == 0)
            return i == 0 ? "burst-iops needs an iops below it"
                          : "burst-bandwidth needs a bandwidth below it";
    }
    if (!burst && burst_for)
        *ret_key = "burst-for";
    if (burst != burst_for)
        return burst ? "a burst needs burst-for, such as burst-for = 60s"
                     : "burst-for needs burst-iops or burst-bandwidth";
    return any ? NULL : "limits nothing; expected iops, bandwidth or one of their -read and -write";
}

/* What an object lacks, or NULL; and the key that is wrong by that, if any. */
static const char *object_fault(enum config_section kind, const void *object, const char **ret_key)
{
    *ret_key = NULL;
    switch (kind) {
    case SECTION_LISTENER: {
        const struct listener_config *listener = object;
        if (listener->addr.len == 0)
            return "no address; expected address = HOST:PORT or unix:/PATH";
        return listener->target ? NULL : "no target; expected target = NAME of a [target NAME]";
    }
    case SECTION_TARGET: {
        const struct target_config *target = object;
        return target->uri[0] ? NULL : "no uri; expected uri = nbd://HOST:PORT/EXPORT";
    }
    case SECTION_VOLUME: {
        const struct volume_config *volume = object;
        return volume->target ? NULL : "no target; expected target = NAME of a [target NAME]";
    }
    case SECTION_LIMIT: {
        const struct limit_config *limit = object;
        return limits_fault(&limit->limits, ret_key);
    }
    case SECTION_GATEWAY:
    case SECTION_SERVER:
    case SECTION_COUNT:
        break;
    }
    return NULL;
}

static void warn_of(struct loader *l, const struct conf_entry *section, const char *key,
                    const struct dates *d)
{
    int64_t now_s = clock_wall_us() / 1000000;
    char when[DATES_TEXT], expected[DATES_TEXT + 48];
    const struct conf_entry *e = conf_find(l->conf, section->kind, section->name, key);
    if (e == NULL || dates_hold(d, now_s))
        return;
    snprintf(expected, sizeof(expected), "a certificate that is in date (%s)",
             dates_words(d, now_s, when, sizeof(when)));
    conf_error(&l->c->warnings, e, expected);
}

/* TLS of a section, its files looked at. */
static void check_tls(struct loader *l, const struct conf_entry *section, enum config_section kind,
                      void *object)
{
    struct config_fault wrong;
    struct tls_validity when = {0};
    int r = kind == SECTION_LISTENER ? config_tls_listener(object, &when, &wrong)
            : kind == SECTION_TARGET ? config_tls_target(object, &when, &wrong)
            : kind == SECTION_SERVER ? config_tls_server(l->c, &when, &wrong)
                                     : 0;
    if (r < 0) {
        complain_of(l, section, &wrong);
        return;
    }
    warn_of(l, section, "tls-certificate", &when.own);
    warn_of(l, section, kind == SECTION_LISTENER ? "tls-client-ca" : "tls-ca", &when.ca);
}

/* Step three: what sections lack. Drop-ins complete each other, so each object is looked at once.
 * */
static void check_sections(struct loader *l)
{
    size_t next[SECTION_COUNT];
    bool server_seen = false;
    memcpy(next, l->before, sizeof(next));
    for (size_t i = 0; i < conf_section_count(l->conf); i++) {
        const struct conf_entry *s = conf_section_at(l->conf, i);
        int kind = section_kind_of(s->kind);
        if (kind == SECTION_SERVER && !server_seen) {
            server_seen = true;
            check_tls(l, s, SECTION_SERVER, NULL);
        }
        if (kind < 0 || !section_types[kind].named)
            continue;
        size_t size, count;
        char *base = objects_of(l->c, (enum config_section)kind, &size, &count);
        /* Objects were made in the order of these sections. */
        char *object = base + next[kind] * size;
        if (next[kind] == count || strcmp(object, s->name) != 0)
            continue;
        next[kind]++;
        const char *key, *fault = object_fault((enum config_section)kind, object, &key);
        if (fault)
            complain_at_key(l, s, key, fault);
        else
            check_tls(l, s, (enum config_section)kind, object);
    }
}

int gateway_config_load(struct gateway_config *c, const char *path, struct text *errors)
{
    struct conf *conf;
    int r = conf_load(path, &conf, errors);
    if (r < 0)
        return r;
    struct loader l = {.c = c, .conf = conf, .errors = errors};
    size_t size;
    for (int i = 0; i < SECTION_COUNT; i++)
        objects_of(c, (enum config_section)i, &size, &l.before[i]);
    for (size_t i = 0; i < conf_section_count(conf); i++)
        read_section(&l, conf_section_at(conf, i));
    for (size_t i = 0; i < conf_count(conf); i++)
        read_entry(&l, i);
    /* Values that were refused would be called missing as well. */
    if (!l.failed)
        check_sections(&l);
    for (size_t i = 0; i < c->volume_count; i++) {
        struct volume_config *v = &c->volumes[i];
        if (v->export_name[0] == '\0')
            snprintf(v->export_name, sizeof(v->export_name), "%s", v->name);
    }
    conf_free(conf);
    return l.failed ? WEIR_E_PARSE : 0;
}

/* Whether two names of an array of objects are the same; the second is told. */
static void check_unique(struct gateway_config *c, enum config_section kind, struct text *errors)
{
    size_t size, count;
    const char *base = objects_of(c, kind, &size, &count);
    for (size_t i = 1; i < count; i++) {
        for (size_t k = 0; k < i; k++) {
            if (strcmp(base + i * size, base + k * size) == 0) {
                text_printf(errors, "two [%s] are called \"", section_types[kind].kind);
                text_append_escaped(errors, base + i * size);
                text_append_str(errors, "\"; give each its own name\n");
            }
        }
    }
}

static void check_listeners(struct gateway_config *c, struct text *errors)
{
    if (c->listener_count == 0)
        text_append_str(errors, "nothing to listen on; expected --listen ADDRESS --target URI, or "
                                "[listener NAME] and [target NAME] in the file\n");
    for (size_t i = 0; i < c->listener_count; i++) {
        const struct listener_config *a = &c->listeners[i];
        const char *key, *fault = object_fault(SECTION_LISTENER, a, &key);
        if (fault)
            text_printf(errors, "listener \"%s\": %s\n", a->name, fault);
        for (size_t k = 0; k < i; k++) {
            const struct listener_config *b = &c->listeners[k];
            if (a->addr.len == b->addr.len && strcmp(a->addr.text, b->addr.text) == 0 &&
                !strstr(a->addr.text, ":0"))
                text_printf(errors, "listeners \"%s\" and \"%s\" have the same address %s\n",
                            b->name, a->name, a->addr.text);
        }
    }
}

/* Give each target the list of its volumes. */
static int collect_volumes(struct gateway_config *c)
{
    for (size_t i = 0; i < c->target_count; i++) {
        struct target_config *t = &c->targets[i];
        weir_assert(t->index == i);
        free(t->volumes);
        t->volumes = NULL;
        t->volume_count = 0;
        for (size_t k = 0; k < c->volume_count; k++)
            t->volume_count += c->volumes[k].target == t;
        if (t->volume_count == 0)
            continue;
        t->volumes = calloc(t->volume_count, sizeof(struct volume_config *));
        if (!t->volumes) {
            t->volume_count = 0;
            return -ENOMEM;
        }
        size_t n = 0;
        for (size_t k = 0; k < c->volume_count; k++) {
            if (c->volumes[k].target == t)
                t->volumes[n++] = &c->volumes[k];
        }
    }
    return 0;
}

int gateway_config_check(struct gateway_config *c, struct text *errors)
{
    size_t before = errors->len;
    if (!name_is_plain(c->name))
        text_append_str(errors, "the gateway's name holds more than letters, digits, \".\", "
                                "\"_\" and \"-\"\n");
    check_listeners(c, errors);
    check_unique(c, SECTION_LISTENER, errors);
    check_unique(c, SECTION_TARGET, errors);
    check_unique(c, SECTION_VOLUME, errors);
    check_unique(c, SECTION_LIMIT, errors);
    for (size_t i = 0; i < c->target_count; i++) {
        const char *key, *fault = object_fault(SECTION_TARGET, &c->targets[i], &key);
        if (fault)
            text_printf(errors, "target \"%s\": %s\n", c->targets[i].name, fault);
    }
    struct config_fault wrong;
    struct tls_validity when;
    if (config_tls_server(c, &when, &wrong) < 0)
        text_printf(errors, "[server]: %s\n", wrong.words);
    if (c->socket_path[0] == '\0') {
        int n = snprintf(c->socket_path, sizeof(c->socket_path), "%s/gateway.sock", c->state_dir);
        if (n < 0 || (size_t)n >= sizeof(c->socket_path))
            text_append_str(errors, "state-dir is too long for a socket in it\n");
    }
    if (errors->failed || errors->len != before)
        return WEIR_E_INVALID;
    return collect_volumes(c);
}
