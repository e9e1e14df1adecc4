/* SPDX-License-Identifier: Apache-2.0 */
/* The table of verbs and the table of options: the one truth for dispatch, help and completion. */
#ifndef WEIR_CLI_COMMAND_H
#define WEIR_CLI_COMMAND_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cli/cli.h"

struct command {
    const char *name;
    const char *args;     /* "KIND [NAME...]" */
    const char *summary;
    const char *details;  /* more lines for help, or NULL */
    const char *words;    /* of the first argument, for completion: "on off"; "KIND" for kinds */
    size_t args_min, args_max;
    enum cli_exit (*run)(struct cli *c);
};

const struct command *command_at(enum cli_verb verb);
/* By name; VERB_COUNT when there is none. */
enum cli_verb command_find(const char *name);

/* Read the arguments behind the verb into options and arguments. */
enum cli_exit command_parse(struct cli *c, enum cli_verb verb, int argc, char **argv);

/* Help of all, of one verb; and the completion script of bash. */
void command_help(struct text *out);
void command_help_verb(struct text *out, enum cli_verb verb);
void command_completion(struct text *out);

#endif
