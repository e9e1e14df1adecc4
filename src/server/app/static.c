/* SPDX-License-Identifier: Apache-2.0 */
/* The dashboard and the API's document, out of the binary. */
#include <string.h>

#include "server/app/assets.h"
#include "server/app/header.h"
#include "server/app/http.h"
#include "server/app/routes.h"

static const struct asset *find(const char *name)
{
    for (size_t i = 0; i < assets_count; i++) {
        if (strcmp(assets[i].name, name) == 0)
            return &assets[i];
    }
    return NULL;
}

static void answer(struct request *r, const char *name)
{
    const struct asset *a = find(name);
    if (!a) {
        http_problem(r, MHD_HTTP_NOT_FOUND, "there is no such part of the dashboard");
        return;
    }
    const char *known = http_request_header(r, MHD_HTTP_HEADER_IF_NONE_MATCH);
    http_set_header(r, MHD_HTTP_HEADER_ETAG, "%s", a->etag);
    http_set_header(r, MHD_HTTP_HEADER_CACHE_CONTROL, "no-cache");
    if (known && header_tag_matches(known, a->etag, true))
        http_answer_empty(r, MHD_HTTP_NOT_MODIFIED);
    else
        http_answer_static(r, MHD_HTTP_OK, a->type, a->data, a->size);
}

void static_page(struct request *r)
{
    answer(r, "index.html");
}

void static_asset(struct request *r)
{
    if (strcmp(r->name[0], "app.js") == 0 || strcmp(r->name[0], "style.css") == 0 ||
        strcmp(r->name[0], "icon.svg") == 0)
        answer(r, r->name[0]);
    else
        http_problem(r, MHD_HTTP_NOT_FOUND, "there is no such part of the dashboard");
}

void static_openapi(struct request *r)
{
    answer(r, "openapi.yaml");
}
