/* SPDX-License-Identifier: Apache-2.0 */
/* The verbs of operation: status, login, token, enforcement, gateway, debug. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>

#include "base/err.h"
#include "base/units.h"
#include "cli/credential.h"
#include "cli/get.h"
#include "cli/http.h"
#include "cli/output.h"
#include "cli/socket.h"
#include "cli/yaml.h"

/* An object, as JSON or YAML. */
static enum cli_exit print_object(struct cli *c, const json_t *o)
{
    if (c->o.output == OUTPUT_JSON)
        return output_json(o, false);
    struct text out;
    text_init(&out, 1024 * 1024);
    yaml_print(o, &out);
    cli_put(&out);
    text_fini(&out);
    return CLI_OK;
}

static enum cli_exit call_and_print(struct cli *c, const char *method, const char *path,
                                    const json_t *body)
{
    struct http_answer a = {0};
    enum cli_exit r = http_call(c, method, path, body, &a);
    if (r == CLI_OK)
        r = print_object(c, a.json);
    json_decref(a.json);
    return r;
}

enum cli_exit cli_status(struct cli *c)
{
    return call_and_print(c, "GET", "/api/v1/status", NULL);
}

/* One line of standard input; nothing of it shows on a terminal. */
static bool read_secret(char *out, size_t size)
{
    struct termios old, quiet;
    bool terminal = tcgetattr(STDIN_FILENO, &old) == 0;
    if (terminal) {
        fputs("token: ", stderr);
        quiet = old;
        quiet.c_lflag &= ~(tcflag_t)ECHO;
        tcsetattr(STDIN_FILENO, TCSAFLUSH, &quiet);
    }
    bool good = fgets(out, (int)size, stdin) != NULL;
    if (terminal) {
        tcsetattr(STDIN_FILENO, TCSAFLUSH, &old);
        fputs("\n", stderr);
    }
    if (good)
        out[strcspn(out, "\r\n")] = '\0';
    return good;
}

enum cli_exit cli_login(struct cli *c)
{
    char token[4096];
    enum cli_exit r = CLI_OK;
    struct http_answer a = {0};
    if (c->o.token_file) {
        char *data;
        size_t n;
        int e = text_read_file(c->o.token_file, sizeof(token) - 1, &data, &n);
        if (e < 0)
            return cli_fail(CLI_USAGE, "--token-file %s: %s", c->o.token_file, weir_strerror(e));
        snprintf(token, sizeof(token), "%.*s", (int)strcspn(data, "\r\n"), data);
        explicit_bzero(data, n);
        free(data);
    } else if (!read_secret(token, sizeof(token))) {
        return cli_fail(CLI_USAGE, "no token on standard input");
    }
    if (!credential_is_token(token))
        r = cli_fail(CLI_USAGE, "that is no token; `weir token create` and the server's "
                                "admin.token give one");
    if (r == CLI_OK)
        r = http_use_token(c, token);
    /* A token that is wrong is refused even where none would be needed. */
    if (r == CLI_OK)
        r = http_call(c, "GET", "/api/v1/status", NULL, &a);
    if (r == CLI_OK)
        r = credential_store(http_server(c), token);
    json_decref(a.json);
    explicit_bzero(token, sizeof(token));
    return r;
}

static enum cli_exit token_list(struct cli *c)
{
    static const struct table_column columns[] = {
        {"ID", "id", TABLE_TEXT, false},       {"NAME", "name", TABLE_TEXT, false},
        {"ROLE", "role", TABLE_TEXT, false},   {"CREATED", "created", TABLE_AGE, false},
        {"EXPIRES", "expires", TABLE_TEXT, false},
    };
    json_t *items;
    enum cli_exit r = http_list(c, "/api/v1/tokens", "", 0, &items);
    if (r != CLI_OK)
        return r;
    r = output_rows(c, columns, 5, "id", items);
    json_decref(items);
    return r;
}

/* A fresh secret: the token alone on standard output, so that it can go to a file; words beside it.
 * */
static enum cli_exit print_secret(struct cli *c, const struct http_answer *a, const char *words)
{
    const char *token = json_string_value(json_object_get(a->json, "token"));
    const char *expires = json_string_value(json_object_get(a->json, "expires"));
    if (c->o.output == OUTPUT_JSON || c->o.output == OUTPUT_YAML)
        return print_object(c, a->json);
    if (!token || !credential_is_token(token))
        return cli_fail(CLI_REFUSED, "the server gave no token");
    printf("%s\n", token);
    fflush(stdout);
    return cli_fail(CLI_OK, "%s%s%s; it is shown this once", words, expires ? ", until " : "",
                    expires ? expires : "");
}

static enum cli_exit token_create(struct cli *c)
{
    if (c->arg_count != 2)
        return cli_fail(CLI_USAGE, "expected weir token create NAME [--role ROLE] [--expires 30d]");
    json_t *body = json_object();
    json_object_set_new(body, "name", json_string(c->args[1]));
    json_object_set_new(body, "role", json_string(c->o.role ? c->o.role : "viewer"));
    if (c->o.expires)
        json_object_set_new(body, "expiresIn", json_string(c->o.expires));
    struct http_answer a = {0};
    enum cli_exit r = http_call(c, "POST", "/api/v1/tokens", body, &a);
    if (r == CLI_OK)
        r = print_secret(c, &a, "keep it: `weir login` takes it, WEIR_TOKEN holds it");
    json_decref(body);
    json_decref(a.json);
    return r;
}

static enum cli_exit token_revoke(struct cli *c)
{
    if (c->arg_count != 2)
        return cli_fail(CLI_USAGE, "expected weir token revoke ID; `weir token list` shows them");
    struct text path;
    struct http_answer a = {0};
    text_init(&path, 4096);
    text_append_str(&path, "/api/v1/tokens/");
    http_encode(&path, c->args[1]);
    enum cli_exit r = http_call(c, "DELETE", path.data, NULL, &a);
    if (r == CLI_OK)
        printf("revoked\n");
    json_decref(a.json);
    text_fini(&path);
    return r;
}

enum cli_exit cli_token(struct cli *c)
{
    const char *what = c->arg_count > 0 ? c->args[0] : "list";
    if (strcmp(what, "list") == 0)
        return token_list(c);
    if (strcmp(what, "create") == 0)
        return token_create(c);
    if (strcmp(what, "revoke") == 0)
        return token_revoke(c);
    return cli_fail(CLI_USAGE, "expected weir token list, create or revoke");
}

enum cli_exit cli_enforcement(struct cli *c)
{
    const char *what = c->arg_count > 0 ? c->args[0] : "status";
    int on = 0;
    struct http_answer a = {0};
    enum cli_exit r;
    if (strcmp(what, "status") == 0) {
        r = http_call(c, "GET", "/api/v1/enforcement", NULL, &a);
    } else if (units_parse_bool(what, &on, NULL) == 0) {
        json_t *body = json_object();
        json_object_set_new(body, "on", json_boolean(on));
        r = http_call(c, "PUT", "/api/v1/enforcement", body, &a);
        json_decref(body);
    } else {
        return cli_fail(CLI_USAGE, "expected weir enforcement on, off or status");
    }
    if (r == CLI_OK && (c->o.output == OUTPUT_JSON || c->o.output == OUTPUT_YAML))
        r = print_object(c, a.json);
    else if (r == CLI_OK)
        printf("enforcement is %s\n", json_is_true(json_object_get(a.json, "on"))
                                          ? "on"
                                          : "off: no throttle is planned, agreed limits hold");
    json_decref(a.json);
    return r;
}

/* @method on .../@verb; then "gateway/NAME @done", or what is ordered for later. */
static enum cli_exit gateway_ask(struct cli *c, const char *method, const char *name,
                                 const char *verb, json_t *body, const char *done)
{
    struct text path, out;
    struct http_answer a = {0};
    text_init(&path, 4096);
    text_init(&out, 4096);
    text_append_str(&path, "/api/v1/gateways/");
    http_encode(&path, name);
    text_printf(&path, "/%s", verb);
    enum cli_exit r = http_call(c, method, path.data, body, &a);
    if (r == CLI_OK) {
        text_append_str(&out, "gateway/");
        text_append_escaped(&out, name);
        if (json_is_string(json_object_get(a.json, "ordered")))
            done = "is away: it gets a new key when it next connects";
        text_printf(&out, " %s\n", done);
        cli_put(&out);
    }
    json_decref(a.json);
    text_fini(&out);
    text_fini(&path);
    return r;
}

static enum cli_exit gateway_post(struct cli *c, const char *name, const char *verb, json_t *body,
                                  const char *done)
{
    return gateway_ask(c, "POST", name, verb, body, done);
}

static enum cli_exit gateway_drain(struct cli *c, const char *name)
{
    json_t *body = json_object();
    if (c->o.within)
        json_object_set_new(body, "within", json_string(c->o.within));
    enum cli_exit r = gateway_post(c, name, "drain", body, "takes no more hosts");
    json_decref(body);
    return r;
}

/* On its own machine, without the server. */
static enum cli_exit gateway_undrain_here(struct cli *c)
{
    struct socket *s;
    json_t *done = NULL;
    enum cli_exit r = socket_open(c->o.gateway, &s);
    if (r != CLI_OK)
        return r;
    r = socket_ask(s, "{\"do\":\"undrain\"}\n", "undrain", &done);
    if (r == CLI_OK && json_is_true(json_object_get(done, "wasDrained")))
        puts("the gateway takes hosts again; "
             "a server that returns and has it drained drains it anew");
    else if (r == CLI_OK)
        puts("the gateway is not drained");
    json_decref(done);
    socket_close(s);
    return r;
}

enum cli_exit cli_gateway(struct cli *c)
{
    const char *verb = c->args[0];
    if (c->o.gateway && c->arg_count == 1 && strcmp(verb, "undrain") == 0)
        return gateway_undrain_here(c);
    if (c->o.gateway)
        return cli_fail(CLI_USAGE,
                        "--gateway SOCKET goes with weir gateway undrain, without a name");
    if (c->o.within && strcmp(verb, "drain") != 0)
        return cli_fail(CLI_USAGE, "--within goes with weir gateway drain NAME");
    if (c->o.cancel && (c->arg_count != 2 || strcmp(verb, "rotate") != 0))
        return cli_fail(CLI_USAGE, "--cancel goes with weir gateway rotate NAME");
    if (c->arg_count == 2 && strcmp(verb, "admit") == 0)
        return gateway_post(c, c->args[1], "admit", NULL, "admitted");
    if (c->o.cancel)
        return gateway_ask(c, "DELETE", c->args[1], "rotate", NULL,
                           "keeps its key: the order is withdrawn");
    if (c->arg_count == 2 && strcmp(verb, "rotate") == 0)
        return gateway_post(c, c->args[1], "rotate", NULL, "has a new key");
    if (c->arg_count == 2 && strcmp(verb, "drain") == 0)
        return gateway_drain(c, c->args[1]);
    if (c->arg_count == 2 && strcmp(verb, "undrain") == 0)
        return gateway_post(c, c->args[1], "undrain", NULL, "takes hosts again");
    if (c->arg_count == 2 && strcmp(c->args[0], "retire") == 0) {
        c->args[0] = "gateway";
        return cli_delete(c);
    }
    if (c->arg_count != 1 || strcmp(c->args[0], "enrol") != 0)
        return cli_fail(CLI_USAGE, "expected weir gateway enrol [--expires 10m], or weir "
                                   "gateway admit, drain [--within 5m], undrain, rotate or "
                                   "retire NAME");
    json_t *body = json_object();
    if (c->o.expires)
        json_object_set_new(body, "expiresIn", json_string(c->o.expires));
    struct http_answer a = {0};
    enum cli_exit r = http_call(c, "POST", "/api/v1/enrolment-tokens", body, &a);
    if (r == CLI_OK)
        r = print_secret(c, &a, "one gateway may enrol with it (token-file of gateway.conf)");
    json_decref(body);
    json_decref(a.json);
    return r;
}

static enum cli_exit debug_table(struct cli *c, const char *path,
                                 const struct table_column *columns, size_t n, const char *key)
{
    struct http_answer a = {0};
    enum cli_exit r = http_call(c, "GET", path, NULL, &a);
    if (r == CLI_OK)
        r = output_rows(c, columns, n, key, json_object_get(a.json, "items"));
    json_decref(a.json);
    return r;
}

static enum cli_exit debug_polls(struct cli *c)
{
    static const struct table_column columns[] = {
        {"PROCESS", "process", TABLE_EXACT, false},
        {"POLLS", "polls", TABLE_EXACT, false},
        {"LOST", "pollsLost", TABLE_EXACT, false},
        {"STALE", "staleReports", TABLE_EXACT, false},
        {"P50", "p50Us", TABLE_LATENCY, false},
        {"P99", "p99Us", TABLE_LATENCY, false},
        {"P99.9", "p999Us", TABLE_LATENCY, false},
        {"LONGEST", "maxUs", TABLE_LATENCY, false},
    };
    return debug_table(c, "/api/v1/debug/polls", columns, sizeof(columns) / sizeof(columns[0]),
                       "process");
}

/* The threads, and below them the way of early warnings where tables are for people. */
static enum cli_exit debug_threads(struct cli *c, const struct table_column *columns, size_t n)
{
    static const struct table_column parts[] = {
        {"WARNING", "part", TABLE_TEXT, false},   {"COUNT", "count", TABLE_EXACT, false},
        {"P50", "p50Us", TABLE_LATENCY, false},   {"P99", "p99Us", TABLE_LATENCY, false},
        {"LONGEST", "maxUs", TABLE_LATENCY, false},
    };
    struct http_answer a = {0};
    enum cli_exit r = http_call(c, "GET", "/api/v1/debug/threads", NULL, &a);
    if (r == CLI_OK)
        r = output_rows(c, columns, n, "name", json_object_get(a.json, "items"));
    const json_t *warnings = json_object_get(a.json, "warnings");
    bool people = c->o.output == OUTPUT_TABLE || c->o.output == OUTPUT_WIDE;
    if (r == CLI_OK && people && json_array_size(warnings) > 0) {
        putchar('\n');
        r = output_rows(c, parts, sizeof(parts) / sizeof(parts[0]), "part", warnings);
    }
    json_decref(a.json);
    return r;
}

enum cli_exit cli_debug(struct cli *c)
{
    static const struct table_column columns[] = {
        {"THREAD", "name", TABLE_TEXT, false},
        {"DEPTH", "depth", TABLE_EXACT, false},
        {"DEEPEST", "depthMax", TABLE_EXACT, false},
        {"CAPACITY", "capacity", TABLE_EXACT, false},
        {"TAKEN", "taken", TABLE_EXACT, false},
        {"POSTED", "posted", TABLE_EXACT, true},
        {"REPLIES", "replies", TABLE_EXACT, true},
        {"REFUSED", "refused", TABLE_EXACT, false},
        {"EXPIRED", "expired", TABLE_EXACT, false},
        {"TICKETS", "ticketsOut", TABLE_EXACT, true},
        {"LONGEST", "longestUs", TABLE_LATENCY, false},
        {"LONGEST-ON", "longestKind", TABLE_TEXT, false},
        {"WAIT-P50", "waitP50Us", TABLE_LATENCY, true},
        {"WAIT-P99", "waitP99Us", TABLE_LATENCY, false},
        {"WAITED", "waitMaxUs", TABLE_LATENCY, false},
        {"GATEWAYS", "gateways", TABLE_EXACT, false},
        {"SUBGROUPS", "subgroups", TABLE_EXACT, false},
        {"URGENT", "urgent", TABLE_EXACT, true},
        {"COALESCED", "coalesced", TABLE_EXACT, true},
        {"WAKES", "wakes", TABLE_EXACT, true},
        {"BUSY-NOW", "busyNowUs", TABLE_LATENCY, false},
        {"BUSY", "busyTotalUs", TABLE_LATENCY, true},
    };
    if (c->arg_count == 1 && strcmp(c->args[0], "threads") == 0)
        return debug_threads(c, columns, sizeof(columns) / sizeof(columns[0]));
    if (c->arg_count == 1 && strcmp(c->args[0], "polls") == 0)
        return debug_polls(c);
    return cli_fail(CLI_USAGE, "expected weir debug threads or weir debug polls");
}
