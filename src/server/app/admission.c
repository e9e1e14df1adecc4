/* SPDX-License-Identifier: Apache-2.0 */
/* Admission over HTTP.
 *
 * Each SLA process knows its own storages, and no storage is known to two; so each is asked, and
 * what one of them refuses is refused. A process that does not answer refuses nothing: a promise is
 * not held up by a part that is stuck, and the planner scales what does not fit (plan.c). */
#include "server/app/admission.h"

#include <stdlib.h>
#include <string.h>

#include "base/text.h"
#include "server/app/app_state.h"
#include "server/app/http.h"
#include "server/app/views.h"
#include "server/msg.h"
#include "server/services/admission.h"
#include "server/sla.h"

#define LINES_MAX 65536u

void admission_ask(struct request *r, const struct agreement *a, bool quiet, const char *forced_by,
                   void (*next)(struct request *r))
{
    exchange_clear(&r->exchange);
    for (size_t i = 0; i < r->app->threads->services_count; i++) {
        struct admission_request *ask = calloc(1, sizeof(*ask));
        if (ask != NULL) {
            ask->agreement = *a;
            ask->quiet = quiet;
            (void)text_copy(ask->forced_by, sizeof(ask->forced_by),
                            forced_by != NULL ? forced_by : "");
        }
        struct msg m = {.kind = MSG_ADMISSION, .body = ask, .body_free = free};
        exchange_ask(&r->exchange, r->app->threads->services[i], m, APP_VIEW_NS, r->app->now_ns);
    }
    http_wait(r, next);
}

static double number(const json_t *object, const char *key)
{
    return json_number_value(json_object_get(object, key));
}

/* One line of what it asks, one for each who holds something. */
static void say_target(struct text *out, const char *agreement, const json_t *t)
{
    const char *target = views_text(t, "target");
    double capacity = number(t, "capacity"), held = number(t, "reserved");
    size_t i;
    json_t *h;
    text_printf(out,
                "%s: %.0f IOPS for %s take %.2f of the %.2f I/Os at once that it can do; of these "
                "%.2f may be reserved and %.2f are: %.0f IOPS would fit\n",
                target, number(t, "askedIops"), agreement, number(t, "asked"), capacity,
                ADMISSION_SHARE * capacity, held, number(t, "largestIops"));
    json_array_foreach(json_object_get(t, "holders"), i, h)
        text_printf(out, "%s: agreement %s holds %.2f\n", target, views_text(h, "agreement"),
                    number(h, "holds"));
}

bool admission_granted(struct request *r, const struct agreement *a, bool forced)
{
    size_t refused = 0, k;
    json_t *targets = json_array(), *t;
    struct text lines;
    text_init(&lines, LINES_MAX);
    for (size_t i = 0; i < r->exchange.count; i++) {
        const json_t *answer = r->exchange.answer[i].json;
        if (r->exchange.answer[i].status != 0)
            continue;
        refused += (size_t)views_count(answer, "refused");
        json_array_foreach(json_object_get(answer, "targets"), k, t)
        {
            if (json_is_true(json_object_get(t, "fits")))
                continue;
            json_array_append(targets, t);
            say_target(&lines, a->name, t);
        }
    }
    text_append(&lines, "", 1);
    bool granted = refused == 0 || forced;
    if (!granted)
        http_problem_members(r, MHD_HTTP_CONFLICT,
                             "the reservation does not fit; with force it is put all the same "
                             "(weir apply --force), and reservations are scaled when they collide",
                             lines.data, "admission", targets);
    else
        json_decref(targets);
    text_fini(&lines);
    return granted;
}
