/* SPDX-License-Identifier: Apache-2.0 */
/* What every verb of `weir` gets: options, arguments, the server, and how to end. */
#ifndef WEIR_CLI_CLI_H
#define WEIR_CLI_CLI_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/text.h"

/* Documented in weir(1). */
enum cli_exit {
    CLI_OK = 0,
    CLI_DIFFERENT = 1,    /* diff found differences; or a negative answer; or a local failure */
    CLI_USAGE = 2,        /* the command line or a document is wrong */
    CLI_REFUSED = 3,      /* the server refused the request */
    CLI_NOT_FOUND = 4,    /* no such object */
    CLI_UNREACHABLE = 5,  /* the server, or the gateway's socket, cannot be reached */
    CLI_UNAUTHORISED = 6, /* no token, a wrong one, or one whose role is not enough */
};

enum cli_verb {
    VERB_GET,
    VERB_DESCRIBE,
    VERB_EXPLAIN,
    VERB_APPLY,
    VERB_DIFF,
    VERB_DELETE,
    VERB_TOP,
    VERB_WATCH,
    VERB_EVENTS,
    VERB_ACTIONS,
    VERB_STATUS,
    VERB_SIMULATE,
    VERB_LOGIN,
    VERB_TOKEN,
    VERB_ENFORCEMENT,
    VERB_GATEWAY,
    VERB_DEBUG,
    VERB_COMPLETION,
    VERB_VERSION,
    VERB_HELP,
    VERB_COUNT,
};

#define CLI_FILES_MAX 64u
#define CLI_ARGS_MAX 64u

enum cli_output { OUTPUT_TABLE, OUTPUT_WIDE, OUTPUT_JSON, OUTPUT_YAML, OUTPUT_CSV, OUTPUT_NAME };

struct cli_options {
    const char *server, *ca, *token_file, *state_dir, *output_text;
    const char *files[CLI_FILES_MAX];
    size_t file_count;
    const char *sort, *gateway, *role, *expires, *within;
    bool cancel;
    const char *host, *volume, *tenant, *target, *agreement, *verdict;
    const char *plot, *scheme;
    uint64_t limit;       /* rows; of simulate: the seed; 0: the verb's default */
    uint64_t interval_ns; /* 0: the verb's default */
    uint64_t timeout_ns;
    bool no_headers, dry_run, force, wait, once, follow, help;
    enum cli_output output;
};

struct http;

struct cli {
    struct cli_options o;
    const char *args[CLI_ARGS_MAX]; /* behind the verb */
    size_t arg_count;
    struct http *http;   /* made by the first call of the server */
    bool terminal;       /* standard output is one */
    bool color;
    bool again;          /* the server was there: that it is gone (CLI_UNREACHABLE) the verb says */
};

/* Write to standard output or standard error. */
void cli_put(const struct text *out);
/* "weir: words" to standard error; control characters of the words are escaped. Gives @code back.
 * */
enum cli_exit cli_fail(enum cli_exit code, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* Verbs, one function each. */
enum cli_exit cli_get(struct cli *c);
enum cli_exit cli_describe(struct cli *c);
enum cli_exit cli_explain(struct cli *c);
enum cli_exit cli_apply(struct cli *c);
enum cli_exit cli_diff(struct cli *c);
enum cli_exit cli_delete(struct cli *c);
enum cli_exit cli_top(struct cli *c);
enum cli_exit cli_watch(struct cli *c);
enum cli_exit cli_events(struct cli *c);
enum cli_exit cli_actions(struct cli *c);
enum cli_exit cli_status(struct cli *c);
enum cli_exit cli_simulate(struct cli *c);
enum cli_exit cli_login(struct cli *c);
enum cli_exit cli_token(struct cli *c);
enum cli_exit cli_enforcement(struct cli *c);
enum cli_exit cli_gateway(struct cli *c);
enum cli_exit cli_debug(struct cli *c);
enum cli_exit cli_completion(struct cli *c);
enum cli_exit cli_version(struct cli *c);
enum cli_exit cli_help(struct cli *c);

#endif
