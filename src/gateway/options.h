/* SPDX-License-Identifier: Apache-2.0 */
/* weir-gateway's command line, and the configuration that follows from it and the file it names. */
#ifndef WEIR_GATEWAY_OPTIONS_H
#define WEIR_GATEWAY_OPTIONS_H
#include <stdbool.h>
#include <stddef.h>

#include "base/text.h"
#include "gateway/config.h"

#define GATEWAY_STATE_DIR "/var/lib/weir-gateway" /* unless told otherwise */

/* As given; strings are argv's. */
struct options {
    const char *listen[CONFIG_MAX_LISTENERS];
    size_t listen_count;
    const char *target, *name, *state_dir, *socket_path, *key_file, *token, *config, *log_level;
    const char *servers[CONFIG_MAX_SERVERS];
    size_t server_count;
    const char *max_hold;
    bool no_sandbox;
    bool check;
    bool announce; /* say on the network where a server may dial, and nothing else */
    bool upgrade; /* ask the gateway that runs to start this program in its place */
    char **argv;  /* as the program was started */
    bool single; /* no manager: one process, for debuggers and profilers */
};

/* What options_config may have to say of a file, at most. */
#define OPTIONS_ERRORS_MAX (256u * 1024u)

/* 0: go on; 1: what was asked for (--help, --version) is printed; negative: said what is wrong.
 * Main thread only (getopt). */
int options_parse(struct options *o, int argc, char **argv);

/* Read and check everything that @o names. NULL: the reasons are in @errors, one a line. Freed with
 * options_config_free, which takes NULL. */
struct gateway_config *options_config(const struct options *o, struct text *errors);
void options_config_free(struct gateway_config *c);

#endif
