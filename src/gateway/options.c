/* SPDX-License-Identifier: Apache-2.0 */
#include "gateway/options.h"

#include <config.h> /* the build's; "config.h" would be the gateway's */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/log.h"
#include "base/units.h"
#include "gateway/config_tls.h"

#define DEFAULT_SERVER_PORT 7400u
#define DEFAULT_NBD_PORT 10809u

static void usage(FILE *out)
{
    fputs("usage: weir-gateway --listen ADDR --target URI [options]\n"
          "       weir-gateway --config FILE [options]\n"
          "\n"
          "Relay NBD between hosts and a target, meter each stream, and hold it to its limits.\n"
          "\n"
          "  --listen ADDR      where hosts connect: 127.0.0.1:10810, [::1]:10810 or\n"
          "                     unix:/run/x.sock (repeatable; port 0 takes a free one)\n"
          "  --target URI       where the storage is: nbd://HOST[:PORT][/EXPORT] or\n"
          "                     nbd+unix:///[EXPORT]?socket=PATH; nbds:// is with TLS\n"
          "  --config FILE      listeners, targets, volumes and limits from a file\n"
          "  --check-config [FILE]  read everything, say what is wrong, start nothing\n"
          "  --server ADDR      the SLA server's control address, HOST[:7400] or unix:PATH\n"
          "                     (repeatable)\n"
          "  --key-file FILE    the local key of that server\n"
          "  --token TOKEN      enrolment token, for the first contact with a server\n"
          "  --name NAME        this gateway's name (default: the machine's)\n"
          "  --state-dir DIR    identity and last agreed controls\n"
          "                     (default: " GATEWAY_STATE_DIR ")\n"
          "  --socket PATH      local socket for `weir top --gateway`\n"
          "                     (default: STATE-DIR/gateway.sock)\n"
          "  --max-hold TIME    longest that one I/O is held, such as 10s or 500ms\n"
          "  --log-level LEVEL  error, warning, info or debug\n"
          "  --announce         say on the network where a server may dial this gateway, by\n"
          "                     avahi-publish-service(1), and do nothing else\n"
          "  --upgrade          have the gateway that runs (found by --config, --state-dir or\n"
          "                     --socket) go on as the program now installed\n"
          "  --single-process   no manager and no worker, one process (for debuggers)\n"
          "  --no-sandbox       keep all system calls, for debugging\n"
          "  --version          print the version\n"
          "  --help             print this\n",
          out);
}

enum {
    OPT_LISTEN = 256,
    OPT_TARGET,
    OPT_SERVER,
    OPT_NAME,
    OPT_STATE_DIR,
    OPT_SOCKET,
    OPT_KEY_FILE,
    OPT_TOKEN,
    OPT_CONFIG,
    OPT_CHECK_CONFIG,
    OPT_LOG_LEVEL,
    OPT_MAX_HOLD,
    OPT_SINGLE,
    OPT_NO_SANDBOX,
    OPT_UPGRADE,
    OPT_ANNOUNCE,
    OPT_VERSION,
};

static const struct option long_options[] = {
    {"listen", required_argument, NULL, OPT_LISTEN},
    {"target", required_argument, NULL, OPT_TARGET},
    {"server", required_argument, NULL, OPT_SERVER},
    {"name", required_argument, NULL, OPT_NAME},
    {"state-dir", required_argument, NULL, OPT_STATE_DIR},
    {"socket", required_argument, NULL, OPT_SOCKET},
    {"key-file", required_argument, NULL, OPT_KEY_FILE},
    {"token", required_argument, NULL, OPT_TOKEN},
    {"config", required_argument, NULL, OPT_CONFIG},
    {"check-config", no_argument, NULL, OPT_CHECK_CONFIG},
    {"log-level", required_argument, NULL, OPT_LOG_LEVEL},
    {"max-hold", required_argument, NULL, OPT_MAX_HOLD},
    {"announce", no_argument, NULL, OPT_ANNOUNCE},
    {"upgrade", no_argument, NULL, OPT_UPGRADE},
    {"single-process", no_argument, NULL, OPT_SINGLE},
    {"no-sandbox", no_argument, NULL, OPT_NO_SANDBOX},
    {"version", no_argument, NULL, OPT_VERSION},
    {"help", no_argument, NULL, 'h'},
    {NULL, 0, NULL, 0},
};

static int option_append(const char **list, size_t *count, size_t max, const char *what)
{
    if (*count == max) {
        fprintf(stderr, "weir-gateway: at most %zu times %s\n", max, what);
        return WEIR_E_FULL;
    }
    list[(*count)++] = optarg;
    return 0;
}

/* One option. 0: go on, 1: printed what was asked for, negative: wrong. */
static int option_take(struct options *o, int opt)
{
    switch (opt) {
    case OPT_LISTEN:
        return option_append(o->listen, &o->listen_count, CONFIG_MAX_LISTENERS, "--listen");
    case OPT_SERVER:
        return option_append(o->servers, &o->server_count, CONFIG_MAX_SERVERS, "--server");
    case OPT_TARGET:
        o->target = optarg;
        return 0;
    case OPT_NAME:
        o->name = optarg;
        return 0;
    case OPT_STATE_DIR:
        o->state_dir = optarg;
        return 0;
    case OPT_SOCKET:
        o->socket_path = optarg;
        return 0;
    case OPT_KEY_FILE:
        o->key_file = optarg;
        return 0;
    case OPT_TOKEN:
        o->token = optarg;
        return 0;
    case OPT_CONFIG:
        o->config = optarg;
        return 0;
    case OPT_CHECK_CONFIG:
        o->check = true;
        return 0;
    case OPT_LOG_LEVEL:
        o->log_level = optarg;
        return 0;
    case OPT_MAX_HOLD:
        o->max_hold = optarg;
        return 0;
    case OPT_ANNOUNCE:
        o->announce = true;
        return 0;
    case OPT_UPGRADE:
        o->upgrade = true;
        return 0;
    case OPT_SINGLE:
        o->single = true;
        return 0;
    case OPT_NO_SANDBOX:
        o->no_sandbox = true;
        return 0;
    case OPT_VERSION:
        puts("weir-gateway " WEIR_VERSION);
        return 1;
    case 'h':
        usage(stdout);
        return 1;
    default:
        fputs("Try 'weir-gateway --help'.\n", stderr);
        return WEIR_E_INVALID;
    }
}

int options_parse(struct options *o, int argc, char **argv)
{
    o->argv = argv;
    for (int opt; (opt = getopt_long(argc, argv, "h", long_options, NULL)) != -1;) {
        int ret = option_take(o, opt);
        if (ret != 0)
            return ret;
    }
    if (o->check && !o->config && optind < argc)
        o->config = argv[optind++];
    if (optind < argc) {
        fprintf(stderr, "weir-gateway: unexpected argument \"%s\". Try 'weir-gateway --help'.\n",
                argv[optind]);
        return WEIR_E_INVALID;
    }
    return 0;
}

/* --- configuration --- */

static void wrong(struct text *errors, const char *option, const char *found, const char *expected)
{
    text_printf(errors, "%s: found \"%s\", expected %s\n", option, found, expected);
}

static void config_copy(struct text *errors, const char *option, char *to, size_t size,
                        const char *from)
{
    if (from && text_copy(to, size, from) < 0)
        text_printf(errors, "%s: at most %zu characters\n", option, size - 1);
}

/* One target and its listeners, all called "default", from options alone. */
static void config_from_options(struct gateway_config *c, const struct options *o,
                                struct text *errors)
{
    const char *expected = "";
    if (!o->target || o->listen_count == 0) {
        text_printf(errors,
                    "%s. Say where hosts connect and where the storage is, as in\n"
                    "  weir-gateway --listen 127.0.0.1:10810 --target nbd://127.0.0.1:10809\n"
                    "or give a file with --config FILE\n",
                    !o->target && o->listen_count == 0 ? "neither a file nor --listen and --target"
                    : o->target                        ? "--target without --listen"
                                                       : "--listen without --target");
        return;
    }
    struct target_config *t = &c->targets[0];
    c->target_count = 1;
    t->index = 0;
    config_copy(errors, "--target", t->name, sizeof(t->name), "default");
    config_copy(errors, "--target", t->uri, sizeof(t->uri), o->target);
    if (addr_parse_nbd_uri(o->target, &t->addr, t->export_name, sizeof(t->export_name),
                           &expected) < 0)
        wrong(errors, "--target", o->target, expected);
    struct config_fault fault;
    struct tls_validity when;
    t->tls_on = addr_uri_wants_tls(o->target);
    if (errors->len == 0 && config_tls_target(t, &when, &fault) < 0)
        wrong(errors, "--target", o->target, fault.words);
    for (size_t i = 0; i < o->listen_count; i++) {
        struct listener_config *l = &c->listeners[c->listener_count++];
        l->target = t;
        l->unix_mode = 0660;
        if (i == 0)
            config_copy(errors, "--listen", l->name, sizeof(l->name), "default");
        else
            snprintf(l->name, sizeof(l->name), "default-%zu", i + 1);
        if (addr_parse(o->listen[i], DEFAULT_NBD_PORT, &l->addr, &expected) < 0)
            wrong(errors, "--listen", o->listen[i], expected);
    }
}

/* What options say beside or over the file. */
static void config_override(struct gateway_config *c, const struct options *o, struct text *errors)
{
    const char *expected = "";
    if (o->server_count > 0)
        c->server_count = 0;
    for (size_t i = 0; i < o->server_count; i++) {
        if (addr_parse(o->servers[i], DEFAULT_SERVER_PORT, &c->servers[c->server_count++],
                       &expected) < 0)
            wrong(errors, "--server", o->servers[i], expected);
    }
    config_copy(errors, "--name", c->name, sizeof(c->name), o->name);
    config_copy(errors, "--state-dir", c->state_dir, sizeof(c->state_dir), o->state_dir);
    config_copy(errors, "--socket", c->socket_path, sizeof(c->socket_path), o->socket_path);
    config_copy(errors, "--key-file", c->key_file, sizeof(c->key_file), o->key_file);
    config_copy(errors, "--token", c->token, sizeof(c->token), o->token);
    if (o->max_hold && units_parse_duration_ns(o->max_hold, &c->max_hold_ns, &expected) < 0)
        wrong(errors, "--max-hold", o->max_hold, expected);
    c->sandbox = c->sandbox && !o->no_sandbox;
    enum log_level level;
    if (o->log_level) {
        if (log_level_parse(o->log_level, &level) < 0)
            wrong(errors, "--log-level", o->log_level, "error, warning, info or debug");
        else
            c->log_level = level;
    }
}

/* Read and check everything. Errors are in @errors; empty: all is well. */
static void config_read(struct gateway_config *c, const struct options *o, struct text *errors)
{
    gateway_config_init(c);
    if (!o->config) {
        config_from_options(c, o, errors);
    } else if (o->target || o->listen_count > 0) {
        text_append_str(errors, "--listen and --target do not go with --config: say them in the "
                                "file as [listener NAME] and [target NAME]\n");
    } else {
        int ret = gateway_config_load(c, o->config, errors);
        if (ret < 0 && errors->len == 0)
            text_printf(errors, "%s: %s\n", o->config, weir_strerror(ret));
    }
    if (errors->len == 0)
        config_override(c, o, errors);
    if (errors->len == 0) {
        int ret = gateway_config_check(c, errors);
        if (ret < 0 && errors->len == 0)
            text_printf(errors, "%s\n", weir_strerror(ret));
    }
}

struct gateway_config *options_config(const struct options *o, struct text *errors)
{
    struct gateway_config *c = calloc(1, sizeof(*c));
    if (!c) {
        text_append_str(errors, "out of memory\n");
        return NULL;
    }
    config_read(c, o, errors);
    if (errors->len == 0)
        return c;
    gateway_config_fini(c);
    free(c);
    return NULL;
}

void options_config_free(struct gateway_config *c)
{
    if (!c)
        return;
    gateway_config_fini(c);
    free(c);
}
