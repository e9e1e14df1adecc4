/* SPDX-License-Identifier: Apache-2.0 */
#include "server/app/routes.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "server/app/app.h"

#define JSON "application/json"
#define API  "/api/v1/"
#define PAGE "limit,cursor"
#define ROWS "limit,before,from,to"

/* Rows of one path stand together. */
const struct route routes[] = {
    {"GET", API "agreements", ROLE_VIEWER, PAGE, BODY_NONE, JSON, documents_list},
    {"GET", API "agreements/{name}", ROLE_VIEWER, "", BODY_NONE, JSON, documents_get},
    {"PUT", API "agreements/{name}", ROLE_OPERATOR, "dryRun,force", BODY_JSON, JSON,
     documents_put},
    {"DELETE", API "agreements/{name}", ROLE_OPERATOR, "", BODY_NONE, JSON, documents_delete},
    {"GET", API "tenants", ROLE_VIEWER, PAGE, BODY_NONE, JSON, documents_list},
    {"GET", API "tenants/{name}", ROLE_VIEWER, "", BODY_NONE, JSON, documents_get},
    {"PUT", API "tenants/{name}", ROLE_OPERATOR, "dryRun", BODY_JSON, JSON, documents_put},
    {"DELETE", API "tenants/{name}", ROLE_OPERATOR, "", BODY_NONE, JSON, documents_delete},
    {"GET", API "policies", ROLE_VIEWER, PAGE, BODY_NONE, JSON, documents_list},
    {"GET", API "policies/{name}", ROLE_VIEWER, "", BODY_NONE, JSON, documents_get},
    {"PUT", API "policies/{name}", ROLE_OPERATOR, "dryRun", BODY_JSON, JSON, documents_put},
    {"DELETE", API "policies/{name}", ROLE_OPERATOR, "", BODY_NONE, JSON, documents_delete},

    {"GET", API "streams", ROLE_VIEWER,
     PAGE ",histograms,host,volume,tenant,target,gateway,agreement,verdict", BODY_NONE, JSON,
     views_streams},
    {"GET", API "streams/{host}/{volume}", ROLE_VIEWER, "histograms,gateway", BODY_NONE, JSON,
     views_stream},
    {"GET", API "streams/{host}/{volume}/history", ROLE_VIEWER, "from,to,step,limit", BODY_NONE,
     JSON, history_stream},
    {"GET", API "gateways", ROLE_VIEWER, PAGE, BODY_NONE, JSON, views_gateways},
    {"GET", API "gateways/{name}", ROLE_VIEWER, "", BODY_NONE, JSON, views_gateway},
    {"DELETE", API "gateways/{name}", ROLE_OPERATOR, "", BODY_NONE, JSON, gateways_retire},
    {"POST", API "gateways/{name}/admit", ROLE_ADMIN, "", BODY_NONE, JSON, gateways_admit},
    {"POST", API "gateways/{name}/rotate", ROLE_ADMIN, "", BODY_NONE, JSON, gateways_rotate},
    {"DELETE", API "gateways/{name}/rotate", ROLE_ADMIN, "", BODY_NONE, JSON, gateways_unrotate},
    {"POST", API "gateways/{name}/drain", ROLE_OPERATOR, "", BODY_OPTIONAL, JSON, gateways_drain},
    {"POST", API "gateways/{name}/undrain", ROLE_OPERATOR, "", BODY_NONE, JSON, gateways_undrain},
    {"GET", API "dials", ROLE_VIEWER, PAGE, BODY_NONE, JSON, views_dials},
    {"GET", API "targets", ROLE_VIEWER, PAGE, BODY_NONE, JSON, views_targets},
    {"GET", API "targets/{name}", ROLE_VIEWER, "", BODY_NONE, JSON, views_target},
    {"GET", API "targets/{name}/history", ROLE_VIEWER, "from,to,limit", BODY_NONE, JSON,
     history_target},
    {"GET", API "hosts", ROLE_VIEWER, PAGE, BODY_NONE, JSON, views_hosts},
    {"GET", API "volumes", ROLE_VIEWER, PAGE, BODY_NONE, JSON, views_volumes},
    {"GET", API "actions", ROLE_VIEWER, ROWS, BODY_NONE, JSON, history_actions},
    {"GET", API "events", ROLE_VIEWER, ROWS, BODY_NONE, JSON, history_events},
    {"GET", API "audit", ROLE_VIEWER, ROWS, BODY_NONE, JSON, history_audit},

    {"GET", API "enforcement", ROLE_VIEWER, "", BODY_NONE, JSON, operation_enforcement_get},
    {"PUT", API "enforcement", ROLE_OPERATOR, "", BODY_JSON, JSON, operation_enforcement_put},
    {"GET", API "tokens", ROLE_ADMIN, PAGE, BODY_NONE, JSON, tokens_list},
    {"POST", API "tokens", ROLE_ADMIN, "", BODY_JSON, JSON, tokens_make},
    {"GET", API "tokens/{id}", ROLE_ADMIN, "", BODY_NONE, JSON, tokens_get},
    {"DELETE", API "tokens/{id}", ROLE_ADMIN, "", BODY_NONE, JSON, tokens_revoke},
    {"POST", API "enrolment-tokens", ROLE_ADMIN, "", BODY_OPTIONAL, JSON, tokens_enrol},
    {"GET", API "debug/threads", ROLE_VIEWER, "", BODY_NONE, JSON, operation_threads},
    {"GET", API "debug/polls", ROLE_VIEWER, "", BODY_NONE, JSON, operation_polls},
    {"GET", API "status", ROLE_VIEWER, "", BODY_NONE, JSON, operation_status},
    {"GET", API "live", ROLE_VIEWER, "", BODY_NONE, "text/event-stream", live_stream},
    {"GET", API "openapi.yaml", ROLE_VIEWER, "", BODY_NONE, "application/yaml", static_openapi},
    {"GET", "/metrics", ROLE_VIEWER, "", BODY_NONE, NULL, metrics_get},
    {"GET", "/healthz", ROLE_NONE, "", BODY_NONE, NULL, operation_health},
    {"GET", "/readyz", ROLE_NONE, "", BODY_NONE, NULL, operation_ready},
    {"GET", "/", ROLE_NONE, "", BODY_NONE, NULL, static_page},
    {"GET", "/assets/{file}", ROLE_NONE, "", BODY_NONE, NULL, static_asset},
};
const size_t routes_count = sizeof(routes) / sizeof(routes[0]);

/* Whether the segments of @u fit @path; names of {..} into @ret_names. */
static bool path_fits(const char *path, const struct uri *u, const char *ret_names[2])
{
    size_t names = 0, i = 0;
    weir_assert(path[0] == '/');
    for (const char *p = path + 1;; i++) {
        size_t n = strcspn(p, "/");
        if (i == u->segment_count)
            return false;
        const char *segment = u->segment[i];
        if (p[0] == '{') {
            if (segment[0] == '\0')
                return false;
            weir_assert(names < 2);
            ret_names[names++] = segment;
        } else if (strlen(segment) != n || memcmp(segment, p, n) != 0) {
            return false;
        }
        if (p[n] == '\0')
            return i + 1 == u->segment_count;
        p += n + 1;
    }
}

const struct route *routes_find(const char *method, const struct uri *u, const char *ret_names[2],
                                char *ret_allow, size_t size)
{
    const char *wanted = strcmp(method, "HEAD") == 0 ? "GET" : method;
    size_t length = 0;
    weir_assert(size > 0);
    ret_allow[0] = '\0';
    for (size_t i = 0; i < routes_count; i++) {
        const struct route *route = &routes[i];
        if (!path_fits(route->path, u, ret_names))
            continue;
        if (strcmp(route->method, wanted) == 0)
            return route;
        bool get = strcmp(route->method, "GET") == 0;
        int n = snprintf(ret_allow + length, size - length, "%s%s%s", length ? ", " : "",
                         route->method, get ? ", HEAD" : "");
        weir_assert(n > 0 && (size_t)n < size - length);
        length += (size_t)n;
    }
    return NULL;
}

void app_print_routes(FILE *out)
{
    for (size_t i = 0; i < routes_count; i++)
        fprintf(out, "%s %s %s\n", routes[i].method, routes[i].path, role_name(routes[i].role));
}
