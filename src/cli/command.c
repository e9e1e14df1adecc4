/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/command.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/units.h"
#include "cli/kind.h"

static const struct command commands[VERB_COUNT] = {
    [VERB_GET] = {"get", "KIND [NAME...]", "List objects, or show some by name",
                  "A stream's name is HOST/VOLUME. Agreements, tenants and policies come out of\n"
                  "-o yaml as they may be applied again.\n",
                  "KIND", 1, CLI_ARGS_MAX, cli_get},
    [VERB_DESCRIBE] = {"describe", "KIND NAME...", "Tell all about one object",
                       "A stream's latency is split in three: held by Weir, in the storage, "
                       "total.\nWith --gateway SOCKET the gateway itself is asked, and tells why "
                       "an I/O waits now.\n",
                       "KIND", 2, CLI_ARGS_MAX, cli_describe},
    [VERB_EXPLAIN] = {"explain", "stream HOST/VOLUME...",
                      "Say what holds for a stream now and why",
                      "Then what was done last, and what was wanted and did not leave.\n", "stream",
                      2, CLI_ARGS_MAX, cli_explain},
    [VERB_APPLY] = {"apply", "-f FILE", "Make or change agreements, tenants and policies",
                    "Every document is checked before any is changed.\n", NULL, 0, 0, cli_apply},
    [VERB_DIFF] = {"diff", "-f FILE", "Show what apply would change",
                   "The exit status is 1 when there are differences.\n", NULL, 0, 0, cli_diff},
    [VERB_DELETE] = {"delete", "KIND NAME... | -f FILE", "Delete documents, retire gateways", NULL,
                     "KIND", 0, CLI_ARGS_MAX, cli_delete},
    [VERB_TOP] = {"top", "", "Streams by what they do, live",
                  "With --gateway SOCKET the gateway itself is asked, and no server is needed.\n",
                  NULL, 0, 0, cli_top},
    [VERB_WATCH] = {"watch", "KIND [NAME...]",
                    "Streams, agreements, events or actions as they come", NULL, "KIND", 1,
                    CLI_ARGS_MAX, cli_watch},
    [VERB_EVENTS] = {"events", "", "What happened, the latest last", NULL, NULL, 0, 0, cli_events},
    [VERB_ACTIONS] = {"actions", "", "What the server did to whom, the latest last", NULL, NULL, 0,
                      0, cli_actions},
    [VERB_STATUS] = {"status", "", "The server in one view", NULL, NULL, 0, 0, cli_status},
    [VERB_SIMULATE] = {"simulate", "FILE", "What would happen, from a scenario file",
                       "Asks no server. Schemes: weir (default), weir-no-surge, weir-no-server,\n"
                       "none, static, sleds, parda, mclock, oracle. The guide simulate.md has\n"
                       "every key.",
                       NULL, 1, 1, cli_simulate},
    [VERB_LOGIN] = {"login", "", "Keep a token for this server",
                    "The token is read from standard input, or from --token-file.\n", NULL, 0, 0,
                    cli_login},
    [VERB_TOKEN] = {"token", "list | create NAME | revoke ID", "Tokens of the API", NULL,
                    "list create revoke", 0, 2, cli_token},
    [VERB_ENFORCEMENT] = {"enforcement", "[on | off | status]",
                          "The one switch that lifts every planned throttle", NULL, "on off status",
                          0, 1, cli_enforcement},
    [VERB_GATEWAY] = {"gateway", "enrol | admit NAME | drain NAME | undrain NAME | rotate NAME | "
                      "retire NAME",
                      "Let a gateway in, out of service and back, or retire one",
                      "enrol prints a token with which one gateway may enrol; admit lets one that\n"
                      "is pending be controlled (admission = manual). drain has one take no more\n"
                      "hosts, until undrain; with --within connections that are idle are closed\n"
                      "when that time is over; undrain --gateway SOCKET ends it on its own\n"
                      "machine while the server is away. rotate gives one a new key: now, or\n"
                      "when it next connects, unless that order is withdrawn (--cancel).\n",
                      "enrol admit drain undrain rotate retire", 1, 2, cli_gateway},
    [VERB_DEBUG] = {"debug", "threads | polls", "The server's threads and mailboxes; polls",
                    NULL, "threads polls", 1, 1, cli_debug},
    [VERB_COMPLETION] = {"completion", "bash", "Print a completion script",
                         "To use it now: . <(weir completion bash)\n", "bash", 1, 1,
                         cli_completion},
    [VERB_VERSION] = {"version", "", "Print the version", NULL, NULL, 0, 0, cli_version},
    [VERB_HELP] = {"help", "[VERB]", "Explain a verb", NULL, "VERB", 0, 1, cli_help},
};

enum option_type {
    OPTION_FLAG,
    OPTION_TEXT,
    OPTION_FILE,
    OPTION_COUNT,
    OPTION_DURATION,
    OPTION_OUTPUT,
};

#define V(verb) (1u << VERB_##verb)
#define SHOWS (V(GET) | V(TOP) | V(WATCH) | V(EVENTS) | V(ACTIONS) | V(TOKEN) | V(DEBUG))
#define ASKS (~(V(COMPLETION) | V(VERSION) | V(HELP) | V(SIMULATE)))
#define SELECTS (V(GET) | V(TOP))
#define FIELD(member) offsetof(struct cli_options, member)

static const struct option {
    const char *name;
    char letter; /* 0: none */
    const char *argument;
    const char *words; /* what the argument may be, for completion; or NULL */
    const char *help;
    enum option_type type;
    size_t offset;
    uint32_t verbs;
} options[] = {
    {"output", 'o', "FORMAT", "table wide json yaml csv name",
     "table, wide, json, yaml, csv or name", OPTION_OUTPUT, FIELD(output_text),
     SHOWS | V(STATUS) | V(ENFORCEMENT) | V(GATEWAY) | V(SIMULATE)},
    {"no-headers", 0, NULL, NULL, "leave out the headers of tables", OPTION_FLAG, FIELD(no_headers),
     SHOWS},
    {"filename", 'f', "FILE", NULL, "documents in YAML or JSON; - is standard input; repeatable",
     OPTION_FILE, FIELD(files), V(APPLY) | V(DIFF) | V(DELETE)},
    {"dry-run", 0, NULL, NULL, "check everything, change nothing", OPTION_FLAG, FIELD(dry_run),
     V(APPLY) | V(DELETE)},
    {"force", 0, NULL, NULL, "also agreements whose reservation does not fit", OPTION_FLAG,
     FIELD(force), V(APPLY)},
    {"wait", 0, NULL, NULL, "until every gateway has applied it", OPTION_FLAG, FIELD(wait),
     V(APPLY)},
    {"timeout", 0, "TIME", NULL, "how long --wait waits (30s)", OPTION_DURATION, FIELD(timeout_ns),
     V(APPLY)},
    {"sort", 0, "KEY", "iops demand p99 held bandwidth harm",
     "iops, demand, p99, held, bandwidth or harm", OPTION_TEXT, FIELD(sort), V(TOP)},
    {"once", 0, NULL, NULL, "one look, then end", OPTION_FLAG, FIELD(once), V(TOP) | V(WATCH)},
    {"interval", 'i', "TIME", NULL, "time between two looks (2s)", OPTION_DURATION,
     FIELD(interval_ns), V(TOP) | V(DESCRIBE)},
    {"limit", 'n', "ROWS", NULL, "so many rows at most", OPTION_COUNT, FIELD(limit),
     V(GET) | V(TOP) | V(EVENTS) | V(ACTIONS)},
    {"follow", 0, NULL, NULL, "go on as they come", OPTION_FLAG, FIELD(follow),
     V(EVENTS) | V(ACTIONS)},
    {"gateway", 0, "NAME", NULL,
     "only streams of this gateway; of top, describe and gateway undrain: the path of its socket",
     OPTION_TEXT, FIELD(gateway), SELECTS | V(DESCRIBE) | V(GATEWAY)},
    {"host", 0, "NAME", NULL, "only streams of this host", OPTION_TEXT, FIELD(host), SELECTS},
    {"volume", 0, "NAME", NULL, "only streams of this volume", OPTION_TEXT, FIELD(volume), SELECTS},
    {"tenant", 0, "NAME", NULL, "only streams of this tenant", OPTION_TEXT, FIELD(tenant), SELECTS},
    {"target", 0, "NAME", NULL, "only streams of this target", OPTION_TEXT, FIELD(target), SELECTS},
    {"agreement", 0, "NAME", NULL, "only streams under this agreement", OPTION_TEXT,
     FIELD(agreement), SELECTS},
    {"verdict", 0, "VERDICT", "none met failing exempt excess idle",
     "only streams that are none, met, failing, exempt, excess or idle", OPTION_TEXT,
     FIELD(verdict), SELECTS},
    {"role", 0, "ROLE", "viewer operator admin", "viewer (default), operator or admin", OPTION_TEXT,
     FIELD(role), V(TOKEN)},
    {"expires", 0, "TIME", NULL, "how long the token is good, such as 30d", OPTION_TEXT,
     FIELD(expires), V(TOKEN) | V(GATEWAY)},
    {"within", 0, "TIME", NULL, "of drain: close idle connections then, such as 5m", OPTION_TEXT,
     FIELD(within), V(GATEWAY)},
    {"cancel", 0, NULL, NULL, "of rotate: withdraw the order for a gateway that is away",
     OPTION_FLAG, FIELD(cancel), V(GATEWAY)},
    {"plot", 0, "PREFIX", NULL, "write PREFIX-p99.svg and PREFIX-iops.svg", OPTION_TEXT,
     FIELD(plot), V(SIMULATE)},
    {"scheme", 0, "NAME", "weir weir-no-surge weir-no-server none static sleds parda mclock oracle",
     "another way of control, to compare with", OPTION_TEXT, FIELD(scheme), V(SIMULATE)},
    {"seed", 0, "N", NULL, "instead of the scenario's", OPTION_COUNT, FIELD(limit), V(SIMULATE)},
    {"server", 0, "URL", NULL, "the SLA server (WEIR_SERVER; http://127.0.0.1:7480)", OPTION_TEXT,
     FIELD(server), ASKS},
    {"ca", 0, "FILE", NULL, "who signs the certificate of an https server (WEIR_CA)", OPTION_TEXT,
     FIELD(ca), ASKS},
    {"token-file", 0, "FILE", NULL, "a token in its first line (or WEIR_TOKEN)", OPTION_TEXT,
     FIELD(token_file), ASKS},
    {"state-dir", 0, "PATH", NULL, "take admin.token of this state folder of a local server",
     OPTION_TEXT, FIELD(state_dir), ASKS},
    {"help", 'h', NULL, NULL, "explain this verb", OPTION_FLAG, FIELD(help), ~0u},
};
#define OPTION_COUNT_ALL (sizeof(options) / sizeof(options[0]))

const struct command *command_at(enum cli_verb verb)
{
    weir_assert(verb < VERB_COUNT);
    return &commands[verb];
}

enum cli_verb command_find(const char *name)
{
    for (int i = 0; i < VERB_COUNT; i++) {
        if (strcmp(commands[i].name, name) == 0)
            return (enum cli_verb)i;
    }
    return VERB_COUNT;
}

static enum cli_exit read_output(struct cli *c, const char *value)
{
    static const char *const names[] = {
        [OUTPUT_TABLE] = "table", [OUTPUT_WIDE] = "wide", [OUTPUT_JSON] = "json",
        [OUTPUT_YAML] = "yaml",   [OUTPUT_CSV] = "csv",   [OUTPUT_NAME] = "name",
    };
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        if (strcmp(names[i], value) == 0) {
            c->o.output = (enum cli_output)i;
            return CLI_OK;
        }
    }
    return cli_fail(CLI_USAGE, "-o %s: expected table, wide, json, yaml, csv or name", value);
}

static enum cli_exit read_count(const char *name, const char *value, uint64_t *ret)
{
    char *end;
    errno = 0;
    unsigned long long v = strtoull(value, &end, 10);
    if (value[0] < '0' || value[0] > '9' || *end != '\0' || errno != 0 || v < 1 || v > 100000)
        return cli_fail(CLI_USAGE, "--%s %s: expected a whole number from 1 to 100000", name,
                        value);
    *ret = v;
    return CLI_OK;
}

static enum cli_exit set_option(struct cli *c, const struct option *o, const char *value)
{
    char *field = (char *)&c->o + o->offset;
    const char *expected;
    switch (o->type) {
    case OPTION_FLAG:
        *(bool *)(void *)field = true;
        return CLI_OK;
    case OPTION_TEXT:
        *(const char **)(void *)field = value;
        return CLI_OK;
    case OPTION_FILE:
        if (c->o.file_count == CLI_FILES_MAX)
            return cli_fail(CLI_USAGE, "more than 64 files");
        c->o.files[c->o.file_count++] = value;
        return CLI_OK;
    case OPTION_COUNT:
        return read_count(o->name, value, (uint64_t *)(void *)field);
    case OPTION_DURATION:
        if (units_parse_duration_ns(value, (uint64_t *)(void *)field, &expected) < 0)
            return cli_fail(CLI_USAGE, "--%s %s: expected %s", o->name, value, expected);
        return CLI_OK;
    case OPTION_OUTPUT:
        return read_output(c, value);
    }
    weir_unreachable("an option type out of its enum");
}

/* The option that @arg is ("--name", "--name=value", "-n", "-nvalue"), and a value inside of it. */
static const struct option *option_of(const char *arg, const char **ret_value)
{
    *ret_value = NULL;
    for (size_t i = 0; i < OPTION_COUNT_ALL; i++) {
        const struct option *o = &options[i];
        size_t n = strlen(o->name);
        if (arg[1] == '-') {
            if (strncmp(arg + 2, o->name, n) == 0 && (arg[2 + n] == '\0' || arg[2 + n] == '=')) {
                *ret_value = arg[2 + n] == '=' ? arg + 3 + n : NULL;
                return o;
            }
        } else if (o->letter == arg[1]) {
            *ret_value = arg[2] == '\0' ? NULL : arg + 2;
            return o;
        }
    }
    return NULL;
}

enum cli_exit command_parse(struct cli *c, enum cli_verb verb, int argc, char **argv)
{
    const struct command *command = &commands[verb];
    bool options_end = false;
    for (int i = 0; i < argc; i++) {
        const char *arg = argv[i], *value;
        if (options_end || arg[0] != '-' || arg[1] == '\0') {
            if (c->arg_count == CLI_ARGS_MAX)
                return cli_fail(CLI_USAGE, "more than 64 arguments");
            c->args[c->arg_count++] = arg;
            continue;
        }
        if (strcmp(arg, "--") == 0) {
            options_end = true;
            continue;
        }
        const struct option *o = option_of(arg, &value);
        if (!o || (o->verbs & (1u << verb)) == 0)
            return cli_fail(CLI_USAGE, "%s has no option %s; `weir help %s` lists them",
                            command->name, arg, command->name);
        if (!o->argument && value)
            return cli_fail(CLI_USAGE, "--%s takes no value", o->name);
        if (o->argument && !value && ++i == argc)
            return cli_fail(CLI_USAGE, "--%s needs a value: %s", o->name, o->help);
        enum cli_exit r = set_option(c, o, o->argument && !value ? argv[i] : value);
        if (r != CLI_OK)
            return r;
    }
    if (c->o.help)
        return CLI_OK;
    if (c->arg_count < command->args_min || c->arg_count > command->args_max)
        return cli_fail(CLI_USAGE, "expected weir %s %s; `weir help %s` explains it", command->name,
                        command->args, command->name);
    return CLI_OK;
}

void command_help(struct text *out)
{
    text_append_str(out, "usage: weir VERB [ARGUMENTS] [OPTIONS]\n\n"
                         "The command for Weir, which keeps service level agreements on shared "
                         "block storage.\n\n");
    for (int i = 0; i < VERB_COUNT; i++)
        text_printf(out, "  %-12s %s\n", commands[i].name, commands[i].summary);
    text_append_str(out, "\nKinds: ");
    kind_list(KIND_ALL, ", ", out);
    text_append_str(out, "\n`weir help VERB` explains a verb; weir(1) all of them.\n");
}

/* Which kinds it takes. */
static enum kind_which kinds_of(enum cli_verb verb)
{
    return verb == VERB_WATCH ? KIND_LIVE : verb == VERB_DELETE ? KIND_DELETED : KIND_ALL;
}

void command_help_verb(struct text *out, enum cli_verb verb)
{
    const struct command *c = &commands[verb];
    text_printf(out, "usage: weir %s%s%s [OPTIONS]\n\n%s.\n", c->name, *c->args ? " " : "", c->args,
                c->summary);
    text_append_str(out, c->details ? c->details : "");
    if (c->words && strcmp(c->words, "KIND") == 0) {
        text_append_str(out, "\nKinds: ");
        kind_list(kinds_of(verb), ", ", out);
        text_append_str(out, "\n");
    }
    text_append_str(out, "\nOptions:\n");
    for (size_t i = 0; i < OPTION_COUNT_ALL; i++) {
        const struct option *o = &options[i];
        char left[64];
        if ((o->verbs & (1u << verb)) == 0)
            continue;
        size_t n = 0;
        left[0] = '\0';
        if (o->letter)
            n = (size_t)snprintf(left, sizeof(left), "-%c, ", o->letter);
        snprintf(left + n, sizeof(left) - n, "--%s%s%s", o->name, o->argument ? " " : "",
                 o->argument ? o->argument : "");
        text_printf(out, "  %-22s %s\n", left, o->help);
    }
}

static void completion_options(struct text *out, enum cli_verb verb)
{
    for (size_t i = 0; i < OPTION_COUNT_ALL; i++) {
        if (options[i].verbs & (1u << verb))
            text_printf(out, " --%s", options[i].name);
    }
}

static void completion_words(struct text *out, const char *words, enum cli_verb verb)
{
    if (strcmp(words, "KIND") == 0) {
        kind_list(kinds_of(verb), " ", out);
    } else if (strcmp(words, "VERB") == 0) {
        for (int i = 0; i < VERB_COUNT; i++)
            text_printf(out, "%s%s", i ? " " : "", commands[i].name);
    } else {
        text_append_str(out, words);
    }
}

void command_completion(struct text *out)
{
    text_append_str(out,
                    "# bash completion of weir\n"
                    "_weir() {\n"
                    "    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]}\n"
                    "    local verb=${COMP_WORDS[1]} words= options=\n"
                    "    COMPREPLY=()\n"
                    "    if [ \"$COMP_CWORD\" -eq 1 ]; then\n"
                    "        COMPREPLY=($(compgen -W '");
    completion_words(out, "VERB", VERB_HELP);
    text_append_str(out, "' -- \"$cur\"))\n        return\n    fi\n    case $prev in\n");
    for (size_t i = 0; i < OPTION_COUNT_ALL; i++) {
        const struct option *o = &options[i];
        if (!o->argument)
            continue;
        text_append_str(out, "    ");
        if (o->letter)
            text_printf(out, "-%c|", o->letter);
        if (o->words)
            text_printf(out, "--%s) COMPREPLY=($(compgen -W '%s' -- \"$cur\")); return ;;\n",
                        o->name, o->words);
        else
            text_printf(out, "--%s) COMPREPLY=($(compgen -f -- \"$cur\")); return ;;\n", o->name);
    }
    text_append_str(out, "    esac\n    case $verb in\n");
    for (int i = 0; i < VERB_COUNT; i++) {
        text_printf(out, "    %s) words='", commands[i].name);
        completion_words(out, commands[i].words ? commands[i].words : "", (enum cli_verb)i);
        text_append_str(out, "' options='");
        completion_options(out, (enum cli_verb)i);
        text_append_str(out, "' ;;\n");
    }
    text_append_str(out,
                    "    esac\n"
                    "    case $cur in\n"
                    "    -*) COMPREPLY=($(compgen -W \"$options\" -- \"$cur\")) ;;\n"
                    "    *)\n"
                    "        if [ \"$COMP_CWORD\" -eq 2 ]; then\n"
                    "            COMPREPLY=($(compgen -W \"$words\" -- \"$cur\"))\n"
                    "        elif [ \"$COMP_CWORD\" -eq 3 ]; then\n"
                    "            case $verb in\n"
                    "            get|describe|explain|delete|watch)\n"
                    "                COMPREPLY=($(compgen -W \"$(weir get \"$prev\" -o name "
                    "2>/dev/null | sed 's,^[^/]*/,,')\" -- \"$cur\")) ;;\n"
                    "            esac\n"
                    "        fi ;;\n"
                    "    esac\n"
                    "}\n"
                    "complete -F _weir weir\n");
}
