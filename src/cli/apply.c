/* SPDX-License-Identifier: Apache-2.0 */
/* apply, diff, delete: documents.
 *
 * Nothing is changed before all of it has been checked: every document is read, then every one is
 * put with dryRun=true, and only when none is refused are they put for good, in the order they
 * stand. The server remains the judge of a document; here it is only carried. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/err.h"
#include "cli/get.h"
#include "cli/http.h"
#include "cli/yaml.h"

#define WAIT_STEP_NS (200 * NS_PER_MS)

struct document {
    const struct kind *kind;
    const char *name; /* inside body */
    const char *file;
    int line;
    json_t *body;
    bool changes; /* what the dry run said */
};

struct documents {
    struct document *all;
    size_t count, cap;
};

static void documents_free(struct documents *d)
{
    for (size_t i = 0; i < d->count; i++)
        json_decref(d->all[i].body);
    free(d->all);
}

static enum cli_exit add_document(struct documents *d, const char *file,
                                  const struct yaml_document *y)
{
    json_t *body = kind_people_form(y->value);
    const char *kind = json_string_value(json_object_get(body, "kind"));
    const char *name = json_string_value(json_object_get(body, "name"));
    const struct kind *k = kind ? kind_of_document(kind) : NULL;
    enum cli_exit r = CLI_OK;
    if (!json_is_object(body))
        r = cli_fail(CLI_USAGE, "%s:%d: expected a mapping with kind, name and fields", file,
                     y->line);
    else if (!k)
        r = cli_fail(CLI_USAGE, "%s:%d: kind: found \"%s\", expected Agreement, Tenant or Policy",
                     file, y->line, kind ? kind : "nothing");
    else if (!name || *name == '\0')
        r = cli_fail(CLI_USAGE, "%s:%d: name: expected the name of this %s", file, y->line,
                     k->singular);
    if (r == CLI_OK && d->count == d->cap) {
        size_t cap = d->cap ? 2 * d->cap : 16;
        struct document *more = reallocarray(d->all, cap, sizeof(*more));
        if (more) {
            d->all = more;
            d->cap = cap;
        } else {
            r = cli_fail(CLI_DIFFERENT, "out of memory");
        }
    }
    if (r != CLI_OK) {
        json_decref(body);
        return r;
    }
    d->all[d->count++] =
        (struct document){.kind = k, .name = name, .file = file, .line = y->line, .body = body};
    return CLI_OK;
}

/* Read all of standard input. */
static int read_stdin(char **ret, size_t *ret_len)
{
    struct text t;
    text_init(&t, YAML_BYTES_MAX + 1);
    char chunk[16384];
    size_t n;
    while ((n = fread(chunk, 1, sizeof(chunk), stdin)) > 0)
        text_append(&t, chunk, n);
    text_append(&t, "", 0);
    if (t.failed || ferror(stdin)) {
        int r = t.failed ? WEIR_E_TOO_LARGE : -EIO;
        text_fini(&t);
        return r;
    }
    *ret_len = t.len;
    *ret = strndup(t.data, t.len);
    text_fini(&t);
    return *ret ? 0 : -ENOMEM;
}

static enum cli_exit read_file(struct documents *d, const char *file)
{
    char *data;
    size_t n, count = 0;
    bool input = strcmp(file, "-") == 0;
    const char *name = input ? "standard input" : file;
    int r = input ? read_stdin(&data, &n) : text_read_file(file, YAML_BYTES_MAX, &data, &n);
    if (r < 0)
        return cli_fail(CLI_USAGE, "%s: %s%s", name, weir_strerror(r),
                        r == WEIR_E_TOO_LARGE ? " of 4 MiB" : "");
    struct text error;
    text_init(&error, 65536);
    struct yaml_document *all = NULL;
    enum cli_exit result = CLI_OK;
    if (yaml_parse(name, data, n, &all, &count, &error) < 0) {
        error.data[strcspn(error.data, "\n")] = '\0';
        result = cli_fail(CLI_USAGE, "%s", error.data);
    }
    for (size_t i = 0; i < count; i++) {
        /* A list, as `weir get -o json` gives, is its items. */
        if (json_is_array(all[i].value)) {
            size_t k;
            json_t *item;
            json_array_foreach(all[i].value, k, item)
            {
                struct yaml_document one = {.value = item, .line = all[i].line};
                enum cli_exit e = add_document(d, name, &one);
                result = result == CLI_OK ? e : result;
            }
            continue;
        }
        enum cli_exit e = add_document(d, name, &all[i]);
        result = result == CLI_OK ? e : result;
    }
    yaml_free(all, count);
    text_fini(&error);
    free(data);
    return result;
}

static enum cli_exit read_files(struct cli *c, struct documents *d)
{
    enum cli_exit result = CLI_OK;
    if (c->o.file_count == 0)
        return cli_fail(CLI_USAGE, "no documents; name them with -f FILE (- is standard input)");
    for (size_t i = 0; i < c->o.file_count; i++) {
        enum cli_exit r = read_file(d, c->o.files[i]);
        result = result == CLI_OK ? r : result;
    }
    for (size_t i = 1; i < d->count && result == CLI_OK; i++) {
        for (size_t k = 0; k < i; k++) {
            if (d->all[i].kind == d->all[k].kind && strcmp(d->all[i].name, d->all[k].name) == 0)
                result = cli_fail(CLI_USAGE, "%s:%d: %s/%s stands on line %d already",
                                  d->all[i].file, d->all[i].line, d->all[i].kind->singular,
                                  d->all[i].name, d->all[k].line);
        }
    }
    if (result == CLI_OK && d->count == 0)
        return cli_fail(CLI_USAGE, "there is no document in %s", c->o.files[0]);
    return result;
}

static enum cli_exit document_path(const struct document *d, struct text *path)
{
    if (kind_path(d->kind, d->name, path) < 0 || path->failed)
        return cli_fail(CLI_USAGE, "%s:%d: \"%s\" is no name for a document", d->file, d->line,
                        d->name);
    return CLI_OK;
}

static enum cli_exit put_document(struct cli *c, const struct document *d, bool dry_run,
                                  json_t **ret)
{
    struct text path;
    struct http_answer a = {0};
    text_init(&path, 8192);
    enum cli_exit r = document_path(d, &path);
    if (r == CLI_OK) {
        text_append_str(&path, dry_run ? "?dryRun=true" : "");
        if (c->o.force && strcmp(d->kind->singular, "agreement") == 0)
            text_append_str(&path, dry_run ? "&force=true" : "?force=true");
        r = http_call(c, "PUT", path.data, d->body, &a);
        if (r == CLI_REFUSED || r == CLI_NOT_FOUND)
            cli_fail(r, "%s:%d: %s/%s was refused", d->file, d->line, d->kind->singular, d->name);
    }
    text_fini(&path);
    if (r == CLI_OK)
        *ret = a.json;
    return r;
}

/* "would-update" -> "configured", as people know it. */
static const char *result_word(const json_t *answer)
{
    static const struct {
        const char *result, *word;
    } words[] = {
        {"created", "created"},      {"would-create", "created"},    {"updated", "configured"},
        {"would-update", "configured"}, {"unchanged", "unchanged"},
    };
    const char *result = json_string_value(json_object_get(answer, "result"));
    for (size_t i = 0; result && i < sizeof(words) / sizeof(words[0]); i++) {
        if (strcmp(words[i].result, result) == 0)
            return words[i].word;
    }
    return "applied";
}

static void tell_result(const struct document *d, const json_t *answer, const char *suffix)
{
    struct text out;
    text_init(&out, 4096);
    text_printf(&out, "%s/", d->kind->singular);
    text_append_escaped(&out, d->name);
    text_printf(&out, " %s%s\n", result_word(answer), suffix);
    cli_put(&out);
    text_fini(&out);
}

static enum cli_exit check_all(struct cli *c, struct documents *d)
{
    enum cli_exit result = CLI_OK;
    for (size_t i = 0; i < d->count; i++) {
        json_t *answer = NULL;
        enum cli_exit r = put_document(c, &d->all[i], true, &answer);
        if (r == CLI_OK && c->o.dry_run)
            tell_result(&d->all[i], answer, " (dry run)");
        json_decref(answer);
        result = result == CLI_OK ? r : result;
        /* All wrong documents are told, but not the same dead server for each. */
        if (r == CLI_UNREACHABLE || r == CLI_UNAUTHORISED)
            break;
    }
    return result;
}

/* Whether every admitted gateway has applied what the server wants of it. */
static enum cli_exit is_settled(struct cli *c, bool *ret)
{
    json_t *items, *g;
    size_t i;
    enum cli_exit r = http_list(c, "/api/v1/gateways", "", 0, &items);
    if (r != CLI_OK)
        return r;
    *ret = true;
    json_array_foreach(items, i, g)
    {
        const char *state = json_string_value(json_object_get(g, "state"));
        json_int_t desired = json_integer_value(table_value(g, "epoch.desired"));
        json_int_t applied = json_integer_value(table_value(g, "epoch.applied"));
        if (state && strcmp(state, "admitted") == 0 && applied < desired)
            *ret = false;
    }
    json_decref(items);
    return CLI_OK;
}

/* After a change the SLA services plan within a period; two settled looks a period apart are
 * enough. */
static enum cli_exit wait_settled(struct cli *c)
{
    uint64_t end = clock_mono_ns() + (c->o.timeout_ns ? c->o.timeout_ns : 30 * NS_PER_S);
    uint64_t settled_since = 0;
    for (;;) {
        bool settled;
        enum cli_exit r = is_settled(c, &settled);
        if (r != CLI_OK)
            return r;
        uint64_t now = clock_mono_ns();
        if (!settled)
            settled_since = 0;
        else if (settled_since == 0)
            settled_since = now;
        else if (now - settled_since >= NS_PER_S + WAIT_STEP_NS)
            return CLI_OK;
        if (now >= end)
            return cli_fail(CLI_DIFFERENT, "stored, but not every gateway has applied it yet; "
                                           "`weir get gateways -o wide` shows which");
        nanosleep(&(struct timespec){.tv_nsec = WAIT_STEP_NS}, NULL);
    }
}

enum cli_exit cli_apply(struct cli *c)
{
    struct documents d = {0};
    enum cli_exit r = read_files(c, &d);
    if (r == CLI_OK)
        r = check_all(c, &d);
    if (r != CLI_OK && d.count > 0)
        cli_fail(r, "nothing was changed");
    for (size_t i = 0; i < d.count && r == CLI_OK && !c->o.dry_run; i++) {
        json_t *answer = NULL;
        r = put_document(c, &d.all[i], false, &answer);
        if (r == CLI_OK)
            tell_result(&d.all[i], answer, "");
        else if (i > 0)
            cli_fail(r, "the %zu documents above were applied", i);
        json_decref(answer);
    }
    if (r == CLI_OK && c->o.wait && !c->o.dry_run)
        r = wait_settled(c);
    documents_free(&d);
    return r;
}

static void diff_line(struct text *out, const struct cli *c, char sign, const char *path,
                      const json_t *value)
{
    char *s = value ? json_dumps(value, JSON_ENCODE_ANY | JSON_ENSURE_ASCII | JSON_COMPACT |
                                            JSON_REAL_PRECISION(15))
                    : NULL;
    text_append_str(out, c->color ? (sign == '-' ? "\033[31m" : "\033[32m") : "");
    text_printf(out, "%c %s: ", sign, path);
    text_append_str(out, s ? s : "null");
    text_append_str(out, c->color ? "\033[0m\n" : "\n");
    free(s);
}

/* Walk both; one line for each leaf that differs. Depth is bounded by the API's shapes. */
static void diff_values(struct text *out, const struct cli *c, const char *path, const json_t *old,
                        const json_t *new)
{
    if (old && new && json_equal(old, new))
        return;
    if (!json_is_object(old) && !json_is_object(new)) {
        if (old && !json_is_null(old))
            diff_line(out, c, '-', path, old);
        if (new && !json_is_null(new))
            diff_line(out, c, '+', path, new);
        return;
    }
    json_t *keys = json_object();
    if (json_is_object(old))
        json_object_update(keys, (json_t *)(uintptr_t)old);
    if (json_is_object(new))
        json_object_update(keys, (json_t *)(uintptr_t)new);
    const char *key;
    json_t *unused;
    json_object_foreach(keys, key, unused)
    {
        struct text below;
        text_init(&below, 4096);
        text_printf(&below, "%s%s", path, *path ? "." : "");
        text_append_escaped(&below, key);
        diff_values(out, c, below.data, json_object_get(old, key), json_object_get(new, key));
        text_fini(&below);
    }
    json_decref(keys);
}

/* The document as it is against what the server would make of the file. */
static enum cli_exit diff_document(struct cli *c, const struct document *d, bool *ret_differs)
{
    json_t *would = NULL;
    struct http_answer is = {0};
    struct text path, out;
    text_init(&path, 8192);
    text_init(&out, YAML_BYTES_MAX);
    enum cli_exit r = put_document(c, d, true, &would);
    if (r == CLI_OK)
        r = document_path(d, &path);
    if (r == CLI_OK)
        r = http_find(c, path.data, &is);
    if (r == CLI_OK || r == CLI_NOT_FOUND) {
        diff_values(&out, c, "", json_object_get(is.json, "spec"), json_object_get(would, "spec"));
        if (r == CLI_NOT_FOUND || out.len > 0) {
            *ret_differs = true;
            printf("--- %s/%s%s\n+++ %s:%d\n", d->kind->singular, d->name,
                   r == CLI_NOT_FOUND ? " (does not exist)" : "", d->file, d->line);
            cli_put(&out);
        }
        r = CLI_OK;
    }
    json_decref(is.json);
    json_decref(would);
    text_fini(&path);
    text_fini(&out);
    return r;
}

enum cli_exit cli_diff(struct cli *c)
{
    struct documents d = {0};
    bool differs = false;
    enum cli_exit r = read_files(c, &d);
    for (size_t i = 0; i < d.count && r == CLI_OK; i++)
        r = diff_document(c, &d.all[i], &differs);
    documents_free(&d);
    return r == CLI_OK && differs ? CLI_DIFFERENT : r;
}

static enum cli_exit delete_one(struct cli *c, const struct kind *k, const char *name)
{
    struct text path, out;
    struct http_answer a = {0};
    text_init(&path, 8192);
    enum cli_exit r;
    if (kind_path(k, name, &path) < 0 || path.failed)
        r = cli_fail(CLI_USAGE, "\"%s\" is no name of a %s", name, k->singular);
    else if (c->o.dry_run)
        r = http_find(c, path.data, &a);
    else
        r = http_call(c, "DELETE", path.data, NULL, &a);
    if (r == CLI_OK) {
        text_init(&out, 4096);
        text_printf(&out, "%s/", k->singular);
        text_append_escaped(&out, name);
        text_printf(&out, " %s%s\n", k->document ? "deleted" : "retired",
                    c->o.dry_run ? " (dry run)" : "");
        cli_put(&out);
        text_fini(&out);
    } else if (r == CLI_NOT_FOUND && c->o.dry_run) {
        cli_fail(r, "there is no %s \"%s\"", k->singular, name);
    }
    json_decref(a.json);
    text_fini(&path);
    return r;
}

enum cli_exit cli_delete(struct cli *c)
{
    enum cli_exit result = CLI_OK;
    if (c->o.file_count > 0) {
        if (c->arg_count > 0)
            return cli_fail(CLI_USAGE, "either KIND NAME or -f FILE, not both");
        struct documents d = {0};
        result = read_files(c, &d);
        for (size_t i = d.count; result == CLI_OK && i-- > 0;)
            result = delete_one(c, d.all[i].kind, d.all[i].name);
        documents_free(&d);
        return result;
    }
    const struct kind *k;
    if (c->arg_count < 2)
        return cli_fail(CLI_USAGE, "expected weir delete KIND NAME, or weir delete -f FILE");
    enum cli_exit r = get_kind(c->args[0], &k);
    if (r != CLI_OK)
        return r;
    if (!kind_is_deleted(k)) {
        struct text taken;
        text_init(&taken, 1024);
        kind_list(KIND_DELETED, ", ", &taken);
        r = cli_fail(CLI_USAGE, "%s are not deleted; these are: %s", k->plural, taken.data);
        text_fini(&taken);
        return r;
    }
    for (size_t i = 1; i < c->arg_count; i++) {
        r = delete_one(c, k, c->args[i]);
        result = result == CLI_OK ? r : result;
    }
    return result;
}
