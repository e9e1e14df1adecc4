/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/output.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "cli/yaml.h"

#define OUTPUT_MAX (256u * 1024u * 1024u)

enum table_style output_style(const struct cli *c)
{
    if (c->o.output == OUTPUT_CSV)
        return TABLE_STYLE_CSV;
    return c->o.output == OUTPUT_WIDE ? TABLE_STYLE_WIDE : TABLE_STYLE_NARROW;
}

enum cli_exit output_json(const json_t *value, bool one_line)
{
    /* ENSURE_ASCII: nothing of it steers a terminal. */
    size_t flags = JSON_ENSURE_ASCII | JSON_ENCODE_ANY | JSON_REAL_PRECISION(15);
    char *s = json_dumps(value, flags | (one_line ? JSON_COMPACT : JSON_INDENT(2)));
    if (!s)
        return cli_fail(CLI_DIFFERENT, "out of memory");
    fputs(s, stdout);
    fputs("\n", stdout);
    free(s);
    return CLI_OK;
}

static enum cli_exit finish(struct text *out)
{
    enum cli_exit r = CLI_OK;
    if (out->failed)
        r = cli_fail(CLI_DIFFERENT, "the output is too large");
    else
        cli_put(out);
    text_fini(out);
    return r;
}

static enum cli_exit print_table(struct cli *c, const struct table_column *columns, size_t count,
                                 const json_t *items)
{
    struct table *t = table_new(columns, count, output_style(c), clock_wall_us());
    struct text out;
    size_t i;
    json_t *item;
    if (!t)
        return cli_fail(CLI_DIFFERENT, "out of memory");
    json_array_foreach(items, i, item) table_add(t, item);
    text_init(&out, OUTPUT_MAX);
    table_print(t, !c->o.no_headers, c->color, &out);
    table_free(t);
    return finish(&out);
}

/* Documents as people write them; everything else as it is. */
static enum cli_exit print_yaml(const struct kind *k, const json_t *items, bool one)
{
    struct text out;
    text_init(&out, OUTPUT_MAX);
    size_t i;
    json_t *item;
    if (one || (k && k->document)) {
        json_array_foreach(items, i, item)
        {
            text_append_str(&out, i ? "---\n" : "");
            json_t *shown = k && k->document ? kind_people_form(item) : json_incref(item);
            yaml_print(shown, &out);
            json_decref(shown);
        }
    } else {
        yaml_print(items, &out);
    }
    return finish(&out);
}

static enum cli_exit print_names(const char *prefix, const char *id, const json_t *items)
{
    struct text out;
    text_init(&out, OUTPUT_MAX);
    size_t i;
    json_t *item;
    json_array_foreach(items, i, item)
    {
        const char *name = json_string_value(json_object_get(item, id));
        text_printf(&out, "%s%s", prefix ? prefix : "", prefix ? "/" : "");
        text_append_escaped(&out, name ? name : "?");
        text_append_str(&out, "\n");
    }
    return finish(&out);
}

static enum cli_exit output_any(struct cli *c, const struct kind *k,
                                const struct table_column *columns, size_t count, const char *id,
                                const json_t *items, bool one)
{
    switch (c->o.output) {
    case OUTPUT_TABLE:
    case OUTPUT_WIDE:
    case OUTPUT_CSV:
        return print_table(c, columns, count, items);
    case OUTPUT_JSON:
        return output_json(one ? json_array_get(items, 0) : items, false);
    case OUTPUT_YAML:
        return print_yaml(k, items, one);
    case OUTPUT_NAME:
        return print_names(k ? k->singular : NULL, id, items);
    }
    return CLI_USAGE;
}

enum cli_exit output_items(struct cli *c, const struct kind *k, const json_t *items, bool one)
{
    return output_any(c, k, k->columns, k->column_count, k->id, items, one);
}

enum cli_exit output_rows(struct cli *c, const struct table_column *columns, size_t count,
                          const char *id, const json_t *items)
{
    return output_any(c, NULL, columns, count, id, items, false);
}
