/* SPDX-License-Identifier: Apache-2.0 */
/* get, events, actions: lists and single objects. */
#include <stdio.h>
#include <string.h>

#include "base/err.h"
#include "cli/get.h"
#include "cli/http.h"
#include "cli/output.h"

#define HISTORY_ROWS 50u

enum cli_exit get_kind(const char *name, const struct kind **ret)
{
    *ret = kind_find(name);
    if (*ret)
        return CLI_OK;
    struct text known;
    text_init(&known, 1024);
    kind_list(KIND_ALL, ", ", &known);
    cli_fail(CLI_USAGE, "there is no kind \"%s\"; known are %s", name, known.data);
    text_fini(&known);
    return CLI_USAGE;
}

/* The one object called @name, as a fresh reference. */
enum cli_exit get_one(struct cli *c, const struct kind *k, const char *name, json_t **ret)
{
    struct text path;
    struct http_answer a = {0};
    text_init(&path, 8192);
    enum cli_exit r;
    if (kind_path(k, name, &path) < 0 || path.failed)
        r = cli_fail(CLI_USAGE, "\"%s\" names no %s%s", name, k->singular,
                     strcmp(k->singular, "stream") == 0 ? "; expected HOST/VOLUME" : "");
    else
        r = http_find(c, path.data, &a);
    if (r == CLI_NOT_FOUND)
        cli_fail(r, "there is no %s \"%s\"; `weir get %s` lists them", k->singular, name,
                 k->plural);
    text_fini(&path);
    if (r == CLI_OK)
        *ret = a.json;
    return r;
}

/* Kinds without a path for one: look for it in the list. */
static enum cli_exit find_in_list(struct cli *c, const struct kind *k, const char *name,
                                  json_t **ret)
{
    json_t *items, *item;
    enum cli_exit r = http_list(c, k->path, "", k->history ? 1000 : 0, &items);
    if (r != CLI_OK)
        return r;
    size_t i;
    *ret = NULL;
    json_array_foreach(items, i, item)
    {
        const char *id = json_string_value(json_object_get(item, k->id));
        if (id && strcmp(id, name) == 0)
            *ret = json_incref(item);
    }
    json_decref(items);
    if (*ret)
        return CLI_OK;
    return cli_fail(CLI_NOT_FOUND, "there is no %s \"%s\"; `weir get %s` lists them", k->singular,
                    name, k->plural);
}

enum cli_exit get_named(struct cli *c, const struct kind *k, json_t **ret)
{
    json_t *items = json_array();
    enum cli_exit r = CLI_OK;
    for (size_t i = 1; i < c->arg_count && r == CLI_OK; i++) {
        json_t *one = NULL;
        r = k->single ? get_one(c, k, c->args[i], &one) : find_in_list(c, k, c->args[i], &one);
        if (r == CLI_OK)
            json_array_append_new(items, one);
    }
    if (r == CLI_OK)
        *ret = items;
    else
        json_decref(items);
    return r;
}

void get_filters(const struct cli *c, struct text *query)
{
    const struct {
        const char *key, *value;
    } filters[] = {
        {"host", c->o.host},       {"volume", c->o.volume},   {"tenant", c->o.tenant},
        {"target", c->o.target},   {"gateway", c->o.gateway}, {"agreement", c->o.agreement},
        {"verdict", c->o.verdict},
    };
    for (size_t i = 0; i < sizeof(filters) / sizeof(filters[0]); i++) {
        if (!filters[i].value)
            continue;
        text_printf(query, "%s%s=", query->len ? "&" : "", filters[i].key);
        http_encode(query, filters[i].value);
    }
}

static enum cli_exit get_list(struct cli *c, const struct kind *k, json_t **ret)
{
    struct text query;
    text_init(&query, 8192);
    get_filters(c, &query);
    enum cli_exit r;
    if (query.len > 0 && strcmp(k->singular, "stream") != 0)
        r = cli_fail(CLI_USAGE, "only streams are filtered by --host, --volume, --tenant, "
                                "--target, --gateway, --agreement and --verdict");
    else
        r = http_list(c, k->path, query.data,
                      c->o.limit ? (size_t)c->o.limit : k->history ? HISTORY_ROWS : 0, ret);
    text_fini(&query);
    return r;
}

enum cli_exit cli_get(struct cli *c)
{
    const struct kind *k;
    json_t *items;
    enum cli_exit r = get_kind(c->args[0], &k);
    if (r != CLI_OK)
        return r;
    r = c->arg_count > 1 ? get_named(c, k, &items) : get_list(c, k, &items);
    if (r != CLI_OK)
        return r;
    bool table = c->o.output == OUTPUT_TABLE || c->o.output == OUTPUT_WIDE;
    if (json_array_size(items) == 0 && table)
        cli_fail(CLI_OK, "no %s", k->plural);
    else
        r = output_items(c, k, items, c->arg_count == 2);
    json_decref(items);
    return r;
}

/* Rows of a history, the oldest first as in a log; then, with --follow, what comes. */
static enum cli_exit show_history(struct cli *c, const char *plural)
{
    const struct kind *k = kind_find(plural);
    json_t *items, *turned = json_array();
    enum cli_exit r = http_list(c, k->path, "", c->o.limit ? (size_t)c->o.limit : HISTORY_ROWS,
                                &items);
    if (r == CLI_OK) {
        for (size_t i = json_array_size(items); i-- > 0;)
            json_array_append(turned, json_array_get(items, i));
        json_decref(items);
        if (json_array_size(turned) > 0 || (c->o.output != OUTPUT_TABLE && !c->o.follow))
            r = output_items(c, k, turned, false);
        else if (!c->o.follow)
            cli_fail(CLI_OK, "no %s yet", plural);
    }
    json_decref(turned);
    if (r == CLI_OK && c->o.follow) {
        fflush(stdout);
        c->o.no_headers = true;
        r = watch_kind(c, k);
    }
    return r;
}

enum cli_exit cli_events(struct cli *c)
{
    return show_history(c, "events");
}

enum cli_exit cli_actions(struct cli *c)
{
    return show_history(c, "actions");
}
