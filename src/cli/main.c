/* SPDX-License-Identifier: Apache-2.0 */
/* weir: the people's command. Verbs and options are the tables of command.c. */
#include <locale.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/command.h"
#include "cli/http.h"

static enum cli_exit run(int argc, char **argv)
{
    struct cli c = {0};
    if (argc < 2) {
        command_at(VERB_HELP)->run(&c);
        return CLI_USAGE;
    }
    const char *name = argv[1];
    if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0)
        name = "help";
    else if (strcmp(name, "--version") == 0)
        name = "version";
    enum cli_verb verb = command_find(name);
    if (verb == VERB_COUNT)
        return cli_fail(CLI_USAGE, "there is no verb \"%s\"; `weir help` lists them", name);
    enum cli_exit r = command_parse(&c, verb, argc - 2, argv + 2);
    if (r != CLI_OK)
        return r;
    if (c.o.help) {
        c.args[0] = name;
        c.arg_count = 1;
        return cli_help(&c);
    }
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
