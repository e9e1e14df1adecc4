/* SPDX-License-Identifier: Apache-2.0 */
/* weir: the people's command. Verbs and options are the tables of command.c. */
#include <config.h>
#include <locale.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/command.h"
#include "cli/http.h"

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

static enum cli_exit run(int argc, char **argv)
{
    struct cli c = {0};
    if (argc < 2) {
        print_text(command_help);
        return CLI_USAGE;
    }
    const char *name = argv[1];
    if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0)
        name = "help";
    else if (strcmp(name, "--version") == 0)
        name = "version";
    enum cli_verb verb = command_find(name);
    if (verb == VERB_COUNT)
        return unknown_verb(name);
    enum cli_exit r = command_parse(&c, verb, argc - 2, argv + 2);
    if (r != CLI_OK)
        return r;
    if (c.o.help)
        return print_verb(verb);
    const char *no_color = getenv("NO_COLOR"), *term = getenv("TERM");
    c.terminal = isatty(STDOUT_FILENO) != 0;
    c.color = c.terminal && !(no_color && *no_color) && !(term && strcmp(term, "dumb") == 0);
    r = command_at(verb)->run(&c);
    http_close(&c);
    return r;
}

int main(int argc, char **argv)
{
    /* A reader that goes (`weir get ... | head`) ends us through write errors. */
    signal(SIGPIPE, SIG_IGN);
    setlocale(LC_CTYPE, "");
    enum cli_exit r = run(argc, argv);
    if (fflush(stdout) != 0 && r == CLI_OK)
        return CLI_DIFFERENT;
    return (int)r;
}
