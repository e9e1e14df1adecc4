/* SPDX-License-Identifier: Apache-2.0 */
/* Scenario documents. Each key is taken off its object as it is read, so that what is left over is
 * what nobody knows, and is refused. */
#include "sim/scenario.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/err.h"
#include "base/units.h"
#include "server/model/model.h"
#include "sim/trace.h"

#define SEC UINT64_C(1000000000)

struct reader {
    json_t *object; /* a copy, from which keys are taken */
    const char *place;
    struct text *errors;
    bool failed;
};

static void wrong(struct reader *r, const char *key, const char *expected)
{
    text_printf(r->errors, "%s%s%s: expected %s\n", r->place, r->place[0] != '\0' ? "." : "", key,
                expected);
    r->failed = true;
}

/* The value of @key as text (numbers as they are written), taken off; NULL: not there. */
static const char *take(struct reader *r, const char *key, char *out, size_t size)
{
    json_t *v = json_object_get(r->object, key);
    const char *ret = out;
    if (v == NULL)
        return NULL;
    if (json_is_string(v))
        ret = text_copy(out, size, json_string_value(v)) < 0 ? "" : out;
    else if (json_is_integer(v))
        snprintf(out, size, "%lld", (long long)json_integer_value(v));
    else if (json_is_real(v))
        snprintf(out, size, "%.9g", json_real_value(v));
    else
        ret = "";
    json_object_del(r->object, key);
    return ret;
}

static bool read_name(struct reader *r, const char *key, char ret[NAME_SIZE], bool needed)
{
    char text[NAME_SIZE];
    const char *v = take(r, key, text, sizeof text);
    if ((v == NULL && needed) || (v != NULL && v[0] == '\0'))
        wrong(r, key, "a name");
    if (v == NULL || v[0] == '\0')
        return false;
    name_escape(v, strlen(v), ret);
    return true;
}

static double read_number(struct reader *r, const char *key, double least, double most,
                          double plain)
{
    char text[64], *end;
    const char *v = take(r, key, text, sizeof text);
    if (v == NULL)
        return plain;
    double d = strtod(v, &end);
    if (v[0] == '\0' || *end != '\0' || !(d >= least && d <= most)) {
        char words[96];
        snprintf(words, sizeof words, "a number from %.9g to %.9g", least, most);
        wrong(r, key, words);
        return plain;
    }
    return d;
}

static uint64_t read_time(struct reader *r, const char *key, uint64_t plain)
{
    char text[64];
    uint64_t ns;
    const char *v = take(r, key, text, sizeof text), *expected;
    if (v == NULL)
        return plain;
    if (strcmp(v, "0") == 0 || strcmp(v, "0s") == 0)
        return 0;
    if (units_parse_duration_ns(v, &ns, &expected) == 0)
        return ns;
    uint64_t us;
    if (units_parse_latency_us(v, &us, &expected) == 0)
        return us * 1000;
    wrong(r, key, "a time such as 10s or 250us");
    return plain;
}

static uint64_t read_size(struct reader *r, const char *key, uint64_t plain)
{
    char text[64];
    uint64_t bytes;
    const char *v = take(r, key, text, sizeof text), *expected;
    if (v == NULL)
        return plain;
    if (units_parse_size(v, &bytes, &expected) == 0)
        return bytes;
    wrong(r, key, expected);
    return plain;
}

static uint64_t read_rate(struct reader *r, const char *key, uint64_t plain)
{
    char text[64];
    uint64_t bytes;
    const char *v = take(r, key, text, sizeof text), *expected;
    if (v == NULL)
        return plain;
    if (units_parse_bandwidth(v, &bytes, &expected) == 0)
        return bytes;
    wrong(r, key, expected);
    return plain;
}

static uint32_t read_part(struct reader *r, const char *key, uint32_t plain)
{
    char text[64];
    uint32_t ppm;
    const char *v = take(r, key, text, sizeof text), *expected;
    if (v == NULL)
        return plain;
    if (units_parse_percent_ppm(v, &ppm, &expected) == 0)
        return ppm;
    wrong(r, key, expected);
    return plain;
}

static bool reader_end(struct reader *r)
{
    const char *key;
    json_t *value;
    json_object_foreach(r->object, key, value) wrong(r, key, "no such key");
    json_decref(r->object);
    return !r->failed;
}

static bool reader_begin(struct reader *r, const json_t *object, const char *place,
                         struct text *errors)
{
    *r = (struct reader){.place = place, .errors = errors};
    if (json_is_object(object)) {
        r->object = json_copy((json_t *)(uintptr_t)object);
        weir_assert(r->object != NULL);
        return true;
    }
    text_printf(errors, "%s: expected keys and values\n", place);
    return false;
}

/* ---- parts ----------------------------------------------------------------------------------- */

static int target_index(const struct scenario *s, const char *name)
{
    for (size_t i = 0; i < s->config.device_count; i++)
        if (strcmp(s->device[i].name, name) == 0)
            return (int)i;
    return -1;
}

static bool read_target(struct scenario *s, size_t i, const json_t *object, const char *place,
                        struct text *errors)
{
    struct reader r;
    struct sim_device_config *d = &s->device[i];
    if (!reader_begin(&r, object, place, errors))
        return false;
    read_name(&r, "name", d->name, true);
    d->servers = (uint32_t)read_number(&r, "servers", 1, 4096, 8);
    d->base_ns[0] = read_time(&r, "read", 200000);
    d->base_ns[1] = read_time(&r, "write", 200000);
    uint64_t rate = read_rate(&r, "bandwidth", UINT64_C(500000000));
    d->page_ns[0] = d->page_ns[1] = 4096 * SEC / (rate > 0 ? rate : 1);
    d->spread = (double)read_part(&r, "spread", 500000) / 1e6;
    d->cache_ppm = read_part(&r, "cache", 0);
    d->cache_ns = read_time(&r, "cacheTime", 50000);
    d->write_amplification = read_number(&r, "writeAmplification", 1, 100, 1);
    d->gc_bytes = read_size(&r, "pauseEvery", 0);
    d->gc_ns = read_time(&r, "pause", 0);
    return reader_end(&r);
}

static void read_load_kind(struct scenario *s, size_t i, struct reader *r, const char *folder)
{
    struct sim_load_config *l = &s->load[i];
    char name[512], format[32] = "msr";
    l->rate = read_number(r, "rate", 0.001, 1e7, 0);
    l->depth = (uint32_t)read_number(r, "depth", 1, 4096, 0);
    double speed = read_number(r, "traceSpeed", 0.001, 1e6, 1);
    const char *file = take(r, "trace", name, sizeof name);
    const char *f = take(r, "traceFormat", format, sizeof format);
    int given = (l->rate > 0) + (l->depth > 0) + (file != NULL);
    if (given != 1) {
        wrong(r, "rate", "one of rate, depth and trace");
        return;
    }
    l->kind = l->rate > 0 ? SIM_OPEN : l->depth > 0 ? SIM_CLOSED : SIM_TRACE;
    if (file == NULL)
        return;
    char why[256];
    if (trace_read(folder, file, f != NULL ? f : "msr", speed, &s->trace[i], &l->trace_count, why,
                   sizeof why) < 0) {
        text_printf(r->errors, "%s.trace: %s\n", r->place, why);
        r->failed = true;
    }
    l->trace = s->trace[i];
}

static bool read_load(struct scenario *s, size_t i, const json_t *object, const char *place,
                      const char *folder, struct text *errors)
{
    struct reader r;
    struct sim_load_config *l = &s->load[i];
    char target[NAME_SIZE] = "";
    if (!reader_begin(&r, object, place, errors))
        return false;
    read_name(&r, "host", l->host, true);
    read_name(&r, "volume", l->volume, true);
    read_name(&r, "tenant", l->tenant, false);
    l->gateway = (uint32_t)read_number(&r, "gateway", 1, s->config.gateways, 1) - 1;
    int device = read_name(&r, "target", target, false) ? target_index(s, target) : 0;
    if (device < 0)
        wrong(&r, "target", "the name of one of the targets");
    l->device = device < 0 ? 0 : (uint32_t)device;
    read_load_kind(s, i, &r, folder);
    l->think_ns = read_time(&r, "think", 0);
    l->bytes = read_size(&r, "size", 4096);
    l->large_bytes = read_size(&r, "largeSize", 1 << 20);
    l->large_ppm = read_part(&r, "large", 0);
    l->write_ppm = read_part(&r, "writes", 0);
    l->start_ns = read_time(&r, "from", 0);
    l->stop_ns = read_time(&r, "to", 0);
    l->on_ns = read_time(&r, "on", 0);
    l->off_ns = read_time(&r, "off", l->on_ns);
    l->swing = (double)read_part(&r, "swing", 0) / 1e6;
    l->swing_ns = read_time(&r, "swingEvery", 86400 * SEC);
    return reader_end(&r);
}

static int load_index(const struct scenario *s, const char *key)
{
    for (size_t i = 0; i < s->config.load_count; i++) {
        char mine[STREAM_KEY_SIZE];
        name_stream_key(s->load[i].host, s->load[i].volume, mine);
        if (strcmp(mine, key) == 0)
            return (int)i;
    }
    return -1;
}

/* What happens to a target, a load, a gateway or the server: one of them, and one thing. */
static bool read_change(struct scenario *s, size_t i, const json_t *object, const char *place,
                        struct text *errors)
{
    struct reader r;
    struct sim_change *c = &s->change[i];
    char target[NAME_SIZE] = "", key[STREAM_KEY_SIZE], words[32];
    if (!reader_begin(&r, object, place, errors))
        return false;
    c->at_ns = read_time(&r, "at", 0);
    bool has_target = read_name(&r, "target", target, false);
    const char *load = take(&r, "load", key, sizeof key);
    uint32_t gateway = (uint32_t)read_number(&r, "gateway", 1, s->config.gateways, 0);
    const char *state = take(&r, "state", words, sizeof words);
    uint32_t speed = read_part(&r, "speed", 0),
             servers = (uint32_t)read_number(&r, "servers", 1, 4096, 0);
    uint64_t stall = read_time(&r, "stall", 0);
    double rate = read_number(&r, "rate", 0, 1000, -1);
    uint32_t process = (uint32_t)read_number(&r, "process", 1, s->config.processes, 0);
    int index = has_target ? target_index(s, target) : load != NULL ? load_index(s, load) : 0;
    c->index = index < 0 ? 0 : (uint32_t)index;
    if (index < 0)
        wrong(&r, has_target ? "target" : "load", "one that the scenario has");
    if (has_target && speed > 0)
        c->kind = SIM_DEVICE_SPEED, c->value = speed;
    else if (has_target && servers > 0)
        c->kind = SIM_DEVICE_SERVERS, c->value = servers;
    else if (has_target && stall > 0)
        c->kind = SIM_DEVICE_STALL, c->value = (int64_t)stall;
    else if (process > 0 && stall > 0)
        c->kind = SIM_PROCESS_STALL, c->index = process - 1, c->value = (int64_t)stall;
    else if (load != NULL && gateway > 0)
        c->kind = SIM_LOAD_MOVE, c->value = gateway - 1;
    else if (load != NULL && rate >= 0)
        c->kind = SIM_LOAD_RATE, c->value = (int64_t)(rate * 1e6);
    else if (state != NULL && strcmp(state, "down") == 0)
        c->kind = gateway > 0 ? SIM_GATEWAY_DOWN : SIM_SERVER_DOWN;
    else if (state != NULL && strcmp(state, "up") == 0)
        c->kind = gateway > 0 ? SIM_GATEWAY_UP : SIM_SERVER_UP;
    else if (state != NULL && gateway > 0 && strcmp(state, "cut-off") == 0)
        c->kind = SIM_PARTITION;
    else if (state != NULL && gateway > 0 && strcmp(state, "torn") == 0)
        c->kind = SIM_TEAR;
    else if (state != NULL && gateway > 0 && strcmp(state, "reachable") == 0)
        c->kind = SIM_HEAL;
    else
        wrong(&r, "at",
              "something that happens: a target's speed, servers or stall, a load's "
              "gateway or rate, a process's stall, or a state: down, up, cut-off, reachable, torn");
    if (load == NULL && !has_target && gateway > 0)
        c->index = gateway - 1;
    return reader_end(&r);
}

/* ---- documents ------------------------------------------------------------------------------- */

typedef bool read_part_of(struct scenario *s, size_t i, const json_t *v, const char *place,
                          const char *folder, struct text *errors);

static bool one_target(struct scenario *s, size_t i, const json_t *v, const char *place,
                       const char *folder, struct text *errors)
{
    (void)folder;
    return read_target(s, i, v, place, errors);
}

static bool one_change(struct scenario *s, size_t i, const json_t *v, const char *place,
                       const char *folder, struct text *errors)
{
    (void)folder;
    return read_change(s, i, v, place, errors);
}

static bool each(struct scenario *s, const json_t *list, const char *name, read_part_of *read,
                 const char *folder, struct text *errors)
{
    bool ok = true;
    for (size_t i = 0; i < json_array_size(list); i++) {
        char place[64];
        snprintf(place, sizeof place, "%s[%zu]", name, i);
        ok = read(s, i, json_array_get(list, i), place, folder, errors) && ok;
    }
    return ok;
}

static bool read_scenario(struct scenario *s, const json_t *doc, const char *folder,
                          struct text *errors)
{
    struct reader r;
    char name[NAME_SIZE] = "";
    struct sim_config *c = &s->config;
    if (!reader_begin(&r, doc, "", errors))
        return false;
    json_object_del(r.object, "kind");
    read_name(&r, "name", name, false);
    c->duration_ns = read_time(&r, "duration", 60 * SEC);
    c->warmup_ns = read_time(&r, "warmup", 5 * SEC);
    c->interval_ns = read_time(&r, "interval", SEC);
    if (c->interval_ns < SEC / 1000)
        wrong(&r, "interval", "a time from 1ms");
    c->seed = (uint64_t)read_number(&r, "seed", 0, 9e15, 1);
    c->gateways = (uint32_t)read_number(&r, "gateways", 1, SIM_GATEWAYS_MAX, 1);
    c->processes = (uint32_t)read_number(&r, "processes", 1, SIM_PROCESSES_MAX, 1);
    c->own_targets = c->processes > 1;
    c->store_ns = read_time(&r, "storeTime", 0);
    c->path_ns = read_time(&r, "path", 50000);
    c->control_ns = read_time(&r, "controlPath", 300000);
    c->loss_ppm = read_part(&r, "loss", 0);
    c->static_iops = (uint64_t)read_number(&r, "staticIops", 1, 1e9, 1000);
    c->fixed_depth = (uint32_t)read_number(&r, "fixedDepth", 1, 4096, 32);
    json_t *targets = json_incref(json_object_get(r.object, "targets"));
    json_t *loads = json_incref(json_object_get(r.object, "loads"));
    json_t *changes = json_incref(json_object_get(r.object, "changes"));
    json_object_del(r.object, "targets");
    json_object_del(r.object, "loads");
    json_object_del(r.object, "changes");
    c->device_count = json_array_size(targets);
    c->load_count = json_array_size(loads);
    c->change_count = json_array_size(changes);
    if (c->device_count == 0 || c->device_count > SIM_DEVICES_MAX)
        wrong(&r, "targets", "a list of 1 to 64");
    if (c->load_count == 0 || c->load_count > SIM_LOADS_MAX)
        wrong(&r, "loads", "a list of 1 to 100000");
    if (c->duration_ns <= c->warmup_ns)
        wrong(&r, "duration", "more than the warm-up");
    bool ok = reader_end(&r);
    s->device = calloc(c->device_count + 1, sizeof *s->device);
    s->load = calloc(c->load_count + 1, sizeof *s->load);
    s->trace = calloc(c->load_count + 1, sizeof *s->trace);
    s->change = calloc(c->change_count + 1, sizeof *s->change);
    ok = ok && s->device != NULL && s->load != NULL && s->trace != NULL && s->change != NULL;
    ok = ok && each(s, targets, "targets", one_target, folder, errors);
    ok = ok && each(s, loads, "loads", read_load, folder, errors);
    ok = ok && each(s, changes, "changes", one_change, folder, errors);
    json_decref(targets);
    json_decref(loads);
    json_decref(changes);
    return ok;
}

static bool read_document(struct scenario *s, const json_t *doc, struct text *errors)
{
    struct sim_config *c = &s->config;
    const char *kind = model_kind(doc, errors);
    if (kind == NULL)
        return false;
    if (strcmp(kind, "Agreement") == 0 && c->agreement_count < SCENARIO_AGREEMENTS_MAX)
        return model_agreement_parse(doc, &s->agreement[c->agreement_count++], errors) == 0;
    if (strcmp(kind, "Tenant") == 0 && c->tenant_count < SCENARIO_AGREEMENTS_MAX)
        return model_tenant_parse(doc, &s->tenant[c->tenant_count++], errors) == 0;
    if (strcmp(kind, "Policy") == 0 && c->policy_count < SCENARIO_POLICIES_MAX)
        return model_policy_parse(doc, &s->policy[c->policy_count++], errors) == 0;
    text_append_str(errors, "more documents than can be in force\n");
    return false;
}

/* Each load is judged by the strictest objective of an agreement that selects it. */
static void judge_by_agreements(struct scenario *s)
{
    for (size_t i = 0; i < s->config.load_count; i++) {
        struct sim_load_config *l = &s->load[i];
        for (size_t k = 0; k < s->config.agreement_count; k++) {
            const struct agreement *a = &s->agreement[k];
            if (a->objective_count == 0 || !sim_selects(&a->applies_to, l, s->device))
                continue;
            if (l->objective_us == 0 || a->objective[0].latency_us < l->objective_us) {
                l->objective_us = a->objective[0].latency_us;
                l->percentile_ppm = a->objective[0].percentile_ppm;
            }
        }
    }
}

int scenario_read(struct scenario *s, json_t *const *documents, size_t count, const char *folder,
                  struct text *errors)
{
    *s = (struct scenario){0};
    size_t found = 0;
    bool ok = true;
    /* No more of any kind than there are documents: the most there may be take megabytes. */
    s->agreement = calloc(count + 1, sizeof *s->agreement);
    s->tenant = calloc(count + 1, sizeof *s->tenant);
    s->policy = calloc(count + 1, sizeof *s->policy);
    weir_assert(s->agreement != NULL && s->tenant != NULL && s->policy != NULL);
    for (size_t i = 0; i < count; i++) {
        const char *kind = json_string_value(json_object_get(documents[i], "kind"));
        if (kind != NULL && strcmp(kind, "Scenario") == 0)
            ok = found++ == 0 && read_scenario(s, documents[i], folder, errors) && ok;
        else
            ok = read_document(s, documents[i], errors) && ok;
    }
    if (found != 1) {
        text_append_str(errors, "expected one document of kind Scenario\n");
        ok = false;
    }
    s->config.device = s->device;
    s->config.load = s->load;
    s->config.change = s->change;
    s->config.agreement = s->agreement;
    s->config.tenant = s->tenant;
    s->config.policy = s->policy;
    if (!ok) {
        scenario_fini(s);
        return WEIR_E_INVALID;
    }
    judge_by_agreements(s);
    return 0;
}

void scenario_fini(struct scenario *s)
{
    for (size_t i = 0; s->trace != NULL && i < s->config.load_count; i++)
        free(s->trace[i]);
    free(s->trace);
    free(s->device);
    free(s->load);
    free(s->change);
    free(s->agreement);
    free(s->tenant);
    free(s->policy);
    *s = (struct scenario){0};
}
