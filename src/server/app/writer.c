/* SPDX-License-Identifier: Apache-2.0 */
#include "server/app/writer.h"

#include "base/assert.h"
#include "server/app/app_state.h"
#include "server/app/http.h"

void writer_enter(struct request *r, void (*next)(struct request *r))
{
    struct app *app = r->app;
    weir_assert(app->writing != r);
    weir_assert(r->next == NULL);
    if (!app->writing) {
        app->writing = r;
        next(r);
        return;
    }
    r->next = next;
    list_push_back(&app->writers, &r->writer_link);
}

/* Recursion is bounded by the number of connections: each goes on once. */
void writer_leave(struct request *r)
{
    struct app *app = r->app;
    if (list_linked(&r->writer_link))
        list_remove(&r->writer_link);
    if (app->writing != r)
        return;
    app->writing = NULL;
    struct list *l = list_pop_front(&app->writers);
    if (!l)
        return;
    struct request *w = container_of(l, struct request, writer_link);
    void (*next)(struct request *) = w->next;
    weir_assert(next != NULL);
    w->next = NULL;
    app->writing = w;
    next(w);
}
