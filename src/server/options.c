/* SPDX-License-Identifier: Apache-2.0 */
/* Problem: the file and the options say the same things, and whatever is wrong in either is to be
 * said before anything runs.
 *
 * Model: the options are read twice: first for the file's name, then, over the file, for the rest.
 * The whole is checked at the end, so that an option may mend what the file says. */
#include "server/options.h"

#include <getopt.h>
#include <stdio.h>
#include <unistd.h>

#include "base/err.h"
#include "base/log.h"
#include "config.h"
#include "server/app/app.h"

static void usage(FILE *out)
{
    fputs("Usage: weir-server [options]\n"
          "The SLA server: keeps agreements, polls gateways, throttles bullies.\n\n"
          "  -c, --config FILE      settings (default /etc/weir/server.conf when it exists)\n"
          "      --check-config     read and check the settings, then end\n"
          "      --state-dir DIR    databases, keys and tokens (default /var/lib/weir)\n"
          "      --listen ADDRESS   for gateways (default 127.0.0.1:7400; may be repeated)\n"
          "      --http ADDRESS     for people (default 127.0.0.1:7480)\n"
          "      --observe          analyse and record, enforce nothing\n"
          "      --log-level LEVEL  error, warning, info or debug\n"
          "      --no-sandbox       keep all system calls, for debugging\n"
          "      --print-routes     list the routes of the API, then end\n"
          "      --version, --help\n",
          out);
}

enum {
    OPT_CHECK = 256,
    OPT_STATE,
    OPT_LISTEN,
    OPT_HTTP,
    OPT_OBSERVE,
    OPT_LEVEL,
    OPT_ROUTES,
    OPT_NO_SANDBOX,
    OPT_VERSION,
    OPT_HELP
};

static const struct option long_options[] = {
    {"config", required_argument, NULL, 'c'},
    {"check-config", no_argument, NULL, OPT_CHECK},
    {"state-dir", required_argument, NULL, OPT_STATE},
    {"listen", required_argument, NULL, OPT_LISTEN},
    {"http", required_argument, NULL, OPT_HTTP},
    {"observe", no_argument, NULL, OPT_OBSERVE},
    {"log-level", required_argument, NULL, OPT_LEVEL},
    {"print-routes", no_argument, NULL, OPT_ROUTES},
    {"no-sandbox", no_argument, NULL, OPT_NO_SANDBOX},
    {"version", no_argument, NULL, OPT_VERSION},
    {"help", no_argument, NULL, OPT_HELP},
    {NULL, 0, NULL, 0},
};

static int option_text(char *field, size_t size, const char *name, struct text *errors)
{
    if (text_copy(field, size, optarg) == 0)
        return 0;
    text_printf(errors, "--%s: longer than %zu bytes\n", name, size - 1);
    return WEIR_E_INVALID;
}

/* One option onto the configuration. 0, an error (said in @errors), or 1: done, exit well. */
static int apply_option(struct server_config *c, int option, size_t *listens, struct text *errors)
{
    enum log_level level;
    switch (option) {
    case OPT_STATE:
        return option_text(c->state_dir, sizeof(c->state_dir), "state-dir", errors);
    case OPT_LISTEN:
        if (*listens >= sizeof(c->control_listen) / sizeof(c->control_listen[0])) {
            text_append_str(errors, "--listen: at most 8\n");
            return WEIR_E_INVALID;
        }
        c->control_listen_count = *listens + 1;
        return option_text(c->control_listen[(*listens)++], sizeof(c->control_listen[0]), "listen",
                           errors);
    case OPT_HTTP:
        return option_text(c->http_listen, sizeof(c->http_listen), "http", errors);
    case OPT_OBSERVE:
        c->observe = true;
        return 0;
    case OPT_LEVEL:
        if (log_level_parse(optarg, &level) == 0) {
            c->log_level = level;
            return 0;
        }
        text_printf(errors, "--log-level: found \"%s\", expected error, warning, info or debug\n",
                    optarg);
        return WEIR_E_INVALID;
    case OPT_NO_SANDBOX:
        c->sandbox = false;
        return 0;
    case OPT_ROUTES:
        app_print_routes(stdout);
        return 1;
    case OPT_VERSION:
        puts("weir-server " WEIR_VERSION);
        return 1;
    case OPT_HELP:
        usage(stdout);
        return 1;
    default: /* 'c' and --check-config were read in the first pass */
        return 0;
    }
}

int server_options_read(int argc, char **argv, struct server_config *c,
                        struct server_options *o, struct text *errors)
{
    int option;
    while ((option = getopt_long(argc, argv, "c:", long_options, NULL)) != -1) {
        if (option == '?')
            return WEIR_E_INVALID;
        if (option == 'c')
            o->config_path = optarg;
        if (option == OPT_CHECK)
            o->check_only = true;
    }
    if (optind < argc) {
        text_printf(errors, "\"%s\": no such argument; see weir-server --help\n", argv[optind]);
        return WEIR_E_INVALID;
    }
    int r = 0;
    if (o->config_path == NULL && access("/etc/weir/server.conf", R_OK) == 0)
        o->config_path = "/etc/weir/server.conf";
    if (o->config_path != NULL)
        r = server_config_load(c, o->config_path, errors);
    if (r < 0 && errors->len == 0)
        text_printf(errors, "%s: %s\n", o->config_path, weir_strerror(r));
    size_t listens = 0;
    optind = 1;
    while ((option = getopt_long(argc, argv, "c:", long_options, NULL)) != -1) {
        int s = apply_option(c, option, &listens, errors);
        if (s != 0) {
            server_config_forget(c);
            return s;
        }
    }
    return r < 0 ? r : server_config_check(c, errors);
}
