/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/kind.h"

#include <string.h>
#include <strings.h>

#include "base/err.h"
#include "cli/http.h"

static const struct table_column streams[] = {
    {"STREAM", "key", TABLE_TEXT, false},
    {"TENANT", "tenant", TABLE_TEXT, true},
    {"TARGET", "target", TABLE_TEXT, true},
    {"GATEWAY", "gateway", TABLE_TEXT, true},
    {"AGREEMENT", "agreement", TABLE_TEXT, false},
    {"VERDICT", "verdict", TABLE_VERDICT, false},
    {"DEMAND", "demandIops", TABLE_COUNT, true},
    {"IOPS", "iops", TABLE_COUNT, false},
    {"READ", "readIops", TABLE_COUNT, true},
    {"WRITE", "writeIops", TABLE_COUNT, true},
    {"READ/S", "readBytesPerSecond", TABLE_RATE, true},
    {"WRITE/S", "writeBytesPerSecond", TABLE_RATE, true},
    {"BANDWIDTH", "readBytesPerSecond+writeBytesPerSecond", TABLE_RATE, false},
    {"P99", "latency.total.p99Us", TABLE_LATENCY, false},
    {"HELD-P99", "latency.held.p99Us", TABLE_LATENCY, false},
    {"TARGET-P99", "latency.target.p99Us", TABLE_LATENCY, false},
    {"PROMISED", "objective.latencyUs", TABLE_LATENCY, false},
    {"THROTTLE", "control.applied.iops", TABLE_COUNT, false},
    {"DESIRED", "control.desired.iops", TABLE_COUNT, true},
    {"CREDIT", "burstCreditPercent", TABLE_PERCENT, true},
    {"HARM", "harmPercent", TABLE_PERCENT, true},
    {"INFLIGHT", "inflight", TABLE_COUNT, true},
    {"HELD", "heldNow", TABLE_COUNT, true},
    {"ERRORS/S", "errorsPerSecond", TABLE_COUNT, true},
};

static const struct table_column agreements[] = {
    {"NAME", "name", TABLE_TEXT, false},
    {"VERDICT", "status.verdict", TABLE_VERDICT, false},
    {"STREAMS", "status.streams", TABLE_EXACT, false},
    {"IOPS", "status.iops", TABLE_COUNT, false},
    {"DEMAND", "status.demandIops", TABLE_COUNT, true},
    {"LATENCY", "status.latencyUs", TABLE_LATENCY, false},
    {"RESERVED", "spec.reservation.iops", TABLE_COUNT, false},
    {"LIMIT", "spec.limit.iops", TABLE_COUNT, false},
    {"PER", "spec.per", TABLE_TEXT, true},
    {"DEFAULT", "spec.default", TABLE_TEXT, true},
    {"ASLEEP", "status.asleep", TABLE_TEXT, true},
    {"WEIGHT", "spec.weight", TABLE_EXACT, true},
    {"PRIORITY", "spec.priority", TABLE_EXACT, true},
    {"WINDOWS", "status.windows", TABLE_EXACT, true},
    {"MET", "status.windowsMet", TABLE_EXACT, true},
    {"VERSION", "version", TABLE_EXACT, false},
    {"UPDATED", "updated", TABLE_AGE, false},
};

static const struct table_column tenants[] = {
    {"NAME", "name", TABLE_TEXT, false},
    {"MEMBERS", "spec.members", TABLE_LENGTH, false},
    {"LIMIT", "spec.limit.iops", TABLE_COUNT, false},
    {"BANDWIDTH", "spec.limit.bandwidth", TABLE_RATE, false},
    {"VERSION", "version", TABLE_EXACT, false},
    {"UPDATED", "updated", TABLE_AGE, false},
};

static const struct table_column policies[] = {
    {"NAME", "name", TABLE_TEXT, false},
    {"OBSERVE", "spec.observe", TABLE_TEXT, false},
    {"ENFORCE", "spec.enforce", TABLE_TEXT, true},
    {"PROTECT", "spec.protect", TABLE_TEXT, false},
    {"COLLISIONS", "spec.collisions", TABLE_TEXT, true},
    {"FLOOR", "spec.floor.iops", TABLE_COUNT, false},
    {"MAX-CUT", "spec.maxCut", TABLE_PERCENT, false},
    {"FREEZES", "spec.freeze", TABLE_LENGTH, true},
    {"VERSION", "version", TABLE_EXACT, false},
    {"UPDATED", "updated", TABLE_AGE, false},
};

static const struct table_column gateways[] = {
    {"NAME", "name", TABLE_TEXT, false},
    {"STATE", "state", TABLE_VERDICT, false},
    {"DRAIN", "drain.state", TABLE_VERDICT, false},
    {"ADDRESS", "address", TABLE_TEXT, false},
    {"CONNECTIONS", "connections.active", TABLE_EXACT, true},
    {"STREAMS", "streams", TABLE_EXACT, false},
    {"POLLS", "polls", TABLE_COUNT, false},
    {"LOST", "pollsLost", TABLE_COUNT, false},
    {"ROUND-TRIP", "roundTripUs", TABLE_LATENCY, false},
    {"DESIRED", "epoch.desired", TABLE_EXACT, true},
    {"APPLIED", "epoch.applied", TABLE_EXACT, true},
    {"PAIR", "pair", TABLE_EXACT, true},
    {"PROCESS", "process", TABLE_EXACT, true},
    {"SUBGROUP", "subgroup", TABLE_EXACT, true},
    {"QUEUED", "queuedBytes", TABLE_EXACT, true},
    {"DEATHS", "workers.deaths", TABLE_EXACT, true},
    {"SOFTWARE", "software", TABLE_TEXT, true},
    {"ID", "id", TABLE_TEXT, true},
    {"SEEN", "lastSeen", TABLE_AGE, false},
    {"TO-DO", "advice", TABLE_TEXT, false},
};

static const struct table_column dials[] = {
    {"ADDRESS", "address", TABLE_TEXT, false},
    {"SOURCE", "source", TABLE_TEXT, false},
    {"NAME", "name", TABLE_TEXT, false},
    {"STATE", "state", TABLE_TEXT, false},
    {"FAILURES", "failures", TABLE_EXACT, false},
};

static const struct table_column targets[] = {
    {"NAME", "name", TABLE_TEXT, false},
    {"URI", "uri", TABLE_TEXT, false},
    {"GATEWAYS", "gateways", TABLE_LIST, false},
    {"IOPS", "iops", TABLE_COUNT, false},
    {"P99", "latency.target.p99Us", TABLE_LATENCY, false},
    {"INFLIGHT", "inflight", TABLE_COUNT, false},
    {"REACHABLE", "probe.reachable", TABLE_TEXT, false},
    {"PROBE", "probe.latencyUs", TABLE_LATENCY, false},
    {"SIZE", "probe.size", TABLE_SIZE, false},
    {"CONNECTIONS", "connections", TABLE_COUNT, true},
    {"FAILURES", "connectFailures", TABLE_COUNT, true},
    {"ERRORS", "errors", TABLE_COUNT, true},
    {"PROBE-ERROR", "probe.error", TABLE_TEXT, true},
};

static const struct table_column aggregates[] = {
    {"NAME", "name", TABLE_TEXT, false},
    {"STREAMS", "streams", TABLE_EXACT, false},
    {"DEMAND", "demandIops", TABLE_COUNT, true},
    {"IOPS", "iops", TABLE_COUNT, false},
    {"READ", "readIops", TABLE_COUNT, false},
    {"WRITE", "writeIops", TABLE_COUNT, false},
    {"READ/S", "readBytesPerSecond", TABLE_RATE, false},
    {"WRITE/S", "writeBytesPerSecond", TABLE_RATE, false},
    {"INFLIGHT", "inflight", TABLE_COUNT, false},
    {"HELD", "heldNow", TABLE_COUNT, false},
    {"THROTTLED", "throttled", TABLE_EXACT, false},
    {"ERRORS/S", "errorsPerSecond", TABLE_COUNT, true},
};

static const struct table_column actions[] = {
    {"AT", "at", TABLE_TEXT, false},
    {"ID", "id", TABLE_TEXT, true},
    {"VERB", "verb", TABLE_TEXT, false},
    {"DECISION", "decision", TABLE_VERDICT, false},
    {"BULLY", "bully", TABLE_TEXT, false},
    {"FROM", "from.iops", TABLE_COUNT, false},
    {"TO", "to.iops", TABLE_COUNT, false},
    {"VICTIM", "victim", TABLE_TEXT, false},
    {"AGREEMENT", "agreement", TABLE_TEXT, false},
    {"SUFFERED", "victimLatencyUs", TABLE_LATENCY, false},
    {"PROMISED", "objectiveUs", TABLE_LATENCY, false},
    {"HARM", "harmPercent", TABLE_PERCENT, false},
    {"GATEWAY", "gateway", TABLE_TEXT, true},
    {"TARGET", "target", TABLE_TEXT, true},
    {"POLICY", "policy", TABLE_TEXT, true},
    {"REASON", "reason", TABLE_TEXT, true},
};

static const struct table_column events[] = {
    {"AT", "at", TABLE_TEXT, false},
    {"ID", "id", TABLE_TEXT, true},
    {"SEVERITY", "severity", TABLE_VERDICT, false},
    {"KIND", "kind", TABLE_TEXT, false},
    {"SUBJECT", "subject", TABLE_TEXT, false},
    {"TEXT", "text", TABLE_TEXT, false},
};

static const struct table_column audit[] = {
    {"AT", "at", TABLE_TEXT, false},
    {"ID", "id", TABLE_TEXT, true},
    {"ACTOR", "actor", TABLE_TEXT, false},
    {"VERB", "verb", TABLE_TEXT, false},
    {"SUBJECT", "subject", TABLE_TEXT, false},
    {"VERSION", "version", TABLE_EXACT, false},
};

#define COLUMNS(c) c, sizeof(c) / sizeof((c)[0])

static const struct kind kinds[] = {
    {"streams", "stream", NULL, NULL, "/api/v1/streams", "key", false, true, "streams",
     COLUMNS(streams)},
    {"gateways", "gateway", "gw", NULL, "/api/v1/gateways", "name", false, true, NULL,
     COLUMNS(gateways)},
    {"targets", "target", NULL, NULL, "/api/v1/targets", "name", false, true, NULL,
     COLUMNS(targets)},
    {"dials", "dial", NULL, NULL, "/api/v1/dials", "address", false, false, NULL,
     COLUMNS(dials)},
    {"agreements", "agreement", "sla", "Agreement", "/api/v1/agreements", "name", false, true,
     "agreements", COLUMNS(agreements)},
    {"tenants", "tenant", NULL, "Tenant", "/api/v1/tenants", "name", false, true, NULL,
     COLUMNS(tenants)},
    {"policies", "policy", NULL, "Policy", "/api/v1/policies", "name", false, true, NULL,
     COLUMNS(policies)},
    {"hosts", "host", NULL, NULL, "/api/v1/hosts", "name", false, false, NULL, COLUMNS(aggregates)},
    {"volumes", "volume", "vol", NULL, "/api/v1/volumes", "name", false, false, NULL,
     COLUMNS(aggregates)},
    {"actions", "action", NULL, NULL, "/api/v1/actions", "id", true, false, "action",
     COLUMNS(actions)},
    {"events", "event", NULL, NULL, "/api/v1/events", "id", true, false, "event", COLUMNS(events)},
    {"audit", "audit", NULL, NULL, "/api/v1/audit", "id", true, false, NULL, COLUMNS(audit)},
};
#define KIND_COUNT (sizeof(kinds) / sizeof(kinds[0]))

const struct kind *kind_at(size_t i)
{
    return i < KIND_COUNT ? &kinds[i] : NULL;
}

const struct kind *kind_find(const char *name)
{
    for (size_t i = 0; i < KIND_COUNT; i++) {
        if (strcasecmp(kinds[i].plural, name) == 0 || strcasecmp(kinds[i].singular, name) == 0 ||
            (kinds[i].alias && strcasecmp(kinds[i].alias, name) == 0))
            return &kinds[i];
    }
    return NULL;
}

const struct kind *kind_of_document(const char *document)
{
    for (size_t i = 0; i < KIND_COUNT; i++) {
        if (kinds[i].document && strcmp(kinds[i].document, document) == 0)
            return &kinds[i];
    }
    return NULL;
}

bool kind_is_deleted(const struct kind *k)
{
    return k->document != NULL || strcmp(k->singular, "gateway") == 0;
}

void kind_list(enum kind_which which, const char *between, struct text *out)
{
    const char *before = "";
    for (size_t i = 0; i < KIND_COUNT; i++) {
        const struct kind *k = &kinds[i];
        if ((which == KIND_LIVE && !k->live) || (which == KIND_DELETED && !kind_is_deleted(k)))
            continue;
        text_printf(out, "%s%s", before, k->plural);
        before = between;
    }
}

int kind_path(const struct kind *k, const char *name, struct text *out)
{
    const char *slash = strchr(name, '/');
    bool stream = strcmp(k->singular, "stream") == 0;
    if (*name == '\0' || (stream != (slash != NULL)))
        return WEIR_E_INVALID;
    text_printf(out, "%s/", k->path);
    if (stream) {
        char host[256];
        size_t n = (size_t)(slash - name);
        if (n == 0 || n >= sizeof(host) || slash[1] == '\0' || strchr(slash + 1, '/'))
            return WEIR_E_INVALID;
        memcpy(host, name, n);
        host[n] = '\0';
        http_encode(out, host);
        text_append_str(out, "/");
        name = slash + 1;
    }
    http_encode(out, name);
    return 0;
}

/* The order in which people write keys; others follow. */
static const char *const key_order[] = {
    "appliesTo",      "default",        "members",     "tenant",         "host",
    "volume",         "target",         "per",         "objectives",     "percentile",
    "latencyUs",      "whileIops",      "reservation", "limit",          "iops",
    "iopsRead",       "iopsWrite",      "leastIops",   "bandwidth",      "bandwidthRead",
    "bandwidthWrite", "leastBandwidth", "burst",       "for",            "limitPerGiB",
    "weight",         "priority",       "compliance",  "window",         "over",
    "schedule",       "observe",        "enforce",     "protect",        "floor",
    "maxCut",         "collisions",     "freeze",      "days",           "from",
    "to",
};

static json_t *without_nulls(const json_t *v);

/* Null, an empty list, or an object of nothing but nulls says nothing; but "appliesTo: {}" says
 * everybody. */
static void put_member(json_t *o, const char *key, const json_t *value)
{
    if (!value || json_is_null(value) || json_object_get(o, key))
        return;
    json_t *copy = without_nulls(value);
    bool empty = (json_is_object(copy) && json_object_size(copy) == 0) ||
                 (json_is_array(copy) && json_array_size(copy) == 0);
    if (empty && strcmp(key, "appliesTo") != 0)
        json_decref(copy);
    else
        json_object_set_new(o, key, copy);
}

/* A copy in people's order without members that say nothing, at any depth. */
static json_t *without_nulls(const json_t *v)
{
    if (json_is_object(v)) {
        json_t *o = json_object(), *item;
        const char *key;
        for (size_t i = 0; i < sizeof(key_order) / sizeof(key_order[0]); i++)
            put_member(o, key_order[i], json_object_get(v, key_order[i]));
        json_object_foreach((json_t *)(uintptr_t)v, key, item) put_member(o, key, item);
        return o;
    }
    if (json_is_array(v)) {
        json_t *a = json_array(), *item;
        size_t i;
        json_array_foreach(v, i, item) json_array_append_new(a, without_nulls(item));
        return a;
    }
    return json_incref((json_t *)(uintptr_t)v);
}

json_t *kind_people_form(const json_t *document)
{
    if (!json_is_object(document))
        return NULL;
    json_t *spec = json_object_get(document, "spec");
    if (!json_is_object(spec))
        return json_deep_copy(document);
    json_t *o = json_object();
    json_object_set(o, "kind", json_object_get(document, "kind"));
    json_object_set(o, "name", json_object_get(document, "name"));
    json_t *rest = without_nulls(spec);
    json_object_update(o, rest);
    json_decref(rest);
    return o;
}
