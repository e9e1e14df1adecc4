/* SPDX-License-Identifier: Apache-2.0 */
/* watch: the server's live stream as lines. Streams and agreements come each second, and one line
 * is printed for each; events and actions come as they happen. */
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "cli/get.h"
#include "cli/http.h"
#include "cli/output.h"

struct watcher {
    struct cli *c;
    const struct kind *k;
    const char *event; /* name of the events that matter */
    bool headers_done;
    uint64_t left;     /* updates still wanted; 0: no bound */
};

static bool is_wanted(const struct watcher *w, const json_t *item)
{
    if (w->c->arg_count < 2)
        return true;
    const char *id = json_string_value(json_object_get(item, w->k->id));
    for (size_t i = 1; id && i < w->c->arg_count; i++) {
        if (strcmp(id, w->c->args[i]) == 0)
            return true;
    }
    return false;
}

static void print_update(struct watcher *w, const json_t *wanted)
{
    struct cli *c = w->c;
    size_t i;
    json_t *item;
    if (c->o.output == OUTPUT_JSON) {
        json_array_foreach(wanted, i, item) output_json(item, true);
    } else {
        bool asked = c->o.no_headers;
        c->o.no_headers = asked || w->headers_done;
        output_items(c, w->k, wanted, false);
        c->o.no_headers = asked;
        w->headers_done = true;
    }
    fflush(stdout);
}

static bool take_update(void *arg, const char *event, const json_t *data)
{
    struct watcher *w = arg;
    if (strcmp(event, w->event) != 0)
        return true;
    json_t *wanted = json_array(), *item;
    size_t i;
    if (json_is_array(data)) {
        json_array_foreach(data, i, item)
        {
            if (is_wanted(w, item))
                json_array_append(wanted, item);
        }
    } else if (is_wanted(w, data)) {
        json_array_append(wanted, (json_t *)(uintptr_t)data);
    }
    bool more = true;
    if (json_array_size(wanted) > 0) {
        print_update(w, wanted);
        more = w->left == 0 || --w->left > 0;
    }
    json_decref(wanted);
    /* Whoever read us is gone. */
    return more && !ferror(stdout);
}

enum cli_exit watch_kind(struct cli *c, const struct kind *k)
{
    struct watcher w = {.c = c, .k = k, .event = k->live, .left = c->o.once ? 1 : 0};
    if (!w.event) {
        struct text taken;
        text_init(&taken, 1024);
        kind_list(KIND_LIVE, ", ", &taken);
        enum cli_exit r = cli_fail(CLI_USAGE, "only %s come live; `weir get %s` shows the rest",
                                   taken.data, k->plural);
        text_fini(&taken);
        return r;
    }
    return http_events(c, "/api/v1/live", take_update, &w);
}

enum cli_exit cli_watch(struct cli *c)
{
    const struct kind *k;
    enum cli_exit r = get_kind(c->args[0], &k);
    return r == CLI_OK ? watch_kind(c, k) : r;
}
