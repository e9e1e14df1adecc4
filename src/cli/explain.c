/* SPDX-License-Identifier: Apache-2.0 */
/* explain: what holds for a stream now and why, what was done last, and what was stopped. */
#include <stdio.h>
#include <string.h>

#include "cli/get.h"
#include "cli/http.h"
#include "cli/output.h"

#define EXPLANATION_MAX (1024u * 1024u)
#define SHOWN 5u
#define SEARCHED 500u

static bool is_about(const json_t *action, const char *key)
{
    const char *bully = json_string_value(json_object_get(action, "bully"));
    const char *victim = json_string_value(json_object_get(action, "victim"));
    return (bully && strcmp(bully, key) == 0) || (victim && strcmp(victim, key) == 0);
}

/* The last of those that were sent, or of those that were not. */
static void put_actions(struct text *out, const json_t *actions, const char *key, bool enforced)
{
    size_t i, shown = 0;
    json_t *a;
    json_array_foreach(actions, i, a)
    {
        if (shown == SHOWN || json_is_true(json_object_get(a, "enforced")) != enforced ||
            !is_about(a, key))
            continue;
        shown++;
        text_append_str(out, "  ");
        table_format_value(json_object_get(a, "at"), TABLE_TEXT, 0, out);
        text_append_str(out, "  ");
        table_format_value(json_object_get(a, "reason"), TABLE_TEXT, 0, out);
        text_append_str(out, "\n");
    }
    if (shown == 0)
        text_append_str(out, "  none\n");
}

static void explain_one(struct text *out, const json_t *stream, const json_t *actions)
{
    const char *key = json_string_value(json_object_get(stream, "key"));
    size_t i;
    json_t *line;
    table_format_value(json_object_get(stream, "key"), TABLE_TEXT, 0, out);
    text_append_str(out, " at gateway ");
    table_format_value(json_object_get(stream, "gateway"), TABLE_TEXT, 0, out);
    text_append_str(out, "\n");
    json_array_foreach(json_object_get(stream, "explanation"), i, line)
    {
        text_append_str(out, "  ");
        table_format_value(line, TABLE_TEXT, 0, out);
        text_append_str(out, "\n");
    }
    text_append_str(out, "Last actions\n");
    put_actions(out, actions, key ? key : "", true);
    text_append_str(out, "Wanted, and not sent\n");
    put_actions(out, actions, key ? key : "", false);
}

enum cli_exit cli_explain(struct cli *c)
{
    const struct kind *k;
    json_t *items = NULL, *actions = NULL, *o;
    size_t i;
    enum cli_exit r = get_kind(c->args[0], &k);
    if (r == CLI_OK && strcmp(k->singular, "stream") != 0)
        r = cli_fail(CLI_USAGE, "explain %s: expected stream", c->args[0]);
    if (r == CLI_OK)
        r = get_named(c, k, &items);
    if (r == CLI_OK)
        r = http_list(c, "/api/v1/actions", "", SEARCHED, &actions);
    struct text out;
    text_init(&out, EXPLANATION_MAX);
    if (r == CLI_OK) {
        json_array_foreach(items, i, o)
        {
            if (i > 0)
                text_append_str(&out, "\n");
            explain_one(&out, o, actions);
        }
        cli_put(&out);
    }
    text_fini(&out);
    json_decref(items);
    json_decref(actions);
    return r;
}
