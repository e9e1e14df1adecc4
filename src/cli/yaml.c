/* SPDX-License-Identifier: Apache-2.0 */
/* YAML 1.2.2 (https://yaml.org/spec/1.2.2/) by events of libfyaml.
 *
 * Events, and not documents, are read so that depth, aliases and repeated keys are refused before
 * anything is built of them: a file of a few lines could otherwise unfold to gigabytes. The tree
 * under construction is a stack of containers of at most YAML_DEPTH_MAX. */
#include "cli/yaml.h"

#include <errno.h>
#include <libfyaml.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/err.h"

struct builder {
    const char *name;
    struct text *error;
    int result;
    struct yaml_document *documents;
    size_t count, cap;
    json_t *stack[YAML_DEPTH_MAX]; /* borrowed: each is owned by the one below, the first by root */
    char *keys[YAML_DEPTH_MAX];    /* pending key of a mapping */
    size_t depth;
    json_t *root;
    int root_line;
};

static void fail(struct builder *b, int code, int line, const char *words)
{
    if (b->result < 0)
        return;
    b->result = code;
    text_append_escaped(b->error, b->name);
    text_printf(b->error, ":%d: %s\n", line, words);
}

static int line_of(const struct fy_token *token)
{
    const struct fy_mark *mark = token ? fy_token_start_mark((struct fy_token *)token) : NULL;
    return mark ? mark->line + 1 : 0;
}

static bool all_digits(const char *s)
{
    return *s != '\0' && s[strspn(s, "0123456789")] == '\0';
}

static bool is_float(const char *s)
{
    if (*s == '-' || *s == '+')
        s++;
    size_t whole = strspn(s, "0123456789");
    s += whole;
    size_t fraction = 0;
    if (*s == '.') {
        fraction = strspn(s + 1, "0123456789");
        s += 1 + fraction;
    }
    if (whole + fraction == 0)
        return false;
    if (*s == 'e' || *s == 'E') {
        s++;
        if (*s == '-' || *s == '+')
            s++;
        return all_digits(s);
    }
    return *s == '\0';
}

/* Core schema. Octal, hexadecimal, infinities and whatever does not fit stay text: the server then
 * says what it expects in that place. */
static json_t *resolve_plain(const char *s)
{
    static const char *const nulls[] = {"", "~", "null", "Null", "NULL"};
    static const char *const trues[] = {"true", "True", "TRUE"};
    static const char *const falses[] = {"false", "False", "FALSE"};
    for (size_t i = 0; i < sizeof(nulls) / sizeof(nulls[0]); i++) {
        if (strcmp(s, nulls[i]) == 0)
            return json_null();
    }
    for (size_t i = 0; i < 3; i++) {
        if (strcmp(s, trues[i]) == 0)
            return json_true();
        if (strcmp(s, falses[i]) == 0)
            return json_false();
    }
    if (all_digits(*s == '-' || *s == '+' ? s + 1 : s)) {
        errno = 0;
        long long v = strtoll(s, NULL, 10);
        return errno == 0 ? json_integer(v) : json_string(s);
    }
    if (is_float(s)) {
        errno = 0;
        double v = strtod(s, NULL);
        return errno == 0 ? json_real(v) : json_string(s);
    }
    return json_string(s);
}

/* Put @value (taken) where it belongs. False: refused or no memory. */
static bool place(struct builder *b, json_t *value, int line)
{
    if (!value) {
        fail(b, WEIR_E_PARSE, line, "text that is not valid UTF-8");
        return false;
    }
    if (b->depth == 0) {
        b->root = value;
        b->root_line = line;
        return true;
    }
    json_t *top = b->stack[b->depth - 1];
    int r;
    if (json_is_array(top)) {
        r = json_array_append_new(top, value);
    } else {
        char **key = &b->keys[b->depth - 1];
        r = json_object_set_new(top, *key, value);
        free(*key);
        *key = NULL;
    }
    if (r < 0)
        fail(b, -ENOMEM, line, "out of memory, or text that is not valid UTF-8");
    return r == 0;
}

/* Whether the next scalar is the key of the mapping on top. */
static bool wants_key(const struct builder *b)
{
    return b->depth > 0 && json_is_object(b->stack[b->depth - 1]) && !b->keys[b->depth - 1];
}

static void open_container(struct builder *b, json_t *value, int line)
{
    if (wants_key(b)) {
        fail(b, WEIR_E_PARSE, line, "a key must be plain text");
        json_decref(value);
    } else if (b->depth == YAML_DEPTH_MAX) {
        fail(b, WEIR_E_TOO_LARGE, line, "nested more than 32 levels deep");
        json_decref(value);
    } else if (place(b, value, line)) {
        b->stack[b->depth] = value;
        b->keys[b->depth] = NULL;
        b->depth++;
    }
}

static void read_scalar(struct builder *b, struct fy_token *value, int line)
{
    size_t n = 0;
    const char *s = fy_token_get_text(value, &n);
    char *copy = s ? strndup(s, n) : strdup("");
    if (!copy) {
        fail(b, -ENOMEM, line, "out of memory");
        return;
    }
    if (strlen(copy) != n) {
        fail(b, WEIR_E_PARSE, line, "text with a NUL character");
        free(copy);
    } else if (wants_key(b)) {
        if (json_object_get(b->stack[b->depth - 1], copy)) {
            fail(b, WEIR_E_PARSE, line, "this key stands in the same mapping already");
            free(copy);
        } else {
            b->keys[b->depth - 1] = copy;
        }
    } else {
        bool plain = !value || fy_token_scalar_style(value) == FYSS_PLAIN;
        place(b, plain ? resolve_plain(copy) : json_string(copy), line);
        free(copy);
    }
}

static void end_document(struct builder *b)
{
    weir_assert(b->depth == 0);
    /* An empty document, as between two "---", says nothing. */
    if (!b->root || json_is_null(b->root)) {
        json_decref(b->root);
        b->root = NULL;
        return;
    }
    if (b->count == YAML_DOCUMENTS_MAX) {
        fail(b, WEIR_E_TOO_LARGE, b->root_line, "more than 10000 documents");
        return;
    }
    if (b->count == b->cap) {
        size_t cap = b->cap ? 2 * b->cap : 8;
        struct yaml_document *more = reallocarray(b->documents, cap, sizeof(*more));
        if (!more) {
            fail(b, -ENOMEM, b->root_line, "out of memory");
            return;
        }
        b->documents = more;
        b->cap = cap;
    }
    b->documents[b->count++] = (struct yaml_document){.value = b->root, .line = b->root_line};
    b->root = NULL;
}

static void refuse_properties(struct builder *b, const struct fy_token *anchor,
                              const struct fy_token *tag)
{
    if (anchor)
        fail(b, WEIR_E_PARSE, line_of(anchor), "anchors and aliases are not allowed");
    else if (tag)
        fail(b, WEIR_E_PARSE, line_of(tag), "tags are not allowed");
}

static void take_event(struct builder *b, const struct fy_event *e)
{
    switch (e->type) {
    case FYET_DOCUMENT_END:
        end_document(b);
        break;
    case FYET_ALIAS:
        fail(b, WEIR_E_PARSE, line_of(e->alias.anchor), "anchors and aliases are not allowed");
        break;
    case FYET_MAPPING_START:
        refuse_properties(b, e->mapping_start.anchor, e->mapping_start.tag);
        if (b->result == 0)
            open_container(b, json_object(), line_of(e->mapping_start.mapping_start));
        break;
    case FYET_SEQUENCE_START:
        refuse_properties(b, e->sequence_start.anchor, e->sequence_start.tag);
        if (b->result == 0)
            open_container(b, json_array(), line_of(e->sequence_start.sequence_start));
        break;
    case FYET_MAPPING_END:
    case FYET_SEQUENCE_END:
        weir_assert(b->depth > 0);
        b->depth--;
        break;
    case FYET_SCALAR:
        refuse_properties(b, e->scalar.anchor, e->scalar.tag);
        if (b->result == 0)
            read_scalar(b, e->scalar.value, line_of(e->scalar.value));
        break;
    case FYET_NONE:
    case FYET_STREAM_START:
    case FYET_STREAM_END:
    case FYET_DOCUMENT_START:
        break;
    }
}

static void report_syntax(struct builder *b, struct fy_diag *diag)
{
    void *iterator = NULL;
    const struct fy_diag_error *e = fy_diag_errors_iterate(diag, &iterator);
    fail(b, WEIR_E_PARSE, e ? e->line : 1, e && e->msg ? e->msg : "not valid YAML");
}

/* The library would print to standard error; errors are only collected. */
static void drop_output(struct fy_diag *diag, void *user, const char *buf, size_t len)
{
    (void)diag;
    (void)user;
    (void)buf;
    (void)len;
}

static struct fy_diag *quiet_diag(void)
{
    struct fy_diag_cfg cfg;
    fy_diag_cfg_default(&cfg);
    cfg.fp = NULL;
    cfg.output_fn = drop_output;
    struct fy_diag *diag = fy_diag_create(&cfg);
    if (diag)
        fy_diag_set_collect_errors(diag, true);
    return diag;
}

/* Bytes of the UTF-8 sequence at @s, of at most @n (RFC 3629, section 4); 0: it is none. */
static size_t utf8_length(const unsigned char *s, size_t n)
{
    size_t length = s[0] < 0x80 ? 1 : s[0] < 0xc2 ? 0 : s[0] < 0xe0 ? 2 : s[0] < 0xf0 ? 3 : 4;
    if (length == 0 || length > n || s[0] > 0xf4)
        return 0;
    for (size_t i = 1; i < length; i++) {
        if ((s[i] & 0xc0) != 0x80)
            return 0;
    }
    bool overlong = (s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xf0 && s[1] < 0x90);
    bool beyond = (s[0] == 0xed && s[1] > 0x9f) || (s[0] == 0xf4 && s[1] > 0x8f);
    return overlong || beyond ? 0 : length;
}

/* The line of the first byte that is not UTF-8, or 0. The parser is not shown such bytes: in a
 * directive (after "%") libfyaml 0.7.12 goes round on them for ever. */
static int line_not_utf8(const char *data, size_t n)
{
    int line = 1;
    for (size_t i = 0, length; i < n; i += length) {
        length = utf8_length((const unsigned char *)data + i, n - i);
        if (length == 0)
            return line;
        line += data[i] == '\n';
    }
    return 0;
}

int yaml_parse(const char *name, const char *data, size_t n, struct yaml_document **ret,
               size_t *ret_count, struct text *error)
{
    struct builder b = {.name = name, .error = error};
    if (n > YAML_BYTES_MAX) {
        fail(&b, WEIR_E_TOO_LARGE, 1, "larger than 4 MiB");
        return b.result;
    }
    int line = line_not_utf8(data, n);
    if (line > 0) {
        fail(&b, WEIR_E_PARSE, line, "not UTF-8");
        return b.result;
    }
    struct fy_diag *diag = quiet_diag();
    const struct fy_parse_cfg cfg = {
        .flags = FYPCF_JSON_NONE | FYPCF_DISABLE_MMAP_OPT | FYPCF_DEFAULT_VERSION_1_2,
        .diag = diag,
    };
    struct fy_parser *parser = diag ? fy_parser_create(&cfg) : NULL;
    if (!parser || fy_parser_set_string(parser, data, n) != 0) {
        if (parser)
            fy_parser_destroy(parser);
        fy_diag_destroy(diag);
        fail(&b, -ENOMEM, 1, "out of memory");
        return b.result;
    }
    struct fy_event *e;
    while (b.result == 0 && (e = fy_parser_parse(parser)) != NULL) {
        take_event(&b, e);
        fy_parser_event_free(parser, e);
    }
    if (b.result == 0 && fy_parser_get_stream_error(parser))
        report_syntax(&b, diag);
    fy_parser_destroy(parser);
    fy_diag_destroy(diag);

    for (size_t i = 0; i < b.depth; i++)
        free(b.keys[i]);
    json_decref(b.root);
    if (b.result < 0) {
        yaml_free(b.documents, b.count);
        return b.result;
    }
    *ret = b.documents;
    *ret_count = b.count;
    return 0;
}

void yaml_free(struct yaml_document *documents, size_t count)
{
    for (size_t i = 0; i < count; i++)
        json_decref(documents[i].value);
    free(documents);
}

/* Whether @s may stand without quotes: a cautious subset of plain scalars that reads back as text.
 * */
static bool is_plain(const char *s)
{
    static const char first[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_./";
    static const char rest[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_./"
                               "-+%@() ";
    size_t n = strlen(s);
    if (n == 0 || !strchr(first, s[0]) || s[strspn(s, rest)] != '\0' || s[n - 1] == ' ')
        return false;
    /* YAML 1.1 readers take these for booleans. */
    static const char *const words[] = {"y", "n", "yes", "no", "on", "off"};
    for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
        if (strcasecmp(s, words[i]) == 0)
            return false;
    }
    /* Nor sexagesimal or hexadecimal numbers, nor dates: whatever begins like a number is quoted.
     * */
    if ((s[0] >= '0' && s[0] <= '9') || s[0] == '.')
        return false;
    json_t *resolved = resolve_plain(s);
    bool text = json_is_string(resolved);
    json_decref(resolved);
    return text;
}

static void print_text(const char *s, struct text *out)
{
    if (is_plain(s)) {
        text_append_str(out, s);
        return;
    }
    /* Double-quoted: YAML takes JSON's escapes, and \x for what text_escape makes. A byte of many
     * would become characters of one byte each, so characters beyond ASCII that steer a terminal go
     * as \u; jansson only gives valid UTF-8. */
    text_append_str(out, "\"");
    for (; *s != '\0'; s++) {
        unsigned char c = (unsigned char)*s;
        char shown[8];
        size_t len = c < 0x80 ? 1 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : 4;
        if (c == '"' || c == '\\') {
            text_printf(out, "\\%c", c);
        } else if (c < 0x20 || c == 0x7f) {
            text_printf(out, "\\x%02x", c);
        } else if (text_escape(shown, sizeof(shown), s, len) == len) {
            text_append(out, s, len);
            s += len - 1;
        } else {
            /* All that steer a terminal have two or three bytes. */
            unsigned code = len == 2 ? (c & 0x1fu) : (c & 0x0fu);
            for (size_t i = 1; i < len; i++)
                code = (code << 6) | ((unsigned char)s[i] & 0x3fu);
            text_printf(out, "\\u%04x", code & 0xffffu);
            s += len - 1;
        }
    }
    text_append_str(out, "\"");
}

static void print_scalar(const json_t *v, struct text *out)
{
    switch (json_typeof(v)) {
    case JSON_NULL:
        text_append_str(out, "null");
        break;
    case JSON_TRUE:
        text_append_str(out, "true");
        break;
    case JSON_FALSE:
        text_append_str(out, "false");
        break;
    case JSON_INTEGER:
        text_printf(out, "%lld", (long long)json_integer_value(v));
        break;
    case JSON_REAL: {
        /* As people wrote it, where that is the same number. */
        char *s = json_dumps(v, JSON_ENCODE_ANY | JSON_REAL_PRECISION(15));
        if (s && strtod(s, NULL) != json_real_value(v)) {
            free(s);
            s = json_dumps(v, JSON_ENCODE_ANY | JSON_REAL_PRECISION(17));
        }
        text_append_str(out, s ? s : "0.0");
        free(s);
        break;
    }
    case JSON_STRING:
        print_text(json_string_value(v), out);
        break;
    case JSON_ARRAY:
        text_append_str(out, "[]");
        break;
    case JSON_OBJECT:
        text_append_str(out, "{}");
        break;
    }
}

static bool is_block(const json_t *v)
{
    return (json_is_object(v) && json_object_size(v) > 0) ||
           (json_is_array(v) && json_array_size(v) > 0);
}

/* Block @v at @indent; the first line begins where the text is (behind "- ", say). Depth is bounded
 * by jansson's parser (2048). */
static void print_block(const json_t *v, unsigned indent, struct text *out)
{
    bool first = true;
    if (json_is_array(v)) {
        size_t i;
        json_t *item;
        json_array_foreach(v, i, item)
        {
            text_printf(out, "%*s- ", first ? 0 : (int)indent, "");
            first = false;
            if (is_block(item)) {
                print_block(item, indent + 2, out);
            } else {
                print_scalar(item, out);
                text_append_str(out, "\n");
            }
        }
        return;
    }
    const char *key;
    json_t *item;
    json_object_foreach((json_t *)(uintptr_t)v, key, item)
    {
        text_printf(out, "%*s", first ? 0 : (int)indent, "");
        first = false;
        print_text(key, out);
        text_append_str(out, ":");
        if (is_block(item)) {
            text_printf(out, "\n%*s", (int)indent + 2, "");
            print_block(item, indent + 2, out);
        } else {
            text_append_str(out, " ");
            print_scalar(item, out);
            text_append_str(out, "\n");
        }
    }
}

void yaml_print(const json_t *value, struct text *out)
{
    if (is_block(value)) {
        print_block(value, 0, out);
    } else {
        print_scalar(value, out);
        text_append_str(out, "\n");
    }
}
