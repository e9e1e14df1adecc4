/* SPDX-License-Identifier: Apache-2.0 */
/* The verbs that ask nobody: help, version, completion. */
#include <config.h>
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/command.h"

#define HELP_MAX (64u * 1024u)

static enum cli_exit print_text(void (*print)(struct text *))
{
    struct text out;
    text_init(&out, HELP_MAX);
    print(&out);
    cli_put(&out);
    text_fini(&out);
    return CLI_OK;
}

static enum cli_exit print_verb(enum cli_verb verb)
{
    struct text out;
    text_init(&out, HELP_MAX);
    command_help_verb(&out, verb);
    cli_put(&out);
    text_fini(&out);
    return CLI_OK;
}

static enum cli_exit unknown_verb(const char *name)
{
    return cli_fail(CLI_USAGE, "there is no verb \"%s\"; `weir help` lists them", name);
}

enum cli_exit cli_help(struct cli *c)
{
    if (c->arg_count == 0)
        return print_text(command_help);
    enum cli_verb verb = command_find(c->args[0]);
    return verb == VERB_COUNT ? unknown_verb(c->args[0]) : print_verb(verb);
}

enum cli_exit cli_version(struct cli *c)
{
    (void)c;
    printf("weir %s\n", WEIR_VERSION);
    return CLI_OK;
}

enum cli_exit cli_completion(struct cli *c)
{
    if (strcmp(c->args[0], "bash") != 0)
        return cli_fail(CLI_USAGE, "there is a completion for bash only");
    return print_text(command_completion);
}
