/* SPDX-License-Identifier: Apache-2.0 */
/* The one table of what the server serves: method, path, role, parameters, body and handler. */
#ifndef WEIR_SERVER_APP_ROUTES_H
#define WEIR_SERVER_APP_ROUTES_H
#include <stddef.h>

#include "server/app/access.h"
#include "server/app/uri.h"

struct request;

enum route_body { BODY_NONE, BODY_OPTIONAL, BODY_JSON };

struct route {
    const char *method;
    const char *path;  /* segments; "{x}" takes any one that is not empty */
    enum role role;    /* least */
    const char *query; /* known parameters, with commas */
    enum route_body body;
    const char *produces; /* media type; NULL: several, not negotiated */
    void (*handler)(struct request *r);
};

extern const struct route routes[];
extern const size_t routes_count;

/* The route of @method and @u, its {..} in @ret_names; NULL when there is none. Then @ret_allow (""
 * : no such path) lists the methods that the path has. HEAD is GET. */
const struct route *routes_find(const char *method, const struct uri *u, const char *ret_names[2],
                                char *ret_allow, size_t size);

/* The handlers. */
void documents_list(struct request *r);
void documents_get(struct request *r);
void documents_put(struct request *r);
void documents_delete(struct request *r);
void views_streams(struct request *r);
void views_stream(struct request *r);
void views_gateways(struct request *r);
void views_gateway(struct request *r);
void views_dials(struct request *r);
void views_targets(struct request *r);
void views_target(struct request *r);
void views_hosts(struct request *r);
void views_volumes(struct request *r);
void gateways_retire(struct request *r);
void gateways_admit(struct request *r);
void gateways_drain(struct request *r);
void gateways_undrain(struct request *r);
void gateways_rotate(struct request *r);
void gateways_unrotate(struct request *r);
void history_stream(struct request *r);
void history_target(struct request *r);
void history_actions(struct request *r);
void history_events(struct request *r);
void history_audit(struct request *r);
void operation_enforcement_get(struct request *r);
void operation_enforcement_put(struct request *r);
void operation_threads(struct request *r);
void operation_polls(struct request *r);
void operation_status(struct request *r);
void operation_health(struct request *r);
void operation_ready(struct request *r);
void tokens_list(struct request *r);
void tokens_get(struct request *r);
void tokens_make(struct request *r);
void tokens_revoke(struct request *r);
void tokens_enrol(struct request *r);
void live_stream(struct request *r);
void metrics_get(struct request *r);
void static_page(struct request *r);
void static_asset(struct request *r);
void static_openapi(struct request *r);

#endif
